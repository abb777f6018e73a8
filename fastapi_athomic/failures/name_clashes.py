"""Do the topics of an app's handlers get along? Names that collide are refused before anything starts.

That two handlers of one group consume one topic is not judged here, nor what only a pattern matches: its topics are not
known yet.
"""

from __future__ import annotations

from typing import NamedTuple

from ..exceptions import ConfigurationError


class Uses(NamedTuple):
    """The topics of one handler."""

    handler_id: str
    dead_letters: dict[str, str | None]  # by source that it names: the DLQ topic; None: it has none
    returns: list[str]  # its retry and redrive topics

    @property
    def dlqs(self) -> list[str]:
        """The DLQ topics."""
        return [dlq for dlq in self.dead_letters.values() if dlq is not None]


class NameClashes:
    """Compares each handler's topics with those of the handlers before it."""

    def __init__(self, *, create_topics: bool) -> None:
        """`create_topics`: missing topics are created. Else they may be on a broker that has no rule about names."""
        self._create_topics = create_topics
        self._names: dict[str, tuple[str, str]] = {}  # as Kafka compares them: the topic, and the handler that named it
        self._returns: dict[str, str] = {}  # retry and redrive topics: the handler
        self._dlqs: dict[str, str] = {}  # the first handler that writes to it; a DLQ may be shared
        self._next: dict[str, set[str]] = {}  # by topic: where dead letters of its messages go

    def admit(self, uses: Uses) -> None:
        """Admits a handler's topics beside those that were admitted before.

        Raises:
            ConfigurationError: they do not get along. One sentence, which names the handlers and the topics.
        """
        problem = self._shared(uses) or self._too_similar(uses) or self._circle(uses)
        if problem is not None:
            raise ConfigurationError(f"handler {uses.handler_id}: {problem}")
        self._returns |= dict.fromkeys(uses.returns, uses.handler_id)
        self._dlqs = {**dict.fromkeys(uses.dlqs, uses.handler_id), **self._dlqs}

    def _shared(self, uses: Uses) -> str | None:
        for topic in uses.returns:
            if topic in self._returns:
                return (
                    f"its retry or redrive topic {topic} is that of handler {self._returns[topic]}, too, and each "
                    "would get messages of the other: change a group_id, or put {topic} and {group_id} into the "
                    "templates retry_topic and redrive_topic of the settings"
                )
            if topic in self._dlqs:
                return (
                    f"its retry or redrive topic {topic} is where handler {self._dlqs[topic]} writes dead letters, and "
                    f"they would be handled again: name another topic with the dlq of {self._dlqs[topic]}"
                )
        for topic in uses.dlqs:
            if topic in self._returns:
                return (
                    f"its dead letters would go to {topic}, a retry or redrive topic of handler "
                    f"{self._returns[topic]}, and be handled again: name another topic with dlq"
                )
        return None

    def _too_similar(self, uses: Uses) -> str | None:
        """Kafka's rule is `Topic.hasCollision`: metrics write a period as an underscore. Redpanda has no such rule."""
        if not self._create_topics:
            return None
        for topic in dict.fromkeys((*uses.dead_letters, *uses.dlqs, *uses.returns)):
            other, handler_id = self._names.setdefault(topic.replace(".", "_"), (topic, uses.handler_id))
            if other != topic:
                whose = "" if handler_id == uses.handler_id else f" (of handler {handler_id})"
                return (
                    f"Kafka does not create the topic {topic} beside {other}{whose}, as '.' and '_' count as the same "
                    "in its names: rename one of them, or, if your broker has both, set create_topics to false"
                )
        return None

    def _circle(self, uses: Uses) -> str | None:
        for source, dlq in uses.dead_letters.items():
            if dlq is not None:
                self._next.setdefault(source, set()).add(dlq)
        for source in uses.dead_letters:
            path = self._way_back(source, [source])
            if path is not None:
                return (
                    f"its dead letters would come back without end, {' -> '.join(path)}: name another topic with dlq, "
                    "or give one of these handlers dlq=False"
                )
        return None

    def _way_back(self, source: str, path: list[str]) -> list[str] | None:
        """The way of dead letters from the end of the path to `source`; None if there is none."""
        for topic in sorted(self._next.get(path[-1], ())):
            if topic == source:
                return [*path, topic]
            if topic not in path and (found := self._way_back(source, [*path, topic])) is not None:
                return found
        return None
