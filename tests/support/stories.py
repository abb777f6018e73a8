"""What processes answer to scrapes from state to state, and which alerts fire then."""

from __future__ import annotations

import re
from pathlib import Path

from httpx import ASGITransport, AsyncClient

from fastapi_athomic import Athomic
from tests.support.promtool import Promtool, Scrapes, series

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
LATENESS = re.compile(r"^(athomic_event_loop_lag_seconds\{.*\}) .*$", re.MULTILINE)
LONG = 80
"""Minutes in one state: longer than any rule waits."""


class Story:
    """What one process answers to scrapes, from state to state."""

    def __init__(self, **labels: str) -> None:
        self.scrapes: list[Scrapes] = []
        self.labels = {"job": "shop", "instance": "shop:8000", **labels}

    async def scrape(self, athomic: Athomic, minutes: int = LONG, *, late: bool = False) -> None:
        """The same answer each minute. Unless `late`, the event loop counts as in time: machines of tests are busy."""
        async with AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
            answer = await http.get("/consumers/metrics")
        assert answer.status_code == 200
        text = answer.text if late else LATENESS.sub(r"\1 0.0", answer.text)
        self.scrapes.append(Scrapes(text, minutes))

    @property
    def minutes(self) -> int:
        return sum(scrape.times for scrape in self.scrapes)


def expect(promtool: Promtool, *stories: Story, **fires: dict[int, set[str]]) -> None:
    """`at`: which alerts fire at these minutes."""
    promtool.test(
        [RULES],
        {
            "interval": "1m",
            "input_series": [each for story in stories for each in series(*story.scrapes, **story.labels)],
            "promql_expr_test": [
                {
                    "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
                }
                for minute, names in fires["at"].items()
            ],
        },
    )
