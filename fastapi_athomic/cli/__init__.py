"""The command line `fastapi-athomic`. Each area of commands (`dlq`) is a module.

Takes arguments; gives an exit status. Commands import the app to learn its settings and handlers, and start no
consumer. An area's `add_commands` adds its parsers, and sets `run`: the coroutine function that runs a command.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from ..exceptions import AthomicError
from . import dlq
from .terminal import FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit status: 0, 1 after an error, 2 if the user did not agree."""
    options = _parser().parse_args(arguments)
    try:
        status: int = asyncio.run(options.run(options))
        return status
    except AthomicError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastapi-athomic", description="Tools for the consumers of a FastAPI app.")
    areas = parser.add_subparsers(dest="area", required=True)
    dlq.add_commands(areas)
    return parser
