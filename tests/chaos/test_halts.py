"""Which repeats does a halt excuse? Without a broker."""

from __future__ import annotations

import pytest

from .halts import Commits, Halt, Handling, Place, needless

WHERE = {("k", number): Place(0, number) for number in range(4)}
HALT = Halt(process=1, asked=100, stopped=110, commits=Commits({0: 1}, frozenset({Place(0, 2)})))
"""What is done: 0, which is below the committed offset, and 2, which is noted above it."""


def handling(process: int, began: int, ended: int, sequence: int) -> Handling:
    return Handling(began, ended, process, "k", sequence)


@pytest.mark.parametrize(
    ("of_the_halted", "repeats"),
    [
        pytest.param(handling(1, 50, 60, 1), 0, id="done and not committed"),
        pytest.param(handling(1, 50, 60, 0), 1, id="committed"),
        pytest.param(handling(1, 50, 60, 2), 1, id="noted above the committed offset"),
        pytest.param(handling(1, 90, 300, 0), 0, id="in flight"),
        pytest.param(handling(1, 250, 300, 3), 1, id="begun after it"),
        pytest.param(handling(3, 50, 60, 1), 1, id="of a process that went on"),
    ],
)
def test_p05_only_what_was_in_flight_or_not_committed_may_be_repeated(of_the_halted: Handling, repeats: int) -> None:
    once = handling(2, 50, 60, 3 - of_the_halted.sequence)
    other = handling(2, 200, 220, of_the_halted.sequence)
    assert needless([of_the_halted, once], [HALT], WHERE) == 0
    assert needless([of_the_halted, once, other], [HALT], WHERE) == repeats
    assert needless([of_the_halted, once, other, other], [HALT], WHERE) == repeats + 1


def test_p05_what_was_done_and_not_committed_is_counted() -> None:
    handlings = [handling(1, 50, 60, number) for number in range(4)]
    assert HALT.uncommitted(handlings, WHERE) == 2, "1 and 3"
    assert HALT.uncommitted([*handlings[:3], handling(1, 50, 105, 3)], WHERE) == 1, "3 was in flight"
    assert HALT.uncommitted([handling(2, 50, 60, 1)], WHERE) == 0, "of another process"
