"""Shortens the timers of the package, so that a quiet spell of `QUIET_SECONDS` is longer than each of them.

It also names those of docs/timers.md that run out only while something is going on: quiet spells do not test them.
"""

from __future__ import annotations

from importlib import import_module

QUIET_SECONDS = 9.0
"""Longer than all timers below, and longer than `tests.support.kafka_broker.IMPATIENT` keeps an idle connection."""
STALL_SECONDS = 5.0
SESSION_SECONDS = 4.0

CONSTANTS = {
    "fastapi_athomic.handling.threads.IDLE_SECONDS": 1.0,
    "fastapi_athomic.consumption.supervision.STEADY_SECONDS": 3.0,
    "fastapi_athomic.consumption.supervision.BREAK_SECONDS": 4.0,
    "fastapi_athomic.transports.kafka.options.IDLE_SECONDS": 3.0,
    "fastapi_athomic.transports.kafka.options.METADATA_SECONDS": 4.0,
    "fastapi_athomic.transports.kafka.shared_client.METADATA_MAX_AGE": 3.0,
    "fastapi_athomic.transports.kafka.shared_client.METADATA_MAX_AGE_FOR_PATTERN": 1.5,
    "fastapi_athomic.failures.dlq.MAX_WRITE_DELAY": 2.0,
    "fastapi_athomic.handling.patience.LONGEST_PAUSE": 2.0,
    "fastapi_athomic.handling.patience.FORGOTTEN": 6.0,
    "fastapi_athomic.retry.DEFAULT_MAX_DELAY": 4.0,
    "fastapi_athomic.failures.failure_log.TRACEBACK_SECONDS": 4.0,
    "fastapi_athomic.loop.blocking.QUIET_SECONDS": 2.0,
    "fastapi_athomic.complaints.INTERVAL": 2.0,
    "fastapi_athomic.observation.rates.WINDOW_SECONDS": 2.0,
    "fastapi_athomic.observation.sharing.COMPLAINT_SECONDS": 4.0,
    "fastapi_athomic.consumption.membership.PREPARE_SECONDS": 1.0,
    "fastapi_athomic.consumption.placement.TOPICS_SECONDS": 1.5,
    "fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS": 1.0,
    "fastapi_athomic.failures.topic_watch.LISTING_SECONDS": 4.0,
    "fastapi_athomic.transports.kafka.client_log.SILENT_SECONDS": 10.0,
    "fastapi_athomic.transports.kafka.unreadable.LONGEST_PAUSE": 2.0,
    "fastapi_athomic.consumption.positions.BEGIN_TOGETHER_SECONDS": 6.0,
}
"""By module and name; seconds."""
BUSY = {
    "fastapi_athomic.consumption.session.REBALANCE_MARGIN_SECONDS": "a rebalance",
    "fastapi_athomic.limits.DEFAULT_MAX_PAUSE": "an outage of what a handler depends on",
    "fastapi_athomic.broker.CONNECT_SECONDS": "a start",
    "fastapi_athomic.transports.kafka.client.ANSWER_SECONDS": "a request",
    "fastapi_athomic.control.handovers.BEGIN_SECONDS": "a seek that another member has to do",
    "fastapi_athomic.control.instructions.SILENT_SECONDS": "a restart or a setting for all processes",
    "fastapi_athomic.control.instructions.MOST_SECONDS": "a restart of several processes",
    "fastapi_athomic.control.instructions.REJOIN_SECONDS": "a restart of several processes",
    "fastapi_athomic.control.instructions.KEPT_ANSWER_SECONDS": "a restart or a setting for all processes",
    "fastapi_athomic.control.group_pauses.ENDED_SECONDS": "a pause that was ended",
    "fastapi_athomic.web.letter_models.LONGEST_REDRIVE": "a redrive over HTTP",
    "fastapi_athomic.cli.service.TIMEOUT": "a command to a running service",
    "fastapi_athomic.workers.supervisor.STEADY_SECONDS": "a process that is supervised, and ends",
    "fastapi_athomic.testing.core.READY_SECONDS": "the start of a test",
    "fastapi_athomic.testing.core.END_SECONDS": "the end of a test",
    "fastapi_athomic.testing.rebalances.MARGIN_SECONDS": "a rebalance that a test asks for",
    "fastapi_athomic.schemas.registered.ASK_AGAIN": "publishing by the newest schema of a subject",
    "fastapi_athomic.schemas.rest_registry.TIMEOUT": "a request to a schema registry",
    "fastapi_athomic.schemas.registry_answers.LONGEST_PAUSE": "a schema registry that is overloaded",
    "fastapi_athomic.schemas.registry.STALE_FOR": "a schema registry that is away",
    "fastapi_athomic.schemas.registry.UNKNOWN_FOR": "messages with an unknown schema id",
    "fastapi_athomic.schemas.registry.HOPELESS_FOR": "messages with an unknown schema id",
}
"""Timers that are left as they are, and what is going on while they run."""

SETTINGS = {
    "ATHOMIC_STALL_TIMEOUT": f"{STALL_SECONDS:g}",
    "ATHOMIC_STUCK_AFTER": "8",
    "ATHOMIC_HEALTH__POLL_LATE": "4",
    "ATHOMIC_HEALTH__LONG_REBALANCE": "4",
    "ATHOMIC_HEALTH__SHOWN_FOR": "2",
    "ATHOMIC_RESTART_BACKOFF": "0.2",
    "ATHOMIC_RESTART_BACKOFF_MAX": "2",
    "ATHOMIC_DRAIN_TIMEOUT": "3",
    "ATHOMIC_SHUTDOWN_TIMEOUT": "6",
    "ATHOMIC_BLOCKING_AFTER": "2",  # the machine is busy
    "ATHOMIC_ORDERED__LEASE": "3",
    "ATHOMIC_KAFKA__SESSION_TIMEOUT": f"{SESSION_SECONDS:g}",
    "ATHOMIC_KAFKA__HEARTBEAT_INTERVAL": "0.5",
    "ATHOMIC_KAFKA__MAX_POLL_INTERVAL": "7",
}


def shorten() -> None:
    """Sets the constants in this process. Raises `AttributeError` for one that the package no longer has."""
    for path, seconds in CONSTANTS.items():
        module_name, _, name = path.rpartition(".")
        module = import_module(module_name)
        if not hasattr(module, name):
            raise AttributeError(f"{path} has gone: tests/life/timers.py must know the package's timers")
        setattr(module, name, seconds)
