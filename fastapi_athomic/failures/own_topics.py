"""The names of own topics (DLQ, retry, redrive): builds them, and recognises those that the package makes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from hashlib import blake2s
from string import Formatter

from ..messages import MessageHeaders, RawMessage
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .letter_headers import GROUP, PREFIX, WRITTEN_TO, read_earlier

LONGEST_NAME = 249
"""Most characters of a topic name (Kafka's `Topic.validate`)."""
DIGEST_SIZE = 8
"""Bytes of the digest that replaces the end of a name that is too long."""
SHORTEST_FIT = "x" * (2 * DIGEST_SIZE + 2)
"""As long as the shortest form of a long name: one of its characters, a hyphen and the digest."""
LONGEST_DELAY = "0" * 10
"""Stands for a delay when the length of a name is computed."""

ANY = r"[a-zA-Z0-9._-]+"
ANY_DELAY = r"[0-9.e+-]+"
RETURNING = ("retry_topic", "redrive_topic")
TEMPLATES = ("dlq_topic", *RETURNING)


def templates_of(settings: AthomicSettings, name: str) -> tuple[str, ...]:
    """The template of the settings, then the default one if it differs: an earlier deploy may have used it."""
    default = AthomicSettings.model_fields[name].default
    return tuple(dict.fromkeys((getattr(settings, name), default)))


def template_regex(template: str, *, topic: str = ANY, group: str = ANY, delay: str = ANY_DELAY) -> str:
    """A regular expression for the names that a template makes. The arguments are regular expressions, too.

    Its groups `source` and `delay` hold the source topic and the delay in the name.
    """
    parts = {"topic": f"(?P<source>{topic})", "group_id": f"(?:{group})", "delay": f"(?P<delay>{delay})"}
    found = ""
    for literal, field, _, _ in Formatter().parse(template):
        found += re.escape(literal)
        if field is not None:
            found += parts[field]
            parts |= {"topic": "(?P=source)"} if field == "topic" else {}
            parts |= {"delay": "(?P=delay)"} if field == "delay" else {}
    return found


class OwnTopics:
    """Tells by its name whether the package makes a topic, for any source topic, group and delay.

    It knows the templates of the settings, the default templates (other apps may use them), and the DLQs that handlers
    of this app name. A template without a letter or digit of its own (`{topic}.{group_id}`) makes names that look like
    any other: for such templates only groups of this app are recognized.
    """

    def __init__(self, settings: AthomicSettings, subscriptions: Collection[Subscription] = ()) -> None:
        self._named = {each.dlq for each in subscriptions if isinstance(each.dlq, str)}
        self._subscriptions = tuple(subscriptions)
        groups = "|".join(sorted({re.escape(each.group_id) for each in subscriptions})) or "(?!)"
        templates = dict.fromkeys(template for name in TEMPLATES for template in templates_of(settings, name))
        self._templates = tuple(templates)
        self._regexes = [re.compile(template_regex(each, group=_groups(each, groups))) for each in templates]
        self._ours = [re.compile(template_regex(each, group=groups)) for each in templates]
        returning = {each for name in RETURNING for each in templates_of(settings, name)}
        self._returns = [regex for each, regex in zip(templates, self._ours, strict=True) if each in returning]

    def made(self, topic: str) -> bool:
        """The package made it, for a group of any app."""
        return topic in self._named or any(regex.fullmatch(topic) for regex in self._regexes)

    def made_for_us(self, topic: str) -> bool:
        """It was made for a group of this app. With many services on a broker, others may have thousands."""
        return any(regex.fullmatch(topic) for regex in self._ours)

    def may_return(self, topic: str) -> bool:
        """It may be a retry or redrive topic of a group of this app: of which one, `ReturnTopics` finds out."""
        return any(regex.fullmatch(topic) for regex in self._returns)

    def source_of_letter(self, message: RawMessage) -> str | None:
        """The source topic that a dead letter names, in a DLQ (or retry) topic whose name confirms it; else None.

        Headers are anybody's to write. So the topic must be one that the templates make of this very source and group,
        or a DLQ that a handler of this app names, in this group and for this source.
        """
        headers = MessageHeaders(message.headers)
        source, group = headers.text(f"{PREFIX}original-topic"), headers.text(GROUP)
        if not source or not group or headers.text(WRITTEN_TO) != message.topic:
            return None
        return source if self._holds_letters_of(message.topic, source, group) else None

    def first_topic(self, source: str, message: RawMessage) -> str:
        """Where a message was first published that is one of `source` now: elsewhere, if that holds dead letters.

        The headers name the topics and groups where it failed before; the name of each topic must confirm the one
        before. Else it is `source`.
        """
        earlier = read_earlier(MessageHeaders(message.headers))
        following = [*(topic for topic, _ in earlier[1:]), source]
        confirmed = all(self._holds_letters_of(topic, *each) for topic, each in zip(following, earlier, strict=False))
        return earlier[0][0] if earlier and confirmed else source

    def _holds_letters_of(self, topic: str, source: str, group: str) -> bool:
        named = any(
            each.dlq == topic and each.group_id == group and _consumes(each, source) for each in self._subscriptions
        )
        return named or self._is_made_of(topic, source, group)

    def _is_made_of(self, topic: str, source: str, group: str) -> bool:
        short = fitting(source, group, self._templates)
        exact = (
            template_regex(template, topic=re.escape(short), group=re.escape(group))
            for template in self._templates
            if "{topic}" in template
        )
        return any(re.fullmatch(regex, topic) for regex in exact)


def _consumes(subscription: Subscription, source: str) -> bool:
    pattern = subscription.pattern
    return source in subscription.topics if pattern is None else pattern.fullmatch(source) is not None


def _groups(template: str, known: str) -> str:
    own_text = "".join(literal for literal, *_ in Formatter().parse(template))
    return ANY if any(map(str.isalnum, own_text)) else known


def fitting(source: str, group_id: str, templates: Iterable[str]) -> str:
    """What the templates get for `{topic}`: the source topic's name, shortened if a name would become too long.

    A shortened name ends with a digest of the whole one.
    """
    others = [template.format(topic="", group_id=group_id, delay=LONGEST_DELAY) for template in templates]
    room = LONGEST_NAME - max(map(len, others))
    if len(source) <= room:
        return source
    digest = blake2s(source.encode(), digest_size=DIGEST_SIZE).hexdigest()
    return f"{source[: max(0, room - len(digest) - 1)]}-{digest}"
