"""The AsyncAPI document as a page: plain HTML without a script, so it needs no renderer from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = (Path(__file__).parent / "asyncapi_page.css").read_text()
_SHOWN = (
    *("const", "enum", "default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
)
"""Keywords of a schema that stand behind its description."""
_DEEPEST = 4
"""So many types inside each other are written out in a cell; the JSON below the table has the rest."""

Json = Mapping[str, Any]


def page_of(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    body = "".join((
        _handlers(document),
        _publishers(document),
        _channels(document),
        _messages(document),
        _schemas(document),
    ))  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: messages</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#content">To the content</a>'
        f"<header><h1>{escape(title)}</h1>{_text(info.get('description'))}"
        f'<p class="quiet">AsyncAPI {escape(document["asyncapi"])}, <a href="asyncapi.json">as JSON</a>'
        f"{_servers(document)}</p>{_navigation()}</header>"
        f'<main id="content" tabindex="-1">{body}</main></body></html>'
    )


def _navigation() -> str:
    places = ("handlers", "publishers", "topics", "messages", "schemas")
    links = "".join(f'<li><a href="#{place}">{place.capitalize()}</a></li>' for place in places)
    return f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>'


def _servers(document: Json) -> str:
    hosts = [f"{each['protocol']}://{each['host']}" for each in document.get("servers", {}).values()]
    return f"; brokers: {escape(', '.join(hosts))}" if hosts else ""


# --- handlers and publishers


def _handlers(document: Json) -> str:
    by_handler: dict[str, list[Json]] = {}
    for operation in document["operations"].values():
        handler = operation.get("x-athomic", {}).get("handler")
        if handler is not None:
            by_handler.setdefault(handler, []).append(operation)
    articles = [_handler(document, *each) for each in sorted(by_handler.items())]
    return _section("handlers", articles, "The app has no handlers.")


def _handler(document: Json, handler: str, operations: Sequence[Json]) -> str:
    def topics(purpose: str) -> str:
        found = dict.fromkeys(_channel_of(each) for each in operations if _purpose(each) == purpose)
        return _list(_channel_link(document, channel) for channel in found)

    first = next(each for each in operations if _purpose(each) == "source")
    facts = first["x-athomic"]
    messages = dict.fromkeys(
        _last(message["$ref"]) for each in operations if _purpose(each) == "source" for message in each["messages"]
    )
    rows = {
        "Topics": topics("source"),
        "Messages": _list(_message_link(document, name) for name in messages),
        "Group": escape(facts["group_id"]),
        "Order": escape(facts["ordering"]),
        "Batches of": escape(str(facts.get("batch_size", ""))),
        "Attempts": escape(str(facts["max_attempts"] or "without limit")),
        "Retry topics": topics("retry"),
        "Dead letters": topics("dlq") or "none: failed messages are skipped",
        "Redrives": topics("redrive"),
    }
    return _article(f"handler-{handler}", handler, _text(first.get("description")) + _facts(rows))


def _publishers(document: Json) -> str:
    articles = [
        _article(
            f"publisher-{name}",
            operation["title"],
            _facts({
                "Topic": _channel_link(document, _channel_of(operation)),
                "Messages": _list(_message_link(document, _last(each["$ref"])) for each in operation["messages"]),
            }),
        )
        for name, operation in document["operations"].items()
        if _purpose(operation) == "published"
    ]  # fmt: skip
    return _section("publishers", articles, "The app declares no publishers: athomic.publisher(topic, Model).")


# --- topics


def _channels(document: Json) -> str:
    rows = [
        (
            f'<code id="{_anchor("topic", name)}">{escape(_channel_name(channel))}</code>',
            escape(channel.get("description", "")),
            _list(_message_link(document, message) for message in channel["messages"]),
        )
        for name, channel in document["channels"].items()
    ]
    table = _table("All topics", ("Topic", "What for", "Messages"), rows) if rows else ""
    return _section("topics", [table] if table else [], "None.")


# --- messages and schemas


def _messages(document: Json) -> str:
    articles = [
        _article(_anchor("message", name), message["title"], _message(name, message))
        for name, message in document["components"]["messages"].items()
    ]
    return _section("messages", articles, "None.")


def _message(name: str, message: Json) -> str:
    kafka = message["bindings"]["kafka"]
    location, steps = kafka.get("schemaIdLocation"), message.get("x-athomic", {}).get("steps", ())
    rows = {
        "Name": f"<code>{escape(name)}</code>",
        "Content type": escape(message.get("contentType", "")),
        "Payload": _payload_type(message["payload"]),
        "Key": _type(kafka["key"]) if "key" in kafka else "",
        "Headers": _headers(message["headers"]),
        "Written by": escape(", then ".join(steps)),
        "Schema id in": escape(location or ""),
        "Subject": escape(message.get("x-athomic", {}).get("subject", "")),
    }
    return _text(message.get("description")) + _facts(rows) + _written_out(name, message["payload"])


def _payload_type(payload: Json) -> str:
    return escape(payload["schemaFormat"]) if "schemaFormat" in payload else _type(payload)


def _written_out(name: str, payload: Json) -> str:
    if "schemaFormat" in payload:
        text = payload["schema"] if isinstance(payload["schema"], str) else _json(payload["schema"])
        return _details(f"Schema of {name}", text)
    return "" if "$ref" in payload else _schema(name, payload)


def _headers(headers: Json) -> str:
    parts = headers.get("allOf", [headers])
    links = [_type(part) for part in parts if "$ref" in part]
    own = [f"<code>{escape(name)}</code>" for part in parts for name in part.get("properties", ())]
    return _list([*links, *own])


def _schemas(document: Json) -> str:
    articles = [
        _article(_anchor("schema", name), name, _text(schema.get("description")) + _schema(name, schema))
        for name, schema in document["components"]["schemas"].items()
    ]
    return _section("schemas", articles, "None.")


def _schema(name: str, schema: Json) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return f"<p>{_type(schema)}{_remarks(schema)}</p>" + _details(f"JSON of {name}", _json(schema))
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _type(each),
            "yes" if field in required else "no",
            escape(each.get("description", "") if isinstance(each, Mapping) else "") + _remarks(each),
        )
        for field, each in properties.items()
    ]
    table = _table(f"Fields of {name}", ("Field", "Type", "Required", "Description"), rows)
    return table + _details(f"JSON of {name}", _json(schema))


def _type(schema: Any, depth: int = 0) -> str:
    """What a schema takes, in a few words."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return "anything"
    if "$ref" in schema:
        name = _last(schema["$ref"])
        return f'<a href="#{_anchor("schema", name)}">{escape(name)}</a>'
    for keyword, between in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
        if keyword in schema:
            return between.join(_type(each, depth + 1) for each in schema[keyword])
    kinds = schema.get("type", "")
    kind = escape(" or ".join(kinds) if isinstance(kinds, list) else str(kinds))
    if kind == "array":
        return f"array{_items(schema.get('items'), depth)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'], depth + 1)}"
    if "format" in schema:
        return f"{kind} ({escape(str(schema['format']))})"
    return kind or ("one of its values" if "enum" in schema or "const" in schema else "anything")


def _items(items: Any, depth: int) -> str:
    if isinstance(items, list):
        return f" of exactly {', '.join(_type(each, depth + 1) for each in items)}"
    return f" of {_type(items, depth + 1)}" if items else ""


def _remarks(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return ""
    told = [f"{name}: {json.dumps(schema[name], ensure_ascii=False)}" for name in _SHOWN if name in schema]
    return f' <span class="quiet">{escape("; ".join(told))}</span>' if told else ""


# --- pieces of HTML


def _section(name: str, articles: Sequence[str], otherwise: str) -> str:
    content = "".join(articles) or f'<p class="quiet">{escape(otherwise)}</p>'
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{name.capitalize()}</h2>{content}</section>'


def _article(anchor: str, title: str, content: str) -> str:
    return f'<article id="{escape(anchor, quote=True)}"><h3>{escape(title)}</h3>{content}</article>'


def _facts(rows: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in rows.items() if value)}</dl>"


def _list(items: Iterable[str]) -> str:
    found = [*items]
    return f"<ul>{''.join(f'<li>{item}</li>' for item in found)}</ul>" if len(found) > 1 else "".join(found)


def _table(label: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    region = f'class="table" role="region" tabindex="0" aria-label="{escape(label, quote=True)}"'
    return f"<div {region}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _text(text: object) -> str:
    return f'<p class="text">{escape(str(text))}</p>' if text else ""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


# --- where things are


def _purpose(operation: Json) -> str:
    return str(operation["tags"][0]["name"])


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]


def _channel_of(operation: Json) -> str:
    return _last(operation["channel"]["$ref"])


def _channel_name(channel: Json) -> str:
    return str(channel.get("title") or channel["address"])


def _channel_link(document: Json, name: str) -> str:
    return f'<a href="#{_anchor("topic", name)}">{escape(_channel_name(document["channels"][name]))}</a>'


def _message_link(document: Json, name: str) -> str:
    title = document["components"]["messages"][name]["title"]
    return f'<a href="#{_anchor("message", name)}">{escape(title)}</a>'


def _anchor(kind: str, name: str) -> str:
    """An id of the page. Names are identifiers of the document."""
    return f"{kind}-{name}"
