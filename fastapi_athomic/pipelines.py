"""The payload pipelines of an app: as its code gives them, or else as its settings say.

What a pipeline is made of is imported when one is made: an app that has only JSON loads none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from .exceptions import ConfigurationError
from .payload.pipeline import PayloadPipeline
from .payload.routing import Payloads, TopicPayloads
from .payload.steps import BytesStep, Serializer
from .payload_settings import PATTERN, PayloadSettings, PipelineSettings, Planned, RegistrySettings
from .variables import variable


def new_payloads(
    settings: PayloadSettings, payload: PayloadPipeline | None, by_topic: TopicPayloads | None
) -> Payloads:
    """The pipelines of an app.

    Args:
        settings: what an operator has set.
        payload: the app's own, from code.
        by_topic: those of single topics, from code.

    Raises:
        ConfigurationError: code and settings both give some, or one cannot be made; the sentence names the variable.
    """
    if not settings.configured:
        return Payloads(payload, by_topic)
    if payload is not None or by_topic:
        option = "topic_payloads" if payload is None else "payload"
        raise ConfigurationError(
            f"include_athomic({option}=...) and {', '.join(_set(settings))} both say how payloads are written and "
            "read: leave one of them out"
        )
    return _Builder(settings).payloads()


class _Builder:
    """Makes the pipelines that the settings want. Topics with the same settings share one."""

    def __init__(self, settings: PayloadSettings) -> None:
        self._settings = settings
        self._made: dict[PipelineSettings, PayloadPipeline] = {}
        self._registry = None if settings.registry.url is None else new_registry(settings.registry)

    def payloads(self) -> Payloads:
        own, *others = self._settings.pipelines()
        return Payloads(self._pipeline(own), {_topic(planned.topic): self._pipeline(planned) for planned in others})

    def _pipeline(self, planned: Planned) -> PayloadPipeline:
        settings = planned.settings
        if settings not in self._made:
            serializer = settings.serializer or "json"
            with _named(planned, "serializer"):
                first = self._serializer(serializer, settings)
                reads = [self._serializer(name, settings) for name in settings.reads or () if name != serializer]
            steps = [*_compression(planned), *_encryption(planned), *_claim_check(planned)]
            with _named(planned):
                self._made[settings] = PayloadPipeline([first, *steps], reads=reads)
        return self._made[settings]

    def _serializer(self, name: str, settings: PipelineSettings) -> Serializer:
        if name == "json":
            from .payload.json_format import Json

            return Json()
        if name == "messagepack":
            from .payload.messagepack import MessagePack

            return MessagePack()
        registry: Any = self._registry  # the settings were refused if there were none
        options = _given(
            framing=settings.schema_framing,
            subject=settings.schema_subject,
            auto_register=settings.schema_auto_register,
        )
        if name == "avro":
            from .schemas.avro import Avro

            return Avro(registry, **options)
        if name == "protobuf":
            from .schemas.protobuf import Protobuf

            return Protobuf(registry, **options)
        from .schemas.json_schema import JsonSchema

        return JsonSchema(registry, **options)


def new_registry(settings: RegistrySettings) -> Any:
    """The client of the schema registry that the settings name."""
    from .schemas.registry import SchemaRegistry

    options = {name: getattr(settings, name) for name in RegistrySettings.model_fields if name != "url"}
    try:
        return SchemaRegistry(settings.url or "", **_given(**options))
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable(('payload', 'registry'))}: {error}") from None


def _compression(planned: Planned) -> Iterator[BytesStep]:
    settings = planned.settings
    if settings.compression in (None, "none"):
        return
    from .payload import compression

    codecs: dict[str, Callable[..., BytesStep]] = {
        "gzip": compression.Gzip,
        "zstd": compression.Zstd,
        "lz4": compression.Lz4,
    }
    limit = _given(max_size=settings.compression_max_size)
    options = _given(
        level=settings.compression_level,
        required=settings.compression_required,
        writes=settings.compression_writes,
    )
    with _named(planned, "compression"):
        for name in settings.compression_reads or ():
            if name != settings.compression:
                yield codecs[name](**limit, writes=False)
        yield codecs[str(settings.compression)](**limit, **options)


def _encryption(planned: Planned) -> Iterator[BytesStep]:
    settings = planned.settings
    if settings.encryption in (None, "none"):
        return
    from .payload import encryption
    from .payload.keys import KeyFile, Keys

    file = settings.encryption_keys_file
    keys: Keys = settings.encryption_keys or () if file is None else KeyFile(file)
    options = _given(required=settings.encryption_required, writes=settings.encryption_writes)
    with _named(planned, "encryption_keys" if file is None else "encryption_keys_file"):
        if settings.encryption == "fernet":
            yield encryption.Fernet(keys, **options)
        else:
            yield encryption.AesGcm(keys, **options)


def _claim_check(planned: Planned) -> Iterator[BytesStep]:
    settings = planned.settings
    if settings.claim_check in (None, "none"):
        return
    from .payload import claim_check

    parts = urlsplit(settings.claim_check)
    with _named(planned, "claim_check"):
        if parts.scheme == "file":
            store: Any = claim_check.Folder(unquote(parts.path))
        else:
            endpoint = _given(endpoint=settings.claim_check_endpoint)
            store = claim_check.S3(parts.netloc, prefix=unquote(parts.path).strip("/"), **endpoint)
        options = _given(
            threshold=settings.claim_check_threshold,
            max_size=settings.claim_check_max_size,
            writes=settings.claim_check_writes,
        )
        yield claim_check.ClaimCheck(store, **options)


def _topic(topic: str | None) -> str | re.Pattern[str]:
    assert topic is not None
    return re.compile(topic.removeprefix(PATTERN)) if topic.startswith(PATTERN) else topic


def _given(**options: Any) -> dict[str, Any]:
    """Those that are set; the others are left to the defaults of what is made."""
    return {name: value for name, value in options.items() if value is not None}


def _set(settings: PayloadSettings) -> list[str]:
    """The variables of what is set."""
    plain = PayloadSettings()
    return [
        variable(("payload", name))
        for name in PayloadSettings.model_fields
        if getattr(settings, name) != getattr(plain, name)
    ]


@contextmanager
def _named(planned: Planned, field: str | None = None) -> Iterator[None]:
    """Errors name the variable."""
    try:
        yield
    except ConfigurationError as error:
        path = planned.path if field is None else (*planned.path, field)
        raise ConfigurationError(f"{variable(path)}: {planned.place}{error}") from None
