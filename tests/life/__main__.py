"""`scripts/life`: lets a service live an ordinary life for as long as you like."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterable
from itertools import chain

from .events import EVENTS
from .handlers import TOPICS
from .life import drawn, lives

SEED_VARIABLE = "ATHOMIC_TEST_SEED"


def main() -> int:
    options = _parser().parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    say(f"seed {seed}")
    chance = random.Random(seed)
    biography = lives(_plans(options, chance), chance, say, options.without)
    say(f"\n{biography}\nseed {seed}")
    for finding in biography.findings:
        say(f"WRONG  {finding}")
    return 1 if biography.findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/life", description="Lets a service live, with events drawn at random from a seed."
    )
    parser.add_argument("--hours", type=float, default=0.1, help="how long (default 0.1)")
    parser.add_argument("--seed", type=int, default=os.environ.get(SEED_VARIABLE), help=f"or {SEED_VARIABLE}")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=sorted(EVENTS), metavar="EVENT", help="draw from these"
    )
    parser.add_argument(
        "--each", action="store_true", help="each event once, in a life of its own, however long it takes"
    )
    parser.add_argument("--without", nargs="+", default=[], choices=sorted(TOPICS), metavar="HANDLER")
    return parser


def _plans(options: argparse.Namespace, chance: random.Random) -> Iterable[Iterable[str]]:
    if options.each:
        return [[name] for name in options.only or EVENTS]
    seconds = options.hours * 3600
    if options.only:
        return drawn(chance, seconds, options.only)
    usual = [name for name, event in EVENTS.items() if event.weight]
    return (chain(["birth"], events) for events in drawn(chance, seconds, usual))


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command line prints


if __name__ == "__main__":
    sys.exit(main())
