"""The document itself: flows become channels, messages and operations. Its order depends on nothing but its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..consumption.service import ConsumerService
from ..observation.effective import order_of
from ..payload.annotations import type_name
from ..settings import AthomicSettings
from .flows import PARAMETER, Flow, Topic, identifier, unique
from .headers import COMMON, OF_LETTERS, OF_REDRIVES, OF_RETRIES, header_schemas, headers_of
from .payloads import data_of, payload_of
from .schemas import Schemas, TypeUse

BINDING = {"bindingVersion": "0.5.0"}
"""Of the Kafka bindings (https://github.com/asyncapi/bindings/tree/master/kafka)."""
_HEADERS: Mapping[str, Sequence[str]] = {
    "source": (COMMON,),
    "published": (COMMON,),
    "retry": (COMMON, OF_LETTERS, OF_RETRIES),
    "dlq": (COMMON, OF_LETTERS),
    "redrive": (COMMON, OF_REDRIVES),
}
_OWN: Mapping[str, str] = {
    "retry": "Failed messages of {who} wait here for {delay:g} s, byte for byte as they came.",
    "dlq": "Dead letters of {who}: failed messages, byte for byte as they came, with headers that say why.",
    "redrive": "Dead letters of {who} that were sent back, for another attempt.",
}


def description_of(flows: Sequence[Flow], settings: AthomicSettings) -> dict[str, Any]:
    """What the document says of these flows: all of it except what the app and its brokers say of themselves."""
    parts = _Parts(flows, settings)
    for flow in flows:
        parts.add(flow)
    lineage = settings.lineage_headers is not False
    return {
        "channels": _sorted(parts.channels),
        "operations": _sorted(parts.operations),
        "components": {
            "messages": _sorted(parts.messages),
            "schemas": _sorted(parts.schemas.components | header_schemas(lineage=lineage)),
        },
    }


class _Parts:
    """The parts of a document, as flows are added."""

    def __init__(self, flows: Sequence[Flow], settings: AthomicSettings) -> None:
        self.channels: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self._flows = flows
        self._settings = settings
        self._of_topics: dict[Topic, str] = {}
        self._of_operations: dict[tuple[object, ...], str] = {}
        keys = [TypeUse(flow.key, "validation") for flow in flows if flow.key is not None]
        self.schemas = Schemas([*(data_of(flow) for flow in flows if flow.pipeline is not None), *keys])

    def add(self, flow: Flow) -> None:
        channel = self._channel(flow)
        message = self._message(flow)
        self.channels[channel]["messages"].setdefault(message, {"$ref": f"#/components/messages/{message}"})
        self._operation(flow, channel, message)

    # --- channels

    def _channel(self, flow: Flow) -> str:
        topic = flow.topic
        known = self._of_topics.get(topic)
        if known is None:
            known = self._of_topics[topic] = unique(identifier(topic.name), self.channels)
            self.channels[known] = _new_channel(topic)
        told = self.channels[known]
        if flow.purpose in _OWN:
            sentence = _OWN[flow.purpose].format(who=flow.who, delay=flow.delay or 0)
            if sentence not in told.get("description", ""):
                told["description"] = f"{told.get('description', '')} {sentence}".strip()
        return known

    # --- messages

    def _message(self, flow: Flow) -> str:
        described = self._described(flow)
        wanted = identifier(flow.source if flow.topic.pattern is None else "any", type_name(flow.use.kind))
        wanted += "" if flow.purpose in ("source", "published") else f".{flow.purpose}"
        for known in (each for each in self.messages if each.startswith(wanted)):
            if self.messages[known] == described:
                return known
        if flow.purpose == "published" and wanted in self.messages:  # what is read there has other fields
            wanted += ".published"
        found = unique(wanted, self.messages)
        self.messages[found] = described
        return found

    def _described(self, flow: Flow) -> dict[str, Any]:
        schema = self.schemas.of(*data_of(flow)) if flow.pipeline is not None else {}
        payload = payload_of(flow, schema)
        told = self._told(flow)
        notes = [*payload.notes, *_tombstones(schema)]
        about = [part for part in (told.description if told else None, " ".join(notes)) if part]
        extra = {"steps": payload.steps, "subject": payload.subject}
        return {
            "name": identifier(type_name(flow.use.kind)),
            "title": (told.title if told else None) or type_name(flow.use.kind),
            **({"description": "\n\n".join(about)} if about else {}),
            **({"contentType": payload.content_type} if payload.content_type else {}),
            "headers": headers_of(*_HEADERS[flow.purpose], more=payload.headers),
            "payload": payload.schema,
            "bindings": {"kafka": {**self._key(flow), **payload.binding, **BINDING}},
            "x-athomic": {name: value for name, value in extra.items() if value},
        }

    def _told(self, flow: Flow) -> Flow | None:
        """Who declared it with a title or a description: they hold for what is consumed, too."""
        return next(
            (
                each
                for each in self._flows
                if each.purpose == "published"
                and (each.source, each.use.kind) == (flow.source, flow.use.kind)
                and (each.title or each.description)
            ),
            None,
        )

    def _key(self, flow: Flow) -> dict[str, Any]:
        """The key's schema; if this one does not say it, that of another one who reads or writes the topic."""
        keys = [flow.key, *(each.key for each in self._flows if each.source == flow.source)]
        known = next((key for key in keys if key is not None), None)
        return {} if known is None else {"key": self.schemas.of(known, "validation")}

    # --- operations

    def _operation(self, flow: Flow, channel: str, message: str) -> None:
        same = (flow.action, flow.purpose, flow.who, flow.topic)
        known = self._of_operations.get(same)
        if known is None:
            known = unique(identifier(flow.action, flow.who, flow.topic.name), self.operations)
            self._of_operations[same] = known
            self.operations[known] = self._new_operation(flow, channel)
        reference = {"$ref": f"#/channels/{channel}/messages/{message}"}
        if reference not in self.operations[known]["messages"]:
            self.operations[known]["messages"].append(reference)

    def _new_operation(self, flow: Flow, channel: str) -> dict[str, Any]:
        own = flow.description if flow.purpose == "source" else None
        about = [part for part in (own, _manner(flow)) if part]
        kafka = {
            **({"groupId": _only(flow.group_id)} if flow.group_id else {}),
            "clientId": _only(self._settings.client_id),
            **BINDING,
        }
        return {
            "action": flow.action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "title": _title(flow),
            **({"description": "\n\n".join(about)} if about else {}),
            "messages": [],
            "tags": [{"name": flow.purpose}],
            "bindings": {"kafka": kafka},
            **({"x-athomic": _facts(flow, flow.service)} if flow.service is not None else {}),
        }


def _new_channel(topic: Topic) -> dict[str, Any]:
    if topic.pattern is None:
        return {
            "address": topic.address,
            "messages": {},
            "bindings": {"kafka": {"topic": topic.address, **BINDING}},
        }
    matched = f"A topic whose whole name matches the regular expression `{topic.pattern}`."
    return {
        "address": topic.address,
        "title": topic.name,
        "messages": {},
        "parameters": {PARAMETER.strip("{}"): {"description": matched}},
        "bindings": {"kafka": dict(BINDING)},
        "x-athomic": {"pattern": topic.pattern},
    }


def _title(flow: Flow) -> str:
    if flow.service is None:
        return f"Publishes {flow.who} to {flow.topic.name}"
    verbs = {"source": "handles", "redrive": "handles again", "dlq": "gives up on"}
    retried = "defers" if flow.action == "send" else "tries again"
    return f"{flow.who} {verbs.get(flow.purpose, retried)} messages of {flow.source}"


def _manner(flow: Flow) -> str:
    """How a handler takes messages, in a sentence."""
    if flow.service is None or flow.action == "send":
        return ""
    subscription = flow.service.subscription
    batch = f"in batches of up to {subscription.batch_size}, " if subscription.batch_size else ""
    order = {"none": "in any order", "sequence": "in the order of their sequence numbers, each once"}
    kept = order.get(order_of(subscription), f"in the order of their {order_of(subscription)}")
    return f"Group {subscription.group_id}; {batch}{kept}."


def _facts(flow: Flow, service: ConsumerService) -> dict[str, Any]:
    subscription = service.subscription
    facts = {
        "handler": subscription.handler_id,
        "group_id": subscription.group_id,
        "ordering": order_of(subscription),
        "batch_size": subscription.batch_size,
        "max_attempts": subscription.retry.max_attempts,
        "delay_seconds": flow.delay,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _tombstones(schema: Mapping[str, Any]) -> list[str]:
    takes_null = any(each == {"type": "null"} for each in schema.get("anyOf", ()))
    return ["null stands for a null value: a tombstone."] if takes_null else []


def _only(value: str) -> dict[str, Any]:
    """A schema of one text, as the bindings want it."""
    return {"type": "string", "enum": [value]}


def _sorted(parts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(parts.items()))
