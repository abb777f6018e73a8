"""The command line `fastapi-athomic`: areas of commands, each in a module of its own.

A command gets its parsed arguments and gives an exit status. It imports the app to learn its settings and handlers, and
starts no consumer. An area (`dlq`) adds its commands in `add_commands`, and each names the function that runs it.
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
    """The entry point. Gives the exit status: 0, 1 for an error, 2 where a person said no."""
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
