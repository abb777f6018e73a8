"""Which pipeline is for which topic? One table serves publishing and consuming."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

from ..exceptions import ConfigurationError
from ..messages import RawMessage
from .annotations import type_name
from .life import OpenParts
from .own_steps import is_payload_step
from .pipeline import PayloadPipeline
from .reading import SourceOf
from .steps import BytesStep, Decoder, Later, Received, Serializer

TopicPayloads = Mapping[Any, PayloadPipeline]  # keys: str | re.Pattern[str]; mappings are invariant in them
"""Pipelines by the names of topics, or by patterns that must match the whole name; the first that fits counts."""


class Wanted(NamedTuple):
    """What a handler wants of its messages."""

    topics: Collection[str]  # that it names; empty for a pattern
    payload: PayloadPipeline | None  # its own pipeline
    target_type: Any  # what messages are decoded into; `RawMessage`: they stay as they came
    key_types: Sequence[Any] = ()  # what their keys are decoded into, once for each type


class Reader(NamedTuple):
    """A handler that decodes what it reads."""

    handler_id: str
    reads: Callable[[str], bool]  # whether it consumes a topic
    payload: PayloadPipeline | None  # its own pipeline


class Decoding(NamedTuple):
    """How the messages of a handler are decoded."""

    decode: Decoder | None  # None: it takes them as they came. With keys: gives pairs of the value and all keys
    keyed: bool
    hint: Callable[[RawMessage], str]  # for the end of an error: why a message cannot be decoded


class Payloads:
    """The pipelines of an app.

    Raises:
        ConfigurationError: something is no pipeline, or no topic.
    """

    def __init__(self, default: PayloadPipeline | None = None, by_topic: TopicPayloads | None = None) -> None:
        self.default = PayloadPipeline() if default is None else checked("payload", default)
        self._by_topic: dict[str, PayloadPipeline] = {}
        self._patterns: list[tuple[re.Pattern[str], PayloadPipeline]] = []
        if by_topic is not None and not isinstance(by_topic, Mapping):
            raise ConfigurationError(f"topic_payloads must be a dict of pipelines by topic, not {_shown(by_topic)}")
        for topic, pipeline in (by_topic or {}).items():
            self._add(topic, checked(f"topic_payloads: the pipeline of {topic!r}", pipeline))
        self._of_handlers: dict[str, list[PayloadPipeline]] = {}
        self.find_handlers: Callable[[], None] | None = None
        """Calls `add_handler` for those that have a pipeline. Called once, when a topic's handlers first matter."""
        self._open = OpenParts()

    def _add(self, topic: Any, pipeline: PayloadPipeline) -> None:
        if isinstance(topic, str):
            self._by_topic[topic] = pipeline
        elif isinstance(topic, re.Pattern) and isinstance(topic.pattern, str):
            self._patterns.append((topic, pipeline))
        else:
            raise ConfigurationError(
                f"topic_payloads: a topic is a name or a compiled pattern of text, not {_shown(topic)}"
            )

    def add_handler(self, topics: Collection[str], pipeline: PayloadPipeline) -> None:
        """A handler of these topics has a pipeline of its own: what is published to them must fit."""
        for topic in topics:
            known = self._of_handlers.setdefault(topic, [])
            if pipeline not in known:
                known.append(pipeline)

    # --- publishing

    def of_topic(self, topic: str) -> PayloadPipeline:
        """What messages are published to a topic with.

        Raises:
            ConfigurationError: its handlers in this app want different ones.
        """
        found = self._given(topic)
        if found is not None:
            return found
        if self.find_handlers is not None:
            find, self.find_handlers = self.find_handlers, None
            find()
        wanted = self._of_handlers.get(topic, ())
        if len(wanted) > 1:
            raise ConfigurationError(
                f"the handlers of {topic} have different payload pipelines: say which one with publish(..., "
                "payload=...), or give include_athomic one for the topic"
            )
        return wanted[0] if wanted else self.default

    # --- consuming

    def decoding(self, wanted: Wanted, source_of: SourceOf, is_own: Callable[[str], bool]) -> Decoding:
        """How a handler decodes its messages.

        Args:
            wanted: by the handler.
            source_of: gives the topic in which a message was first published.
            is_own: whether a topic may hold dead letters of some handler. They are read as messages of their source.

        Raises:
            ConfigurationError: a serializer cannot give a type.
        """
        pipelines = [wanted.payload] if wanted.payload is not None else self._of(wanted.topics, is_own)
        if _takes_events(wanted.target_type) and all(pipeline.has_only_json for pipeline in pipelines):
            raise ConfigurationError(
                f"it takes {type_name(wanted.target_type)}, and the payload pipeline of its topics has no "
                "CloudEvents(...)"
            )
        if len(pipelines) == 1:
            (pipeline,) = pipelines
            decode = _decoder(pipeline, wanted, source_of)
            return Decoding(decode, bool(wanted.key_types), pipeline.hint)
        for pipeline in pipelines:
            _decoder(pipeline, wanted, source_of)  # refuses types that it cannot give
        by_topic = _ByTopic(partial(self._reading, wanted, source_of), source_of)
        decode = None if wanted.target_type is RawMessage and not wanted.key_types else by_topic.decode
        return Decoding(decode, bool(wanted.key_types), by_topic.hint)

    def read_with(self, topic: str, own: PayloadPipeline | None) -> PayloadPipeline:
        """What a handler reads messages of a topic with. `own`: its own pipeline."""
        return own or self._given(topic) or self.default

    def _of(self, topics: Collection[str], is_own: Callable[[str], bool]) -> list[PayloadPipeline]:
        """The pipelines that messages of these topics may need, each once."""
        if not topics or any(is_own(topic) and topic not in self._by_topic for topic in topics):
            return self.all() if self._by_topic or self._patterns or self._of_handlers else [self.default]
        return _each_once(self._given(topic) or self.default for topic in topics)

    def _reading(self, wanted: Wanted, source_of: SourceOf, topic: str, source: str) -> _Reading:
        foreign = topic != source and source not in wanted.topics
        pipeline = self._found(topic, source, of_handlers=foreign)
        return _Reading(_decoder(pipeline, wanted, source_of) or _as_it_came, pipeline.hint)

    def of_letter(self, own: PayloadPipeline | None, source: str, first: str) -> PayloadPipeline:
        """What a dead letter of a handler is read with. `own`: its own pipeline; `first`: of another one's letter."""
        return own or self._found(source, first, of_handlers=first != source)

    def _found(self, topic: str, first: str, *, of_handlers: bool) -> PayloadPipeline:
        """For a message in a topic that was `first` in another one. `of_handlers`: it is a letter of one of those."""
        found = self._by_topic.get(topic) or self._given(first)
        wanted = self._of_handlers.get(first, []) if of_handlers else []
        if found is None and len(wanted) == 1:
            found = wanted[0]
        return found or self.default

    def all(self) -> list[PayloadPipeline]:
        """Every pipeline that is known, each once."""
        of_handlers = (pipeline for known in self._of_handlers.values() for pipeline in known)
        of_patterns = (pipeline for _, pipeline in self._patterns)
        return _each_once((self.default, *self._by_topic.values(), *of_patterns, *of_handlers))

    def disagreements(self, readers: Iterable[Reader]) -> Iterator[str]:
        """Sentences about topics where one handler has a pipeline of its own, and another one, of `readers`, has none.

        What is published there is written for the first. Not where `topic_payloads` says what is meant.
        """
        for topic in [topic for topic in self._of_handlers if self._given(topic) is None]:
            of_topic = [each for each in readers if each.reads(topic)]
            own = [each.handler_id for each in of_topic if each.payload not in (None, self.default)]
            others = [each.handler_id for each in of_topic if each.payload is None]
            if own and others:
                yield (
                    f"{topic}: handler {' and '.join(own)} has a payload pipeline of its own, which what is published "
                    f"to the topic is written with, and {' and '.join(others)} reads with the app's: give "
                    f"include_athomic(topic_payloads={{{topic!r}: ...}}) one for all"
                )

    def misspelt(self, topics: Collection[str]) -> Iterator[str]:
        """Sentences about names in `topic_payloads` that are nearly those of topics that handlers read with the app's.

        Of `topics`, which handlers without pipelines of their own consume. A topic that is only published to is named
        by no handler: so what merely is unknown is not told.
        """
        without = [topic for topic in dict.fromkeys(topics) if self._given(topic) is None]
        for given in self._by_topic:
            if given not in topics:
                for topic in without:
                    if _plain(given) == _plain(topic):
                        yield f"{given} has a pipeline and no handler, and a handler of {topic} has none: one topic?"

    # --- life

    @property
    def open_parts(self) -> list[Serializer | BytesStep]:
        """The steps of all pipelines, while they are open. May be asked from another thread."""
        return self._open.all

    async def open(self, timeout: float) -> None:
        """Opens what is known now and not open yet, in the event loop of the consumers. See `OpenParts.open`."""
        await self._open.open(self.all(), timeout)

    async def adopt(self, pipeline: PayloadPipeline, timeout: float) -> None:
        """Opens a pipeline that is used without being one of the app's. It is closed with the others."""
        await self._open.open([pipeline], timeout)

    async def close(self, timeout: float) -> None:
        """Closes all that was opened. Never raises."""
        await self._open.close(timeout)

    # --- internals

    def _given(self, topic: str) -> PayloadPipeline | None:
        found = self._by_topic.get(topic)
        if found is not None or not self._patterns:
            return found
        return next((pipeline for pattern, pipeline in self._patterns if pattern.fullmatch(topic)), None)


class _Reading(NamedTuple):
    decode: Decoder
    hint: Callable[[RawMessage], str]


class _ByTopic:
    """Decodes the messages of topics that have different pipelines."""

    def __init__(self, reading: Callable[[str, str], _Reading], source_of: SourceOf) -> None:
        self._reading = reading
        self._source_of = source_of
        self._readings: dict[tuple[str, str], _Reading] = {}

    def decode(self, message: Received) -> Any | Later[Any]:
        return self._of(message).decode(message)

    def hint(self, message: RawMessage) -> str:
        """See `Decoding.hint`."""
        return self._of(message).hint(message)

    def _of(self, message: Received) -> _Reading:
        topic, source = message.topic, self._source_of(message)
        found = self._readings.get((topic, source))
        if found is None:
            found = self._readings[topic, source] = self._reading(topic, source)
        return found


class _Keyed:
    """Decodes values together with keys."""

    def __init__(self, value: Decoder, keys: Sequence[Decoder]) -> None:
        self._value = value
        self._keys = keys

    def decode(self, message: Received) -> Any:
        """A pair of the value and the keys, or a `Later` of it."""
        value, keys = self._value(message), [read(message) for read in self._keys]
        if isinstance(value, Later) or any(isinstance(key, Later) for key in keys):
            return Later(partial(self._later, value, keys))
        return value, keys

    async def _later(self, value: Any, keys: Sequence[Any]) -> Any:
        there = [await each if isinstance(each, Later) else each for each in (value, *keys)]
        return there[0], there[1:]


def _decoder(pipeline: PayloadPipeline, wanted: Wanted, source_of: SourceOf) -> Decoder | None:
    raw = wanted.target_type is RawMessage
    value = None if raw else pipeline.decoder(wanted.target_type, source_of)
    if not wanted.key_types:
        return value
    return _Keyed(value or _as_it_came, [pipeline.key_decoder(each, source_of) for each in wanted.key_types]).decode


def _as_it_came(message: Received) -> Any:
    return message


def _plain(topic: str) -> str:
    """What is left of a name without what people mistake: capitals, `-`, `_` and `.`, the plural."""
    return "".join(part.removesuffix("s") for part in re.split(r"[-_.]", topic.lower()))


def _takes_events(kind: Any) -> bool:
    """Whether a type is `CloudEvent[...]`, or has one as a member or argument."""
    return getattr(kind, "is_cloud_event", False) is True or any(_takes_events(each) for each in get_args(kind))


def _each_once(pipelines: Any) -> list[PayloadPipeline]:
    return list(dict.fromkeys(pipelines))


def checked(what: str, given: Any) -> PayloadPipeline:
    """The pipeline that an option was given.

    Raises:
        ConfigurationError: it is none. The text begins with `what`, and says how it is written.
    """
    if isinstance(given, PayloadPipeline):
        return given
    if isinstance(given, Serializer | BytesStep) or is_payload_step(given):
        name = type(given).__name__
        raise ConfigurationError(f"{what} must be a pipeline: PayloadPipeline([{name}(...)]), not {name}(...) alone")
    raise ConfigurationError(f"{what} must be a PayloadPipeline(...), not {_shown(given)}")


def _shown(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"an object of {type(thing).__name__}"
