"""Dead letters from the command line: `fastapi-athomic dlq list|show|redrive|discard HANDLER_ID --app MODULE:APP`.

It imports the app to know its settings and handlers, and starts no consumer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from .athomic import Athomic
from .exceptions import AthomicError
from .failures.dead_letters import DeadLetters, Progress
from .failures.letters import DeadLetter

OK, FAILED, REFUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Gives the exit status: 0, 1 for an error, 2 where a person said no."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except AthomicError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastapi-athomic", description="Tools for the consumers of a FastAPI app.")
    areas = parser.add_subparsers(dest="area", required=True)
    commands = areas.add_parser("dlq", help="dead letters").add_subparsers(dest="command", required=True)
    for name, summary in (
        ("list", "list those that wait"),
        ("show", "show one with its payload"),
        ("redrive", "send back to the group that failed"),
        ("discard", "settle without sending back"),
    ):
        _add_options(commands.add_parser(name, help=summary), name)
    return parser


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("handler", metavar="HANDLER_ID")
    command.add_argument("--app", required=True, metavar="MODULE:ATTRIBUTE", help="example_app.main:app")
    command.add_argument("--topic", help="of this source topic only")
    command.add_argument("--partition", type=int, help="of the DLQ topic")
    command.add_argument("--json", action="store_true", help="for programs")
    if name == "list":
        command.add_argument("--since", type=datetime.fromisoformat, metavar="TIME", help="ISO 8601, with time zone")
        command.add_argument("--limit", type=int, default=50)
    if name != "list":
        command.add_argument("--offset", type=int, help="in the DLQ topic", required=name == "show")
    if name in ("redrive", "discard"):
        command.add_argument("--all", action="store_true", help="all that wait")
        command.add_argument("--limit", type=int, help="at most so many")
        command.add_argument("--dry-run", action="store_true", help="say what would be done")
        command.add_argument("--yes", action="store_true", help="ask nobody")
    if name == "redrive":
        command.add_argument("--rate", type=float, help="messages per second")
    if name == "discard":
        command.add_argument("--reason", required=True, help="is kept")


async def _run(options: argparse.Namespace) -> int:
    athomic = find_athomic(options.app)
    command: Callable[[DeadLetters, argparse.Namespace], Any] = {
        "list": _list,
        "show": _show,
        "redrive": _settle,
        "discard": _settle,
    }[options.command]
    async with athomic.offline() as dead_letters:
        status: int = await command(dead_letters(options.handler), options)
        return status


def find_athomic(path: str) -> Athomic:
    """The app's `Athomic`.

    Raises:
        AthomicError: the module cannot be imported, or has no such app.
    """
    module_name, _, attribute = path.partition(":")
    sys.path.insert(0, "")  # as uvicorn does
    try:
        app: Any = importlib.import_module(module_name)
        for name in (attribute or "app").split("."):
            app = getattr(app, name)
    except Exception as error:
        raise AthomicError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    athomic = getattr(getattr(app, "state", None), "athomic", None)
    if not isinstance(athomic, Athomic):
        raise AthomicError(f"{path} has no athomic: call include_athomic(app) in that module")
    return athomic


async def _list(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    found = await dead_letters.browse(
        source=options.topic, partition=options.partition, since=options.since, limit=options.limit
    )
    if options.json:
        _print_json([_as_json(letter) for letter in found])
        return OK
    for letter in found:
        failed_at = letter.failed_at.isoformat(timespec="seconds") if letter.failed_at else "?"
        place = f"{letter.topic}  {letter.partition}/{letter.offset}"
        print(f"{place}  {failed_at}  {letter.error_stage}  {letter.error_type}")
    print(f"{len(found)} dead letters" + (" or more" if len(found) == options.limit else ""), file=sys.stderr)
    return OK


async def _show(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    letter = await dead_letters.get(options.partition or 0, options.offset, source=options.topic)
    if letter is None:
        raise AthomicError("there is no dead letter at this place, or it was settled")
    if options.json:
        _print_json(_as_json(letter))
        return OK
    for name, value in _as_json(letter).items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return OK


async def _settle(dead_letters: DeadLetters, options: argparse.Namespace) -> int:
    if not options.all and options.partition is None:
        raise AthomicError("say which: --all, or --partition with or without --offset")
    selection: dict[str, Any] = {"source": options.topic, "partition": options.partition, "offset": options.offset}
    selection["limit"] = options.limit
    if options.command == "redrive":
        selection["rate"] = options.rate
        settle: Any = dead_letters.redrive
    else:
        selection["reason"] = options.reason
        settle = dead_letters.discard
    planned = await settle(**selection, dry_run=True)
    if options.dry_run or not planned.settled:
        _print_report(asdict(planned), options)
        return OK
    if not options.yes and not _agreed(f"{options.command} {planned.settled} of {planned.selected} dead letters?"):
        return REFUSED
    with _progress(planned.settled) as progress:
        done = await settle(**selection, progress=progress)
    _print_report(asdict(done), options)
    return OK


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print("nobody to ask: say --yes", file=sys.stderr)
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def _progress(total: int) -> Iterator[Progress | None]:
    """A bar, where somebody looks and the extra `cli` is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=total, unit="msg", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar.update


def _print_report(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        _print_json(report)
        return
    doing = "would be settled" if report["dry_run"] else "settled"
    print(f"{report['settled']} of {report['selected']} {doing}", end="")
    print(f", {report['exhausted']} were sent back too often already" if report["exhausted"] else "")
    for reason, count in report["refused"].items():
        print(f"{count} wait still: {reason}")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


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
    """As text if it is, else in base64."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    sys.exit(main())
