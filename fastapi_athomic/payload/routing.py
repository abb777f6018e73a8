"""Which pipeline is for which topic? One table serves publishing and consuming."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import ConfigurationError
from .pipeline import PayloadPipeline, SourceOf
from .steps import Decoder, Later, Received

TopicPayloads = Mapping[str | re.Pattern[str], PayloadPipeline]
"""Pipelines by the names of topics, or by patterns that must match the whole name; the first that fits counts."""


class Payloads:
    """The pipelines of an app."""

    def __init__(self, default: PayloadPipeline, by_topic: TopicPayloads | None = None) -> None:
        self.default = default
        self._by_topic: dict[str, PayloadPipeline] = {}
        self._patterns: list[tuple[re.Pattern[str], PayloadPipeline]] = []
        for topic, pipeline in (by_topic or {}).items():
            if isinstance(topic, str):
                self._by_topic[topic] = pipeline
            else:
                self._patterns.append((topic, pipeline))
        self._of_handlers: dict[str, list[PayloadPipeline]] = {}

    def add_handler(self, topics: Collection[str], pipeline: PayloadPipeline) -> None:
        """A handler of these topics has a pipeline of its own: what is published to them must fit."""
        for topic in topics:
            known = self._of_handlers.setdefault(topic, [])
            if pipeline not in known:
                known.append(pipeline)

    def of_topic(self, topic: str) -> PayloadPipeline:
        """What messages are published to a topic with.

        Raises:
            ConfigurationError: its handlers in this app want different ones.
        """
        found = self._given(topic)
        if found is not None:
            return found
        wanted = self._of_handlers.get(topic, ())
        if len(wanted) > 1:
            raise ConfigurationError(
                f"the handlers of {topic} have different payload pipelines: say which one with publish(..., "
                "payload=...), or give include_athomic one for the topic"
            )
        return wanted[0] if wanted else self.default

    def decoder(
        self,
        topics: Collection[str],
        own: PayloadPipeline | None,
        target_type: Any,
        source_of: SourceOf,
    ) -> tuple[Decoder, bool]:
        """What a handler decodes messages of these topics with, and whether that may give a `Later`.

        Args:
            topics: the topics that it names; empty for a pattern.
            own: the handler's own pipeline.
            target_type: what messages are decoded into.
            source_of: gives the topic in which the messages of a topic were first.

        Raises:
            ConfigurationError: the serializer cannot give this type.
        """
        if own is not None:
            return own.decoder(target_type, source_of), own.waits
        pipelines = {topic: self._given(topic) or self.default for topic in topics}
        different = {*pipelines.values()} or {self.default, *(pipeline for _, pipeline in self._patterns)}
        if len(different) == 1 and (topics or not self._by_topic):
            (pipeline,) = different
            return pipeline.decoder(target_type, source_of), pipeline.waits
        for pipeline in different:
            pipeline.decoder(target_type)  # refuses types that it cannot give

        def new_decoder(topic: str) -> Decoder:
            return (self._given(topic) or self.default).decoder(target_type, source_of)

        return _ByTopic(new_decoder, source_of).decode, any(pipeline.waits for pipeline in self.all())

    async def open(self) -> None:
        """Called in the event loop of the consumers, before anything is read or written."""
        for pipeline in self.all():
            await pipeline.open()

    async def close(self) -> None:
        """Called when the app stops."""
        for pipeline in self.all():
            await pipeline.close()

    def read_with(self, topic: str) -> PayloadPipeline:
        """What messages of a topic are read with, unless their handler has a pipeline of its own."""
        return self._given(topic) or self.default

    def all(self) -> set[PayloadPipeline]:
        """Every pipeline that is known."""
        of_handlers = (pipeline for known in self._of_handlers.values() for pipeline in known)
        return {self.default, *self._by_topic.values(), *(pipeline for _, pipeline in self._patterns), *of_handlers}

    def _given(self, topic: str) -> PayloadPipeline | None:
        found = self._by_topic.get(topic)
        if found is not None:
            return found
        return next((pipeline for pattern, pipeline in self._patterns if pattern.fullmatch(topic)), None)


class _ByTopic:
    """Decodes the messages of topics that have different pipelines."""

    def __init__(self, new_decoder: Any, source_of: SourceOf) -> None:
        self._new_decoder = new_decoder
        self._source_of = source_of
        self._decoders: dict[str, Decoder] = {}

    def decode(self, message: Received) -> Any | Later[Any]:
        topic = message.topic
        decode = self._decoders.get(topic)
        if decode is None:
            decode = self._decoders[topic] = self._new_decoder(self._source_of(topic))
        return decode(message)
