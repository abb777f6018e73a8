"""`fastapi-athomic handlers`: what the app consumes, and how. No broker is asked."""

from __future__ import annotations

import argparse
from typing import Any

from ..consumption.service import ConsumerService
from ..observation.effective import ANY_TOPIC, order_of
from ..retry import RetryPolicy
from .app import add_app_options, find_athomics
from .terminal import OK, print_json, print_table


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `handlers`."""
    command = areas.add_parser(
        "handlers",
        help="list the handlers: topics, group, ordering, concurrency, batch, payload, retry, DLQ",
        description="Lists the handlers with their options, as the settings have tuned them. No broker is asked.",
    )
    add_app_options(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Prints a line for each handler; returns the exit status."""
    athomics = find_athomics(options)
    consumers = [
        (service, service.effective.payloads)
        for athomic in athomics
        for service in (await athomic.check()).consumers.values()
    ]
    if options.json:
        print_json([_as_json(*each) for each in consumers])
        return OK
    print_table(
        ("HANDLER", "TOPICS", "GROUP", "ORDER", "CONCURRENCY", "BATCH", "PAYLOAD", "RETRY", "DLQ"),
        [_row(*each) for each in consumers],
    )
    return OK


def dlq_topics(service: ConsumerService) -> list[str]:
    """The DLQ topics of a handler, with a placeholder for the topics of a pattern."""
    sources = service.subscription.topics or (ANY_TOPIC,)
    found = (service.dlq_handler.topic_for(source) for source in sources)
    return list(dict.fromkeys(topic for topic in found if topic is not None))


def _row(service: ConsumerService, payloads: dict[str, str]) -> tuple[str, ...]:
    subscription = service.subscription
    pattern = subscription.pattern
    return (
        subscription.handler_id,
        f"/{pattern.pattern}/" if pattern else subscription.source,
        subscription.group_id,
        order_of(subscription),
        str(subscription.concurrency),
        str(subscription.batch_size or "-"),
        ", ".join(dict.fromkeys(payloads.values())),
        _retry(subscription.retry),
        ", ".join(dlq_topics(service)) or "none: what fails is skipped",
    )


def _retry(policy: RetryPolicy) -> str:
    """In few words: how often in place, then from which retry topics."""
    own = "" if type(policy) is RetryPolicy else f"{type(policy).__name__}: "
    attempts = f"{policy.max_attempts or 'no limit'}x"
    later = f", then {' '.join(f'{delay:g}s' for delay in policy.retry_topics)}" if policy.retry_topics else ""
    return f"{own}{attempts}{later}"


def _as_json(service: ConsumerService, payloads: dict[str, str]) -> dict[str, Any]:
    subscription, policy = service.subscription, service.subscription.retry
    return {
        "id": subscription.handler_id,
        "topics": list(subscription.topics),
        "pattern": subscription.pattern.pattern if subscription.pattern else None,
        "group_id": subscription.group_id,
        "ordering": order_of(subscription),
        "concurrency": subscription.concurrency,
        "batch_size": subscription.batch_size,
        "timeout": subscription.timeout,
        "auto_offset_reset": subscription.auto_offset_reset,
        "paused": service.paused,
        "payloads": payloads,
        "retry": {
            "policy": type(policy).__name__,
            "max_attempts": policy.max_attempts,
            "delay": None if callable(policy.delay) else policy.delay,  # None: a function says it
            "backoff": policy.backoff,
            "max_delay": policy.longest_delay,
            "max_elapsed": policy.max_elapsed,
            "retry_topics": list(policy.retry_topics),
        },
        "dlq_topics": dlq_topics(service),
    }
