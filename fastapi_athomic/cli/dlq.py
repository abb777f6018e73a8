"""Dead letters from the command line: `fastapi-athomic dlq list|show|redrive|discard HANDLER_ID --app MODULE:APP`.

With `--url` in place of `--app` the running service does it: see `remote_letters`.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..control.actions import Actor
from ..exceptions import AthomicError
from ..failures.dead_letters import DeadLetters
from ..failures.letters import DeadLetter
from . import remote_letters
from .app import add_app_options, find_athomic, refuse_memory
from .remote_letters import counted, print_report
from .service import add_service_options
from .terminal import OK, REFUSED, agreed, moment, print_json, progress_bar


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the area `dlq` to the command line."""
    commands = areas.add_parser("dlq", help="dead letters").add_subparsers(dest="command", required=True)
    for name, summary in (
        ("list", "list open dead letters"),
        ("show", "show one dead letter with its payload"),
        ("redrive", "send dead letters back to the group that failed"),
        ("discard", "settle dead letters without sending them back"),
    ):
        command = commands.add_parser(name, help=summary)
        command.set_defaults(run=run, takes_url=True)
        _add_options(command, name)


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("handler", metavar="HANDLER_ID", help="as `fastapi-athomic handlers` lists it")
    add_app_options(command, required=False)
    add_service_options(command)
    command.add_argument("--topic", help="only those from this source topic")
    command.add_argument("--partition", type=int, help="partition of the DLQ topic", required=name == "show")
    command.add_argument("--json", action="store_true", help="print JSON")
    if name == "list":
        command.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="only those that failed since: ISO 8601, with time zone",
        )
        command.add_argument("--limit", type=int, default=50, help="at most this many (default: 50)")
    if name != "show":
        command.add_argument(
            "--error-type",
            metavar="TYPE",
            help="only those that failed so: TimeoutError, or jose.JWTError with its module, as `list` shows it",
        )
    if name == "show":
        command.add_argument("--payload", action="store_true", help="with --url: key, value and headers, too")
    if name != "list":
        command.add_argument("--offset", type=int, help="offset in the DLQ topic", required=name == "show")
    if name in ("redrive", "discard"):
        command.add_argument(
            "--all",
            action="store_true",
            help="all open dead letters, less what --topic, --error-type and --limit leave out",
        )
        command.add_argument("--limit", type=int, help="at most this many")
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        command.add_argument("--yes", action="store_true", help="do not ask")
    if name == "redrive":
        command.add_argument("--rate", type=float, help="messages per second")
        command.add_argument("--reason", help="why; needed with --url, as it is logged there")
    if name == "discard":
        command.add_argument("--reason", required=True, help="why; kept with the dead letters")


async def run(options: argparse.Namespace) -> int:
    """Runs the command that the options name; returns its exit status."""
    if options.app is None:
        return await remote_letters.run(options)
    if options.url:
        raise AthomicError("--app and --url exclude each other: who shall do it, this command or the running service?")
    athomic = find_athomic(options)
    refuse_memory(athomic, "give its --url, or use athomic.dead_letters in a route")
    command: Callable[[DeadLetters, argparse.Namespace], Any] = {
        "list": _list,
        "show": _show,
        "redrive": _settle,
        "discard": _settle,
    }[options.command]
    async with athomic.offline() as dead_letters:
        status: int = await command(dead_letters(options.handler), options)
        return status


async def _list(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    found = await dead_letters.browse(
        source=options.topic,
        partition=options.partition,
        since=options.since,
        error_type=options.error_type,
        limit=options.limit,
    )
    if options.json:
        print_json([_as_json(letter) for letter in found])
        return OK
    for letter in found:
        print(letter)
    print(counted(len(found)) + (" or more" if len(found) == options.limit else ""), file=sys.stderr)
    return OK


async def _show(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    letter = await dead_letters.get(options.partition, options.offset, source=options.topic)
    if letter is None:
        raise AthomicError("there is no dead letter at this place, or it is settled already")
    if options.json:
        print_json(_as_json(letter))
        return OK
    for name, value in _as_json(letter).items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return OK


async def _settle(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    if not options.all and options.partition is None:
        raise AthomicError(
            "say which dead letters: --all (of --error-type, if given), or --partition with or without --offset"
        )
    selection: dict[str, Any] = {"source": options.topic, "partition": options.partition, "offset": options.offset}
    selection |= {"error_type": options.error_type, "limit": options.limit}
    if options.command == "redrive":
        selection["rate"] = options.rate
        settle: Any = dead_letters.redrive
    else:
        selection["reason"] = options.reason
        settle = dead_letters.discard
    selection["actor"] = Actor(name=_user(), reason=options.reason)
    planned = await settle(**selection, dry_run=True)
    if options.dry_run or not planned.settled:
        print_report(asdict(planned), options)
        return OK
    if not options.yes and not agreed(f"{options.command} {planned.settled} of {counted(planned.selected)}?"):
        return REFUSED
    with progress_bar(planned.settled) as progress:
        done = await settle(**selection, progress=progress)
    print_report(asdict(done), options)
    return OK


def _user() -> str:
    """Who runs the command, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have a user without a name
        return "command line"


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "group_id": letter.group_id,
        "handler_id": letter.handler_id,
        "original_topic": letter.original_topic,
        "original_partition": letter.original_partition,
        "original_offset": letter.original_offset,
        "error_type": letter.error_type,
        "error_message": letter.error_message,
        "error_stage": letter.error_stage,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "omitted": list(letter.omitted),
        "failed_at": letter.failed_at.isoformat() if letter.failed_at else None,
        "key": _text(letter.key),
        "value": _text(letter.value),
        "headers": [[name, _text(value)] for name, value in letter.headers.raw],
    }


def _text(data: bytes | None) -> str | None:
    """As text if it is UTF-8, else in base64."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"
