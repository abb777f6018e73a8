"""Dead letters of a running service from the command line, over its routes: `fastapi-athomic dlq ... --url ...`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..error_text import one_line
from ..exceptions import AthomicError
from .service import Service, find_service
from .terminal import OK, REFUSED, agreed, print_json

AT_ONCE = 1_000
"""The setting `control.most_letters` by default: one request settles no more."""
LONGEST_COLUMN = 120


async def run(options: argparse.Namespace) -> int:
    """Runs the command that the options name; returns its exit status."""
    service = find_service(options, "; or where the code is: --app MODULE:ATTRIBUTE")
    if options.command == "list":
        return await _list(service, options)
    if options.command == "show":
        return await _show(service, options)
    return await _settle(service, options)


async def _list(service: Service, options: argparse.Namespace) -> int:
    page = await service.get(
        options.handler,
        "dlq",
        source=options.topic,
        partition=options.partition,
        since=options.since.isoformat() if options.since else None,
        error_type=options.error_type,
        limit=options.limit,
    )
    if options.json:
        print_json(page)
        return OK
    for letter in page["letters"]:
        print(_line(letter))
    print(counted(len(page["letters"])) + (" and more" if page["more"] else ""), file=sys.stderr)
    return OK


def _line(letter: dict[str, Any]) -> str:
    columns = (
        letter["topic"],
        f"{letter['partition']}/{letter['offset']}",
        letter["failed_at"] or "?",
        letter["error_stage"] or "?",
        letter["error_type"] or "?",
        letter["error_message"] or "",
    )
    return "  ".join(filter(None, (one_line(str(column), LONGEST_COLUMN) for column in columns)))


async def _show(service: Service, options: argparse.Namespace) -> int:
    place = (options.handler, "dlq", str(options.partition), str(options.offset))
    letter = await service.get(*place, *(["payload"] if options.payload else []), source=options.topic)
    if options.json:
        print_json(letter)
        return OK
    for name, value in letter.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return OK


async def _settle(service: Service, options: argparse.Namespace) -> int:
    if not options.all and options.partition is None:
        raise AthomicError(
            "say which dead letters: --all (of --error-type, if given), or --partition with or without --offset"
        )
    if not options.reason:
        raise AthomicError("--reason is missing: the running service logs why")
    given = {
        "source": options.topic,
        "partition": options.partition,
        "offset": options.offset,
        "error_type": options.error_type,
        "limit": options.limit or (AT_ONCE if options.offset is None else None),
        "reason": options.reason,
        "rate": options.rate if options.command == "redrive" else None,
    }
    body = {name: value for name, value in given.items() if value is not None}
    path = (options.handler, "dlq", options.command)
    planned = await service.post(*path, **body, dry_run=True)
    if options.dry_run or not planned["settled"]:
        print_report(planned, options)
        return OK
    if not options.yes and not agreed(f"{options.command} {planned['settled']} of {counted(planned['selected'])}?"):
        return REFUSED
    done = await service.post(*path, **body)
    print_report(done, options)
    if done["selected"] == body.get("limit") and not options.json:
        print("there may be more: do it again for the rest", file=sys.stderr)
    return OK


def print_report(report: dict[str, Any], options: argparse.Namespace) -> None:
    """What was done, or would be: the fields of a `SettlingReport`."""
    if options.json:
        print_json(report)
        return
    if not report["selected"]:
        print(f"there are no dead letters to {'send back' if options.command == 'redrive' else 'discard'}")
        return
    doing = "would be " if report["dry_run"] else ""
    done = "sent back" if options.command == "redrive" else "discarded"
    print(f"{report['settled']} of {counted(report['selected'])} {doing}{done}", end="")
    print(f", {report['exhausted']} were sent back too often already" if report["exhausted"] else "")
    for reason, count in report["refused"].items():
        print(f"{count} not sent back: {reason}")


def counted(letters: int) -> str:
    """So many dead letters, in words."""
    return f"{letters} dead letter{'' if letters == 1 else 's'}"
