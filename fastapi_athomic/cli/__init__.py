"""The command line `fastapi-athomic`. Each command, and each area of commands (`dlq`), is a module.

Takes arguments; gives an exit status. Some commands import the app to learn its settings and handlers, and start no
consumer; only `run` does, in processes of its own. Others ask a running service over HTTP (`service`, `remote`). A
module's `add_commands` adds its parsers, and sets `run`: the coroutine function that runs a command.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ..exceptions import AthomicError
from . import asyncapi, check, dlq, handlers, remote, run, topics
from .service import add_service_options
from .terminal import CUT_OFF, FAILED, INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit status: 0, 1 after an error, 2 if the user did not agree."""
    options = _parser().parse_args(arguments)
    try:
        if options.url and not options.takes_url:
            raise AthomicError(f"{options.area} looks into the code: give it --app, and no --url")
        status: int = asyncio.run(options.run(options))
        sys.stdout.flush()
        return status
    except AthomicError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # what is left in the buffer would be written, and fail again, at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastapi-athomic",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # --version stays on one line
        description="Tools for the consumers of a FastAPI app: of its code (--app), or of a running service (--url).",
        epilog="fastapi-athomic COMMAND --help explains a command. `python -m fastapi_athomic` is the same.",
    )
    parser.add_argument("--version", action="version", version=_versions())
    add_service_options(parser, default=None)
    parser.set_defaults(takes_url=False)
    areas = parser.add_subparsers(dest="area", required=True, metavar="COMMAND")
    for each in (check, handlers, topics, asyncapi, dlq, remote, run):
        each.add_commands(areas)
    return parser


def _versions() -> str:
    """What a report of a fault should name."""
    others = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "aiokafka", "pydantic"))
    return f"fastapi-athomic {version('fastapi-athomic')} (Python {platform.python_version()}, {others})"
