"""What a command says to the person or program that called it, and what it asks a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..failures.dead_letters import Progress

OK, FAILED, REFUSED = 0, 1, 2
"""Exit statuses: done, an error, a person said no."""


def agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print("nobody to ask: say --yes", file=sys.stderr)
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def progress_bar(total: int) -> Iterator[Progress | None]:
    """A bar, where somebody looks and the extra `cli` is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=total, unit="msg", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar.update


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
