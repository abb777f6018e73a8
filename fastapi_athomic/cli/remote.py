"""Consumers of a running service from the command line: `fastapi-athomic --url https://host/consumers status`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .service import add_service_options, find_service
from .terminal import FAILED, OK, REFUSED, agreed, moment, print_json, print_table

UNAVAILABLE = 503
COLUMNS = ("topic", "partition", "position", "committed", "end_offset", "lag", "lag_seconds", "in_flight", "paused")
"""What is shown of a partition."""
FIGURES = {
    "scope_note": "note",
    "pauses_note": "note on pauses",
    "concurrency": "handled at once, at most",
    "oldest_in_queue_seconds": "the oldest one has waited for the handler, in seconds",
    "oldest_in_handler_seconds": "the oldest one has been in the handler, in seconds",
    "last_restart_reason": "it broke last because of",
}
"""What is shown of one consumer, where it is known."""


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands that ask a running service."""
    health = _command(areas, "health", "of a running service: the health of its consumers", _health)
    status = _command(areas, "status", "of a running service: what its consumers do", _status)
    status.add_argument("handler", metavar="HANDLER_ID", nargs="?", help="one of them, with its partitions")
    pause = _steering(areas, "pause", "pause a consumer of a running service", _pause)
    _add_scope(pause)
    pause.add_argument("--seconds", type=float, help="it ends by itself after so long (default: by resume)")
    resume = _steering(areas, "resume", "end pauses", _resume, reason_required=False)
    _add_scope(resume)
    restart = _steering(areas, "restart", "restart a consumer of a running service", _restart)
    concurrency = _steering(areas, "concurrency", "change how much is handled at once", _concurrency)
    concurrency.add_argument("value", type=_number_or_none(int), metavar="NUMBER", help="or `default`: as in code")
    rate = _steering(areas, "rate", "change how much is begun each second", _rate)
    rate.add_argument("value", type=_number_or_none(float), metavar="PER_SECOND", help="or `default`: as in code")
    rate.add_argument("--burst", type=int, help="so many may begin at once")
    breaker = _steering(areas, "breaker", "open or close the circuit breaker of a consumer", _breaker)
    breaker.add_argument(
        "state",
        choices=("open", "closed", "auto"),
        help="open: nothing begins; auto: a message decides",
    )
    seek = _steering(areas, "seek", "go on elsewhere in a topic", _seek)
    _add_seek(seek)
    for command in (health, status, pause, resume, restart, concurrency, rate, breaker, seek):
        command.add_argument("--json", action="store_true", help="print the answer as JSON")


def _command(
    areas: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, run: Callable[..., Any]
) -> argparse.ArgumentParser:
    command = areas.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    add_service_options(command)
    command.set_defaults(run=run, takes_url=True)
    return command


def _steering(
    areas: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Callable[..., Any],
    *,
    reason_required: bool = True,
) -> argparse.ArgumentParser:
    command = _command(areas, name, summary, run)
    command.add_argument("handler", metavar="HANDLER_ID", help="as `status` lists it")
    command.add_argument("--reason", required=reason_required, help="why; it is logged there")
    return command


def _add_scope(command: argparse.ArgumentParser) -> None:
    command.add_argument("--topic", help="only this topic")
    command.add_argument("--partition", type=int, help="only this partition of the topic")


def _add_seek(command: argparse.ArgumentParser) -> None:
    command.add_argument("topic", metavar="TOPIC")
    command.add_argument("--partition", type=int, help="only this partition (default: all)")
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("--offset", type=int, help="the next message is that of this offset")
    target.add_argument(
        "--time",
        type=moment,
        metavar="TIME",
        help="the next message is the first of this time or later: ISO 8601, with time zone",
    )
    target.add_argument("--beginning", action="store_true", help="the oldest message that is kept")
    target.add_argument("--end", action="store_true", help="behind the newest message")
    command.add_argument("--dry-run", action="store_true", help="only say what would be skipped and repeated")
    command.add_argument("--force", action="store_true", help="also if other members have some of the partitions")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _number_or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        return None if text == "default" else kind(text)

    return number


# --- looking


async def _health(options: argparse.Namespace) -> int:
    report = await find_service(options).get("health", answers=(200, UNAVAILABLE))
    healthy = report.get("status") in ("healthy", "degraded")
    if options.json:
        print_json(report)
        return OK if healthy else FAILED
    print(report.get("status"))
    for reason in report.get("reasons", ()):
        print(f"  {_reason(reason)}")
    for name, consumer in sorted(report.get("consumers", {}).items()):
        print(f"{name}: {consumer.get('status')}")
        for reason in consumer.get("reasons", ()):
            print(f"  {_reason(reason)}")
    return OK if healthy else FAILED


def _reason(reason: Any) -> str:
    return f"{reason.get('code')}: {reason.get('message')}" if isinstance(reason, dict) else str(reason)


async def _status(options: argparse.Namespace) -> int:
    service = find_service(options)
    if options.handler is not None:
        consumer = await service.get(options.handler)
        if options.json:
            print_json(consumer)
        else:
            _print_consumers([consumer])
            _print_details(consumer)
        return OK
    answer = await service.get()
    if options.json:
        print_json(answer)
    else:
        _print_consumers(answer if isinstance(answer, list) else answer.get("consumers", []))
    return OK


def _print_consumers(consumers: list[dict[str, Any]]) -> None:
    titles = ("consumer", "state", "health", "lag", "seconds late", "in flight", "processed", "failed", "dead letters")
    print_table(titles, [_row(consumer) for consumer in consumers])


def _row(consumer: dict[str, Any]) -> list[str]:
    partitions, counters = consumer.get("assignment", []), consumer.get("counters", {})
    state = "paused" if consumer.get("paused") else consumer.get("state")
    return [
        str(consumer.get("id")),
        str(state),
        str(consumer.get("health", {}).get("status")),
        _cell(consumer.get("lag")),
        _cell(consumer.get("lag_seconds")),
        _number([each.get("in_flight") for each in partitions], sum),
        *(str(counters.get(name, "?")) for name in ("processed", "failed", "dead_lettered")),
    ]


def _number(values: list[Any], together: Callable[[list[Any]], Any]) -> str:
    known = [value for value in values if value is not None]
    return _figure(together(known)) if known else "-"


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _print_details(consumer: dict[str, Any]) -> None:
    for reason in consumer.get("health", {}).get("reasons", ()):
        print(_reason(reason))
    _print_pauses(consumer.get("pauses", []))
    for name, title in FIGURES.items():
        if (value := consumer.get(name)) is not None:
            print(f"{title}: {_cell(value)}")
    rates = consumer.get("rates", {})
    if rates.get("seconds"):
        told = ", ".join(f"{name} {rates[name]:.1f}" for name in ("received", "processed", "failed") if name in rates)
        print(f"messages per second, over {rates['seconds']:.0f} s: {told}")
    if limit := consumer.get("rate_limit"):
        print(
            f"begun per second, at most: {_cell(limit.get('messages_per_second'))}, {limit.get('waiting')} wait for it"
        )
    if breaker := consumer.get("breaker"):
        until = f" until {breaker['until']}" if breaker.get("until") else ""
        forced = ", by an operator" if breaker.get("forced") else ""
        print(f"circuit breaker: {str(breaker.get('state')).replace('_', ' ')}{until}{forced}")
    if error := consumer.get("last_error"):
        said = f": {error['message']}" if error.get("message") else ""
        place = f"{error.get('topic')}[{error.get('partition')}]@{error.get('offset')}"
        print(f"last failure: {place} at {error.get('at')}: {error.get('type')}{said}")
    if partitions := consumer.get("assignment", []):
        print()
        print_table(COLUMNS, [[_cell(each.get(name)) for name in COLUMNS] for each in partitions])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return _figure(value)
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# --- steering


async def _pause(options: argparse.Namespace) -> int:
    answer = await _post(options, "pause", topic=options.topic, partition=options.partition, seconds=options.seconds)
    return _pauses(answer, options)


async def _resume(options: argparse.Namespace) -> int:
    return _pauses(await _post(options, "resume", topic=options.topic, partition=options.partition), options)


def _pauses(answer: Any, options: argparse.Namespace) -> int:
    if options.json:
        print_json(answer)
    elif not answer["pauses"]:
        print(f"{options.handler} is not paused")
    else:
        _print_pauses(answer["pauses"])
    if not options.json and answer.get("note"):
        print(answer["note"])
    return OK


def _print_pauses(pauses: list[dict[str, Any]]) -> None:
    for pause in pauses:
        scope = pause.get("topic") or "the whole consumer"
        if pause.get("partition") is not None:
            scope += f"[{pause['partition']}]"
        until = f" until {pause['until']}" if pause.get("until") else ""
        why = f": {pause['reason']}" if pause.get("reason") else ""
        print(f"{scope} is paused since {pause.get('since')}{until}, by {pause.get('actor')}{why}")


async def _restart(options: argparse.Namespace) -> int:
    return _told(await _post(options, "restart"), options, f"{options.handler} was restarted")


async def _concurrency(options: argparse.Namespace) -> int:
    answer = await _explicit(options, "concurrency", value=options.value)
    begun = "as many at once as code and settings say" if options.value is None else f"{options.value} at once"
    return _told(answer, options, f"{options.handler} handles {begun}")


async def _rate(options: argparse.Namespace) -> int:
    answer = await _explicit(options, "rate", messages_per_second=options.value, burst=options.burst)
    begun = "what code and settings allow" if options.value is None else f"{options.value:g} messages a second at most"
    return _told(answer, options, f"{options.handler} begins {begun}")


async def _breaker(options: argparse.Namespace) -> int:
    begun = {
        "open": "nothing until it is closed",
        "closed": "messages again",
        "auto": "what its circuit breaker lets through",
    }[options.state]
    return _told(await _post(options, "breaker", state=options.state), options, f"{options.handler} begins {begun}")


def _told(answer: Any, options: argparse.Namespace, sentence: str) -> int:
    """It has failed unless all processes have done it. An older service says only that it is done."""
    done = answer.get("done", True)
    if options.json:
        print_json(answer)
        return OK if done else FAILED
    processes = answer.get("processes", ())
    if not done:
        print("it is not done everywhere:" if processes else "no process that consumes it has answered")
    elif len(processes) > 1:
        sentence += f", in {len(processes)} processes"
    if done:
        print(sentence)
    for each in processes:
        if not done or each.get("outcome") != "applied":
            why = f": {each['detail']}" if each.get("detail") else ""
            print(f"  {each.get('instance_id')}: {str(each.get('outcome')).replace('_', ' ')}{why}")
    if answer.get("note") and not done:
        print(answer["note"])
    return OK if done else FAILED


async def _post(options: argparse.Namespace, action: str, **body: Any) -> Any:
    given = {name: value for name, value in body.items() if value is not None}
    return await _explicit(options, action, **given)


async def _explicit(options: argparse.Namespace, action: str, **body: Any) -> Any:
    """Sends what is None, too: it means something there."""
    return await find_service(options).post(options.handler, action, **body, **_why(options))


def _why(options: argparse.Namespace) -> dict[str, str]:
    return {} if options.reason is None else {"reason": options.reason}


# --- seeking


async def _seek(options: argparse.Namespace) -> int:
    service = find_service(options)
    body = {"topic": options.topic, "to": _target(options), "force": options.force, **_why(options)}
    if options.partition is not None:
        body["partition"] = options.partition
    plan = await service.post(options.handler, "seek", **body, dry_run=True)
    if options.dry_run:
        _print_plan(plan, options)
        return FAILED if plan.get("problems") and not options.force else OK
    if not options.yes:
        _print_plan(plan, argparse.Namespace(json=False))
        if not agreed(f"move {options.handler}?"):
            return REFUSED
    result = await service.post(options.handler, "seek", **body)
    _print_plan(result, options)
    return OK if result.get("done", True) else FAILED


def _target(options: argparse.Namespace) -> Any:
    if options.offset is not None:
        return {"offset": options.offset}
    if options.time is not None:
        return {"time": options.time.isoformat()}
    return "beginning" if options.beginning else "end"


def _print_plan(plan: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print_json(plan)
        return
    names = ("partition", "from_offset", "to_offset", "skipped", "repeated", "exact", "done")
    print_table(names, [[_cell(each.get(name)) for name in names] for each in plan["partitions"]])
    for problem in dict.fromkeys(plan.get("problems", ())):
        print(f"problem: {problem}")
    for note in plan.get("notes", ()):
        print(f"note: {note}")
