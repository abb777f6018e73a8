"""`fastapi-athomic asyncapi`: the AsyncAPI document, for a look at what a change does to it. No broker is asked."""

from __future__ import annotations

import argparse

from .app import add_app_options, find_athomic
from .terminal import OK, print_json


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `asyncapi`."""
    command = areas.add_parser(
        "asyncapi",
        help="print the AsyncAPI document of the app",
        description="Prints the AsyncAPI document as JSON: handlers, declared publishers, topics, messages. Its order "
        "depends on nothing but its content, so that two of them can be compared. No broker is asked.",
    )
    add_app_options(command)
    command.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Prints the document; returns the exit status."""
    print_json(find_athomic(options).asyncapi())
    return OK
