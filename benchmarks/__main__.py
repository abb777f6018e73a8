"""Measures all figures on both brokers into benchmarks/results/, or only some: `scripts/bench f1 --broker mock`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from typing import get_args

from benchmarks.builds import BEFORE, UnknownRevisionError, built
from benchmarks.figures import BROKER_OF, EVERYDAY, FIGURES
from benchmarks.report import RESULTS, NoFigureError, Table, machine, publish, publish_everyday, summarize
from benchmarks.runs import BrokerName, Options
from benchmarks.workload import Keys


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"{', '.join(FIGURES)}; without one: all")
    parser.add_argument("--broker", choices=get_args(BrokerName), help="default: both, one after the other")
    parser.add_argument("--keys", choices=get_args(Keys), help="default: both, one after the other (F1 to F4, F6)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of HTTP load a run (F5, E6)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times as many messages (E1, E2: seconds; E3: restarts)"
    )
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help=f"measures the package of that revision, too (default: {BEFORE} for E1 to E6, else none)",
    )
    parser.add_argument("--no-files", action="store_true", help="print only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends brokers and contenders too
    if unknown := set(options.figures) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    chosen = options.figures or list(FIGURES)
    try:
        everyday = built(options.against or BEFORE) if EVERYDAY.keys() & set(chosen) else None
        against = built(options.against) if options.against else None
    except UnknownRevisionError as unknown_revision:
        parser.error(str(unknown_revision))
    tables = []
    for name in chosen:
        brokers: Sequence[BrokerName] = [options.broker] if options.broker else get_args(BrokerName)
        for broker in BROKER_OF.get(name, brokers):
            keys: Sequence[Keys] = [options.keys] if options.keys else get_args(Keys)
            other = everyday if name in EVERYDAY else against
            began = time.monotonic()
            wanted = Options(broker, options.rounds, keys, options.seconds, options.scale, other)
            try:
                for table in FIGURES[name].tables(name, wanted):
                    show(table, began, write=not options.no_files)
                    tables.append(table)
            except NoFigureError as problem:  # of a whole figure; that of one contender is in its table
                sys.exit(f"{name}: {problem}")
        if options.no_files:
            continue
        if name in EVERYDAY:
            publish_everyday(list(EVERYDAY))
        if not options.figures:  # after each figure: a run takes an hour and a half
            (RESULTS / "README.md").write_text(summarize(tables))
            publish(tables)


def show(table: Table, began: float, *, write: bool) -> None:
    print(f"{table.markdown()}\n{machine()} Took {time.monotonic() - began:.0f} s.\n", flush=True)
    if write:
        table.write(RESULTS)


if __name__ == "__main__":
    main()
