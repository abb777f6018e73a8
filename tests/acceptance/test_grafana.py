"""The dashboard in deploy/grafana asks Prometheus only for what there is, and gets an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apps import running
from tests.support.promtool import Promtool, Scrapes, names, series
from tests.unit.exporters.test_metric_names import new_example, scraped

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text())
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ONLY_IN_TROUBLE = {"Reasons", "Blocked and paused partitions"}
"""Panels that are empty while all is well."""
WANTED = {
    *("Throughput", "Lag in messages", "Lag in seconds", "Attempts that failed", "Dead letters", "In flight"),
    *("Restarts of consumers", "Health of each consumer", "Event loop lag"),
}


def queries() -> Iterator[tuple[str, str]]:
    """Titles of panels, and what they ask."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def filled_in(query: str) -> str:
    """As Grafana sends it, with everything chosen."""
    values = {name: ".*" for name, each in VARIABLES.items() if each.get("allValue") == ".*"}
    values["range"] = VARIABLES["range"]["current"]["value"]
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


@pytest.fixture
async def answers() -> list[str]:
    """What an app answers to two scrapes, with messages handled between them."""
    athomic = new_example()
    async with running(athomic):
        before = await scraped(athomic)
        for message in ("good", "bad"):
            await athomic.publish("t", message)
        await athomic.drain()
        return [before, await scraped(athomic)]


def test_every_query_is_right_for_prometheus(promtool: Promtool, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": filled_in(query)} for number, (_, query) in enumerate(queries())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool.check(path)


async def test_every_query_asks_for_metrics_that_there_are(answers: list[str]) -> None:
    there = names(answers) | {f"athomic_{name}" for name in ("health_reason", "consumer_health_reason")}
    variables = [each["query"]["query"] for each in VARIABLES.values() if each["type"] == "query"]
    asked = [name for query in [*variables, *(query for _, query in queries())] for name in used(query)]
    assert len(asked) > 30
    assert {*asked} - there == set()


def used(query: str) -> list[str]:
    found = re.findall(r"\bathomic_\w+", query)
    assert found, query
    return found


async def test_every_panel_shows_something_for_an_app_that_works(promtool: Promtool, answers: list[str]) -> None:
    before, after = answers
    inputs = series(Scrapes(before, 10), Scrapes(after, 3), job="shop", instance="shop:8000")
    full = [(title, filled_in(query)) for title, query in queries() if title not in ONLY_IN_TROUBLE]
    tests = [
        {"expr": f"count({query}) > bool 0", "eval_time": "12m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for _, query in full
    ]
    assert len(tests) > 25
    promtool.test([], {"interval": "1m", "input_series": inputs, "promql_expr_test": tests})


async def test_figures_are_those_of_the_app(promtool: Promtool, answers: list[str]) -> None:
    before, after = answers
    inputs = series(Scrapes(before, 10), Scrapes(after, 3), job="shop", instance="shop:8000")
    asked = {title: filled_in(query) for title, query in queries() if title != "Dead letters"}
    expected = {
        f"ceil({asked['Attempts that failed']}) > 0": {'{handler="h"}': 1},
        asked["Health of each consumer"]: {
            **{f'{{handler="{handler}",instance_id="shop-1"}}': 0 for handler in ("h", "o")},
        },
        asked["Processes that reach the broker"]: {"{}": 1},
        asked["Lag in messages"]: {f'{{handler="{handler}",group="g"}}': 0 for handler in ("h", "o")},
    }
    tests = [
        {
            "expr": query,
            "eval_time": "12m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for query, samples in expected.items()
    ]
    promtool.test([], {"interval": "1m", "input_series": inputs, "promql_expr_test": tests})


def test_panels_are_what_operators_look_for_and_lie_side_by_side() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert {*titles} >= WANTED
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len({*ids}) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_asks_the_data_source_that_was_chosen_and_obeys_all_variables() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    for panel in PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]
    for _, query in queries():
        for selector in re.findall(r"athomic_\w+(\{[^}]*\})?", query):
            assert {"$job", "$instance"} <= {*re.findall(r"\$\w+", selector)}, query
            if "athomic_consumer" in query:
                assert "$handler" in query, query
                assert "$group" in query, query
    assert {*VARIABLES} == {"datasource", "job", "group", "handler", "instance", "range"}
