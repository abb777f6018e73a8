"""What type checkers say of a user's app: nothing of one that is right, and the line of each wrong usage."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from httpx import ASGITransport, AsyncClient

from fastapi_athomic import AthomicSettings

from ..support.apps import eventually
from .typed_app.database import InMemory
from .typed_app.main import create_app
from .typed_app.models import Order, OrderEvent
from .typed_app.order_checks import check_events, check_that_a_failure_is_retried, check_that_an_order_is_billed

HERE = Path(__file__).parent
WRONG = "wrong_usage.py"
SECONDS = 300
"""How long one type checker may take on a busy machine, with nothing in its cache."""

Findings = dict[int, str]
"""What was found, by line of the wrong usages."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project, outside of this one: no settings of ours count for it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(HERE / "typed_app", project / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / WRONG, project)
    settings = {"typeCheckingMode": "standard", "strict": ["app"]}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    return project


def check(project: Path, *command: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


def mypy(project: Path) -> Findings:
    output = check(project, "mypy", "--strict", "--config-file=", "--cache-dir=cache", "app", WRONG)
    errors = [re.fullmatch(r"(.+):(\d+): error: (.*)", line) for line in output.splitlines() if ": error: " in line]
    assert output.rstrip().endswith("(checked 9 source files)"), output
    return gathered([(found[1], int(found[2]), found[3]) for found in errors if found is not None])


def pyright(project: Path) -> Findings:
    report = json.loads(check(project, "pyright", "--outputjson", "--pythonpath", sys.executable, "app", WRONG))
    assert report["summary"]["filesAnalyzed"] == 9, report
    return gathered(
        [
            (Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"])
            for found in report["generalDiagnostics"]
        ]
    )


def gathered(found: list[tuple[str, int, str]]) -> Findings:
    elsewhere = [finding for finding in found if finding[0] != WRONG]
    assert elsewhere == [], "the app is right"
    findings: Findings = {}
    for _, line, message in found:
        findings[line] = f"{findings.get(line, '')}{message}\n"
    return findings


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("checker", "unawaited", "misspelt"),
    [
        (mypy, 'Value of type "Coroutine', 'Unexpected keyword argument "concurency"'),
        (pyright, 'use "await"', 'No parameter named "concurency"'),
    ],
    ids=["mypy", "pyright"],
)
def test_a_type_checker_finds_each_wrong_usage_and_nothing_in_a_users_app(
    checker: Callable[[Path], Findings], unawaited: str, misspelt: str, project: Path
) -> None:
    lines = (HERE / WRONG).read_text().splitlines()
    wrong = {number: line.partition("# wrong: ")[2] for number, line in enumerate(lines, 1) if "# wrong: " in line}
    findings = checker(project)
    assert findings.keys() == wrong.keys()
    assert [wrong[number] for number, message in findings.items() if unawaited in message] == ["not awaited"] * 3
    assert [wrong[number] for number, message in findings.items() if misspelt in message] == ["misspelt"] * 2


def test_the_tests_of_that_app_pass() -> None:
    check_that_an_order_is_billed()
    check_that_a_failure_is_retried()
    asyncio.run(check_events())


async def test_that_app_works() -> None:
    app = create_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}"))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://app") as web,
    ):
        await app.state.athomic.wait_until_ready()
        answer = await web.post("/orders", json={"customer": "ann", "amount": 12.5})
        assert answer.status_code == 202
        order = Order(**answer.json())
        event = OrderEvent(order_id=order.order_id, sequence=1, status="paid")
        answer = await web.post(f"/orders/{order.order_id}/events", json=[event.model_dump(mode="json")])
        assert answer.json() == 1
        await eventually(lambda: len(InMemory.rows) == 5)
        await app.state.athomic.drain()
    kinds = {type(row): row for row in InMemory.rows}
    assert kinds[tuple] == (order, "shop", None, 1)  # billed
    assert kinds[str] == str(order.order_id)  # audited
    assert kinds[dict] == {"order_id": str(order.order_id)}  # mailed
    assert kinds[OrderEvent] == event  # shipped
    assert isinstance(order.order_id, UUID)
