"""What commands print, and what they ask the user."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from ..failures.settling import Progress

OK, FAILED, REFUSED = 0, 1, 2
"""Exit statuses: done, an error, the user did not agree."""
INTERRUPTED = 130
"""Exit status after Ctrl+C, as shells have it: 128 and the number of the signal."""
CUT_OFF = 141
"""Exit status if nobody reads the output to its end (`| head`), as shells have it for SIGPIPE."""


def moment(text: str) -> datetime:
    """The time that an option names, for argparse."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time: write 2026-11-28T09:00:00Z") from None
    if found.tzinfo is None:
        raise ArgumentTypeError(f"{text!r} needs a time zone: {text}Z is UTC")
    return found


def agreed(question: str) -> bool:
    """Whether the user says yes. Without a terminal there is nobody to ask, which is a no."""
    if not sys.stdin.isatty():
        print("there is nobody to ask: pass --yes", file=sys.stderr)
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def progress_bar(total: int) -> Iterator[Progress | None]:
    """Yields a function to call with each number of messages that is done, for a progress bar on a terminal.

    Yields None without the extra `cli`.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=total, unit="msg", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar.update


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns that are as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: object) -> None:
    """Prints the value for programs."""
    print(json.dumps(value, indent=2))
