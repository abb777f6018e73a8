"""Examples for OpenAPI of what the routes answer that are there without `control.enabled`.

Those of other routes stand at their models.
"""

from __future__ import annotations

from typing import Any

_PROCESS = {"instance_id": "shop-7d4b", "host": "shop-7d4b", "pid": 7}
_STUCK = {
    "status": "unhealthy",
    "reasons": [
        {
            "code": "handler_stuck",
            "message": "a message has been in the handler for 75 s",
            "since": "2026-11-28T12:00:00Z",
            "limit_seconds": 60.0,
        }
    ],
}
_HEALTHY = {"status": "healthy", "reasons": []}
_SETTINGS = {
    "target_type": "shop.Order",
    "concurrency": 1,
    "batch_size": None,
    "batch_linger_ms": 100,
    "timeout": 30.0,
    "retry": {
        "policy": "RetryPolicy",
        "max_attempts": 3,
        "delay": 0.5,
        "backoff": 2.0,
        "max_delay": 30.0,
        "jitter": 0.1,
        "max_elapsed": None,
        "retry_topics": [],
    },
    "ordering": "partition",
    "sequencing": None,
    "dlq": "{topic}.{group_id}.dlq",
    "payloads": {"orders.placed": "json"},
    "auto_offset_reset": "earliest",
    "isolation": "loop",
    "max_buffered_messages": 500,
    "max_buffered_bytes": 16777216,
    "max_poll_messages": 125,
    "drain_timeout": 20.0,
    "stall_timeout": 60.0,
    "stuck_after": 60.0,
    "enable_lineage": True,
}
_COUNTERS = {
    **dict.fromkeys(("deferred", "redriven", "skipped", "redelivered", "duplicates", "parked", "given_up"), 0),
    "received": 1204,
    "processed": 1198,
    "failed": 6,
    "retried": 4,
    "dead_lettered": 2,
    "lost_to_retention": 0,
    "commits": 311,
    "rebalances": 1,
    "abandoned": 0,
}
_ERROR = {
    "type": "ValueError",
    "message": "the card was declined",
    "stage": "handler",
    "topic": "orders.placed",
    "partition": 0,
    "offset": 17,
    "at": "2026-11-28T12:00:00Z",
    "count": 6,
}
CONSUMER: dict[str, Any] = {
    "id": "billing",
    "process": _PROCESS,
    "scope": "process",
    "scope_note": None,
    "members": [
        {
            **_PROCESS,
            "state": "running",
            "ready": True,
            "paused": False,
            "health": "healthy",
            "partitions": 1,
            "concurrency": 1,
            "seen_at": "2026-11-28T12:00:01Z",
            "differs": [],
        }
    ],
    "topics": ["orders.placed"],
    "pattern": None,
    "group_id": "billing",
    "ordering": "partition",
    "concurrency": 1,
    "batch_size": None,
    "settings": _SETTINGS,
    "state": "running",
    "ready": True,
    "paused": False,
    "pauses": [],
    "health": _HEALTHY,
    "assignment": [
        {
            "topic": "orders.placed",
            "partition": 0,
            "position": 1204,
            "committed": 1200,
            "end_offset": 1204,
            "lag": 4,
            "lag_seconds": 0.2,
            "in_flight": 4,
            "paused": False,
            "member": "shop-7d4b",
        }
    ],
    "lag": 4,
    "lag_seconds": 0.2,
    "counters": _COUNTERS,
    "rates": {"received": 20.1, "processed": 20.0, "failed": 0.1, "seconds": 60.0},
    "oldest_in_queue_seconds": 0.1,
    "oldest_in_handler_seconds": 0.05,
    "oldest_in_flight_seconds": 0.05,
    "last_message_at": "2026-11-28T12:00:01Z",
    "last_error": _ERROR,
    "last_errors": [_ERROR],
    "restarts": 0,
    "last_restart_reason": None,
    "dlq_topics": ["orders.placed.billing.dlq"],
    "ordered": None,
}
"""Of `ConsumerStatus`."""

_METRICS = """\
# HELP athomic_consumer_lag Messages from the first unfinished to the end
# TYPE athomic_consumer_lag gauge
athomic_consumer_lag{consumer="billing",topic="orders.placed",partition="0"} 4.0
"""


def _report(consumer: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": consumer["status"],
        "process": _PROCESS,
        "role": "all",
        "consumers": {"billing": consumer},
        "checks": {
            "database": {
                "ok": True,
                "message": None,
                "checked_at": "2026-11-28T12:00:00Z",
                "age_seconds": 1.2,
                "took_seconds": 0.004,
            }
        },
        "reasons": [],
    }


def shown(example: Any, kind: str = "application/json") -> dict[str, Any]:
    """A part of the `responses` of a route."""
    return {"content": {kind: {"example": example}}}


PROBE, NO_PROBE = shown({"ok": True}), shown({"ok": False, "codes": ["consumer_loop_stalled"]})
HEALTH, ILL = shown(_report(_HEALTHY)), shown(_report(_STUCK))
ONE, ALL = shown(CONSUMER), shown([CONSUMER])
METRICS = shown(_METRICS, "text/plain")
EVENTS = shown('event: snapshot\ndata: {"time": "2026-11-28T12:00:00Z", ...}\n\n', "text/event-stream")
