from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Command, Write
from tests.unit.cli.test_topics import SHOP


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "bill"],
        ["show", "bill", "--offset", "0"],
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
