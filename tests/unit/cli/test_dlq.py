from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

import pytest

from fastapi_athomic import SettlingReport
from fastapi_athomic.cli import main
from fastapi_athomic.cli.remote_letters import print_report
from tests.unit.cli.conftest import Command, Write
from tests.unit.cli.test_topics import SHOP


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "bill"],
        ["show", "bill", "--partition", "0", "--offset", "0"],
        ["redrive", "bill", "--all", "--yes"],
        ["discard", "bill", "--all", "--yes", "--reason", "old"],
    ],
)
def test_memory_of_another_process_is_not_taken_for_empty(write: Write, command: Command, arguments: list[str]) -> None:
    write(dlq1=SHOP)
    answer = command("dlq", *arguments, "--app", "dlq1")
    assert (answer.status, answer.out) == (1, "")
    assert "lives inside the app's own process: this process sees nothing of it" in answer.err
    assert "0 dead letters" not in answer.err
    assert "Set ATHOMIC_BROKER_URL to the broker that the app uses" in answer.err
    assert "only the running app can answer (give its --url, or use athomic.dead_letters in a route)" in answer.err


@pytest.mark.parametrize(
    ("command", "report", "said"),
    [
        ("redrive", SettlingReport(selected=2, settled=2), "2 of 2 dead letters sent back\n"),
        ("discard", SettlingReport(selected=1, settled=1), "1 of 1 dead letter discarded\n"),
        ("redrive", SettlingReport(selected=1, settled=1, dry_run=True), "1 of 1 dead letter would be sent back\n"),
        ("redrive", SettlingReport(dry_run=True), "there are no dead letters to send back\n"),
        ("discard", SettlingReport(), "there are no dead letters to discard\n"),
    ],
)
def test_a_report_says_what_was_done(
    command: str, report: SettlingReport, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(asdict(report), Namespace(command=command, json=False))
    assert capsys.readouterr().out == said


def test_help_says_what_show_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dlq", "show", "bill", "--app", "dlq1", "--offset", "0"])
    assert "required: --partition" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dlq", "show", "--help"])
    assert "as `fastapi-athomic handlers` lists it" in capsys.readouterr().out
