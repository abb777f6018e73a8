"""The topics that the product makes, for dead letters, retries and redrives: their names, and how they are known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from hashlib import blake2s
from string import Formatter

from ..decorators import Subscription
from ..settings import AthomicSettings

LONGEST_NAME = 249
"""Characters of a topic name at most (Kafka's `Topic.validate`)."""
DIGEST_SIZE = 8
"""Bytes of a digest that stands for the rest of a name that is too long."""
SHORTEST_FIT = "x" * (2 * DIGEST_SIZE + 2)
"""The shortest that a long name is cut down to: one of its characters, and the digest."""
LONGEST_DELAY = "0" * 10
"""Stands for a delay where only the length of a name counts."""

ANY = r"[a-zA-Z0-9._-]+"
ANY_DELAY = r"[0-9.e+-]+"
TEMPLATES = ("dlq_topic", "retry_topic", "redrive_topic")


def templates_of(settings: AthomicSettings, name: str) -> tuple[str, ...]:
    """The template of the settings, then the default one if that is another: a deploy may have changed it."""
    default = AthomicSettings.model_fields[name].default
    return tuple(dict.fromkeys((getattr(settings, name), default)))


def template_regex(template: str, *, topic: str = ANY, group: str = ANY, delay: str = ANY_DELAY) -> str:
    """A regular expression for the names that a template makes; the arguments are expressions, too.

    Named groups `source` and `delay` hold what the name was made of.
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
    """Tells the topics that the product makes, for any topic, group and delay, from all others, by their names.

    Known are the templates of the settings, the default ones (other apps may use them), and the DLQs that handlers of
    this app name. Where a template's own text has neither letter nor digit (`{topic}.{group_id}`), its names look like
    anybody's: only those of this app's groups count.
    """

    def __init__(self, settings: AthomicSettings, subscriptions: Collection[Subscription] = ()) -> None:
        self._named = {each.dlq for each in subscriptions if isinstance(each.dlq, str)}
        groups = "|".join(sorted({re.escape(each.group_id) for each in subscriptions})) or "(?!)"
        templates = dict.fromkeys(template for name in TEMPLATES for template in templates_of(settings, name))
        self._regexes = [re.compile(template_regex(each, group=_groups(each, groups))) for each in templates]
        self._ours = [re.compile(template_regex(each, group=groups)) for each in templates]

    def made(self, topic: str) -> bool:
        return topic in self._named or any(regex.fullmatch(topic) for regex in self._regexes)

    def made_for_us(self, topic: str) -> bool:
        """For a group of this app. On a broker with many services, those of all others may be thousands."""
        return any(regex.fullmatch(topic) for regex in self._ours)


def _groups(template: str, known: str) -> str:
    own_text = "".join(literal for literal, *_ in Formatter().parse(template))
    return ANY if any(map(str.isalnum, own_text)) else known


def fitting(source: str, group_id: str, templates: Iterable[str]) -> str:
    """The source topic's name as it stands in the names of the topics made for it.

    As it is, unless one of them would become too long: then shortened, with a digest of the whole.
    """
    others = [template.format(topic="", group_id=group_id, delay=LONGEST_DELAY) for template in templates]
    room = LONGEST_NAME - max(map(len, others))
    if len(source) <= room:
        return source
    digest = blake2s(source.encode(), digest_size=DIGEST_SIZE).hexdigest()
    return f"{source[: max(0, room - len(digest) - 1)]}-{digest}"
