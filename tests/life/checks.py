"""What must hold after each event, whatever the event was."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .ledger import Message
from .members import Growth, Member
from .world import BACK_SECONDS, World
from .writers import until

REPEATED_PER_VIOLENCE = 150
"""Messages that a kill may repeat, per handler: those in flight or done since the last commit, on a busy machine."""
THREADS_MORE, FILES_MORE, MEGABYTES_MORE = 3, 12, 25.0
"""How much more a process may hold than after its first quiet spells."""
READ_LETTERS_EVERY = 10
"""Dead letters are read once in so many looks at the record."""


def settle(world: World, seconds: float = BACK_SECONDS) -> list[str]:
    """Waits until each handler has handled or dead-lettered all that it must."""
    world.load.pause()
    looks = 0

    def nothing_is_missing() -> bool:
        nonlocal looks
        world.ledger.read_on()
        missing = world.ledger.missing()
        if missing and looks % READ_LETTERS_EVERY == 0:
            world.read_letters()
            missing = world.ledger.missing()
        looks += 1
        return not missing

    problems = _problem(nothing_is_missing, seconds, lambda: _describe(world.ledger.missing()))
    return [*problems, *numbers(world)]


def _describe(missing: dict[str, set[Message]]) -> str:
    parts = []
    for handler, messages in missing.items():
        some = ", ".join(f"{m.topic} {m.key} {m.sequence}" for m in sorted(messages)[:3])
        parts.append(f"{handler} has not handled {len(messages)} ({some}, ...)")
    return "; ".join(parts)


def _problem(holds: Callable[[], Any], seconds: float, what: Callable[[], str]) -> list[str]:
    try:
        until(holds, seconds, what)
    except AssertionError as error:
        return [str(error)]
    return []


def numbers(world: World) -> list[str]:
    """Checks order, repeats, and that no aborted message was handled."""
    problems = []
    for handler, account in world.ledger.accounts.items():
        if account.misordered:
            problems.append(f"{handler} got {len(account.misordered)} out of order, as {account.misordered[0]}")
        if account.forbidden:
            problems.append(f"{handler} got {len(account.forbidden)} of an aborted transaction")
        allowed = REPEATED_PER_VIOLENCE * world.violence
        if account.repeated > allowed:
            problems.append(f"{handler} got {account.repeated} again, where {allowed} are explained")
        account.misordered.clear()
        account.forbidden.clear()
        account.repeated = 0
    world.violence = 0
    return problems


def calm(world: World, seconds: float = BACK_SECONDS) -> list[str]:
    """Waits until all consumers are healthy and without lag, by their own word and by the broker's."""
    problems = _problem(lambda: not world.reasons(), seconds, lambda: f"healthy: {'; '.join(world.reasons())}")
    problems += _problem(lambda: not world.lags(), seconds / 2, lambda: f"no lag: {'; '.join(world.lags()[:5])}")
    return problems + _problem(
        lambda: not world.lags_outside(),
        seconds / 2,
        lambda: f"no lag outside: {'; '.join(world.lags_outside()[:5])}",
    )


def surroundings(world: World) -> list[str]:
    """Checks that no unknown topics exist, and that routes answered throughout."""
    problems = list(dict.fromkeys(world.prober.failures))
    world.prober.failures.clear()
    if more := sorted(world.topics() - world.expected_topics()):
        problems.append(f"{len(more)} topics that nobody asked for, as {more[0]}")
    if world.load.problem is not None:
        problems.append(f"the load broke off: {world.load.problem}")
    return problems


def holds_no_more(member: Member) -> list[str]:
    """At the end of a quiet spell, checks that nothing has grown since the second one (the first is the warm-up)."""
    now = Growth.of(member.worker.process.pid)
    member.grown.append(now)
    if len(member.grown) < 3:
        return []
    then = member.grown[1]
    bounds = (
        ("threads", now.threads - then.threads, THREADS_MORE),
        ("open files", now.files - then.files, FILES_MORE),
        ("megabytes", now.megabytes - then.megabytes, MEGABYTES_MORE),
    )
    return [f"a process holds {more:g} {what} more than {then}" for what, more, allowed in bounds if more > allowed]


def all_of(world: World, seconds: float = BACK_SECONDS) -> list[str]:
    problems = [*settle(world, seconds), *calm(world, seconds), *surroundings(world)]
    world.ledger.forget()
    return problems


def stays_well(world: World, seconds: float) -> list[str]:
    """Checks for so many seconds that nothing becomes unhealthy and no consumer is rebuilt."""
    before = restarts(world)
    seen: dict[str, None] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen.update(dict.fromkeys(world.reasons()))
        time.sleep(0.5)
    problems = list(seen)[:3]
    if (more := restarts(world) - before) > 0:
        problems.append(f"consumers were rebuilt {more} times")
    return problems


def restarts(world: World) -> int:
    """How often consumers were rebuilt, in the processes that run now."""
    return sum(status["restarts"] for consumers in world.statuses().values() for status in consumers.values())
