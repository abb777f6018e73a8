"""Which message is a log record about?

Records never contain a payload, a key, a header value or the text of a handler's error.
"""

from __future__ import annotations

import logging

from opentelemetry import trace

from ..messages import RawMessage
from ..propagation.context import current_messages, get_context

FIELDS = ("handler", "topic", "partition", "offset", "trace_id", "span_id", "request_id")


class MessageFilter(logging.Filter):
    """Adds the fields of the message (or HTTP request) being handled to each record. Put it on your log handlers.

    The fields are `handler`, `topic`, `partition`, `offset`, `trace_id`, `span_id` (in hexadecimal, as in W3C trace
    context) and `request_id`; each is None where there is none. For a batch they describe its first message.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in fields_at_hand().items():
            if getattr(record, name, None) is None:
                setattr(record, name, value)
        return True


def fields_at_hand() -> dict[str, object]:
    """The fields of `MessageFilter` for what is being handled now."""
    values: dict[str, object] = dict.fromkeys(FIELDS)
    received = current_messages()
    if received is not None:
        reader, messages = received
        message = messages if isinstance(messages, RawMessage) else messages[0]
        values |= fields_of(message, reader.handler_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        values["trace_id"], values["span_id"] = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    values["request_id"] = get_context().request_id
    return values


def fields_of(message: RawMessage, handler_id: str) -> dict[str, object]:
    """The fields of one message, for `extra=` of a log call."""
    return {
        "handler": handler_id,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
    }
