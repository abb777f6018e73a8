"""The payload pipelines of an app, as an operator sets them: `ATHOMIC_PAYLOAD__...`.

Nothing is made here: `pipelines` builds what is set. Whatever makes no sense is refused, also what would not be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from .addresses import checked_registry_url, is_bare_url
from .compatibility import unpacked_list
from .variables import Checked, Count, PositiveSeconds, Seconds, variable

Format = Literal["json", "messagepack", "avro", "protobuf", "json_schema"]
Codec = Literal["gzip", "zstd", "lz4"]

WITH_SCHEMAS = ("avro", "protobuf", "json_schema")
"""The formats whose schemas a registry keeps."""
PATTERN = "re:"
"""Begins the `topic` of a table if it is a regular expression, which must match the whole name."""
STORES = ("file:///folder", "s3://bucket/prefix")
"""How `claim_check` is written."""
Path = tuple[str, ...]


class RegistrySettings(Checked):
    """A schema registry that speaks Confluent's REST API. One serves all topics."""

    # https://host:port, several of one registry with commas; memory:// or memory://name for one inside this process
    url: str | None = None
    username: str | None = None  # for basic authentication
    password: SecretStr | None = None  # the same
    token: SecretStr | None = None  # a bearer token, in place of both
    ssl_cafile: str | None = None  # a file of certificates to trust; None: those of the system
    ssl_certfile: str | None = None  # the client's own certificate. All three files are read again when they change
    ssl_keyfile: str | None = None  # its key, if that is in another file
    ssl_password: SecretStr | None = None  # of the key
    ssl_check_hostname: bool | None = None  # the certificate of the registry must be for its host; by default true
    timeout: PositiveSeconds | None = None  # of one request, all in all; by default 10
    # how long the newest schema of a subject is used before it is asked for again; by default 300
    latest_for: PositiveSeconds | None = None
    # how long an unknown id is asked for again, as new schemas need a moment to spread; by default 5
    unknown_after: Seconds | None = None
    normalize: bool | None = None  # the registry compares and keeps schemas in its normal form; by default false


class PipelineSettings(Checked):
    """One pipeline: what is done to the messages of a topic when they are published, and undone when they arrive."""

    serializer: Format | None = None  # what messages are written in; by default json
    # other formats that are read, too, but not written: while a topic moves from one to another
    reads: tuple[Format, ...] | None = None
    # where a message says its schema's id: in front of the payload, or in a header; both are read. By default prefix
    schema_framing: Literal["prefix", "header"] | None = None
    # what subjects are named after: the topic, the record, or both. By default topic
    schema_subject: Literal["topic", "record", "topic_record"] | None = None
    schema_auto_register: bool | None = None  # register schemas that the registry does not know; by default false

    compression: Literal["none", Codec] | None = None  # by default none
    compression_level: int | None = None  # gzip 1 to 9, zstd -7 to 22, lz4 0 to 12; more is smaller and slower
    compression_max_size: Count | None = None  # refuse messages that are larger when unpacked; by default 67108864
    compression_required: bool | None = None  # refuse messages that are not compressed; by default false
    compression_writes: bool | None = None  # compress what is published, besides unpacking what comes; by default true
    compression_reads: tuple[Codec, ...] | None = None  # other codecs that are unpacked, too

    encryption: Literal["none", "fernet", "aes-gcm"] | None = None  # by default none
    # the keys, the one that encrypts first; all decrypt. Each is 32 bytes in Base64, as Fernet.generate_key() makes
    # them; for aes-gcm with an id in front, id:key
    encryption_keys: tuple[SecretStr, ...] | None = None
    # a file with a key in each line, in place of `encryption_keys`; it is read again when it changes
    encryption_keys_file: str | None = None
    encryption_required: bool | None = None  # refuse messages that are not encrypted; by default true
    encryption_writes: bool | None = None  # encrypt what is published, besides decrypting what comes; by default true

    # where payloads above a threshold go, so that a reference travels in their place: file:///folder or
    # s3://bucket/prefix; by default none
    claim_check: str | None = None
    claim_check_endpoint: str | None = None  # the URL of an S3-compatible store that is not Amazon's
    claim_check_threshold: Count | None = None  # in bytes, after compression and encryption; by default 500000
    claim_check_max_size: Count | None = None  # larger payloads are neither stored nor read; by default 100000000
    claim_check_writes: bool | None = (
        None  # store what is published, besides reading what others stored; by default true
    )

    @field_validator("reads", "compression_reads", "encryption_keys", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return unpacked_list(value)


class TopicSettings(PipelineSettings):
    """What is different for one topic. All that is not set is as for the app."""

    topic: str | None = (
        None  # its name, or re: and a regular expression; needed in `topics`, where the key is only a number
    )


class PayloadSettings(PipelineSettings):
    """The pipeline of the app, and those of single topics."""

    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    # in JSON: what is different for single topics, by their names, or by re: and a regular expression
    by_topic: dict[str, TopicSettings] = Field(default_factory=dict)
    topics: dict[str, TopicSettings] = Field(default_factory=dict)  # the same by number, see below

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for planned in self.pipelines():
            _Check(planned, self.registry).run()
        _check_registry(self.registry, used=any(_formats(planned.settings) for planned in self.pipelines()))
        return self

    @property
    def configured(self) -> bool:
        """Whether anything is set."""
        return self != PayloadSettings()

    def pipelines(self) -> Iterator[Planned]:
        """The app's own pipeline, then those of `by_topic` and `topics`, in their order.

        Raises:
            ValueError: a table does not say which topics it is for, or two are for the same.
        """
        own = PipelineSettings(**{name: getattr(self, name) for name in PipelineSettings.model_fields})
        yield Planned(None, ("payload",), own, own)
        known: dict[str, str] = {}
        for table, key, entry in self._entries():
            topic = _topic(table, key, entry)
            if (other := known.setdefault(topic, f"{table}.{key}")) != f"{table}.{key}":
                raise ValueError(f"{other} and {table}.{key} are for the same topic: {topic}")
            yield Planned(topic, ("payload", table, key), entry, _merged(own, entry))

    def _entries(self) -> Iterator[tuple[str, str, TopicSettings]]:
        yield from (("by_topic", key, entry) for key, entry in self.by_topic.items())
        numbered = sorted(self.topics.items(), key=lambda item: (not item[0].isdigit(), item[0].zfill(9)))
        yield from (("topics", key, entry) for key, entry in numbered)


class Planned(NamedTuple):
    """One pipeline that the settings ask for."""

    topic: str | None  # a name, or `re:` and a pattern; None: all others
    path: Path  # of its settings
    given: PipelineSettings  # what stands there
    settings: PipelineSettings  # the same, with what is set for the app where nothing stands

    @property
    def place(self) -> str:
        """Begins a sentence about it."""
        return "" if self.topic is None else f"topic {self.topic}: "


def _topic(table: str, key: str, entry: TopicSettings) -> str:
    if table == "by_topic":
        if entry.topic not in (None, key):
            raise ValueError(f"by_topic.{key} has another name as its `topic`: leave that out")
        topic = key
    elif entry.topic is None:
        raise ValueError(f"topics.{key} needs `topic`: the name of a topic, or re: and a regular expression")
    else:
        topic = entry.topic
    if topic.startswith(PATTERN):
        try:
            re.compile(topic.removeprefix(PATTERN))
        except re.error as error:
            raise ValueError(f"{table}.{key}: the regular expression of its topic is wrong: {error}") from None
    elif not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic):
        raise ValueError(
            f"{table}.{key}: {topic!r} is no name of a topic, which has letters, digits, dots, - and _; a regular "
            f"expression begins with {PATTERN}"
        )
    return topic


def _merged(own: PipelineSettings, entry: PipelineSettings) -> PipelineSettings:
    """What is set for the topic, then what is set for the app.

    What belongs to one codec, cipher or format does not pass to another one, and keys not to where there are others.
    """
    given = {name: value for name in PipelineSettings.model_fields if (value := getattr(entry, name)) is not None}
    inherited = {name: value for name in PipelineSettings.model_fields if (value := getattr(own, name)) is not None}
    if given.get("compression", own.compression) != own.compression:
        inherited.pop("compression_level", None)
    changed = given.get("encryption", own.encryption) != own.encryption
    if changed or {"encryption_keys", "encryption_keys_file"} & given.keys():
        inherited.pop("encryption_keys", None)
        inherited.pop("encryption_keys_file", None)
    return PipelineSettings(**{**inherited, **given})


def _formats(settings: PipelineSettings) -> list[str]:
    """The formats with schemas in a registry that it writes or reads."""
    return [name for name in (settings.serializer, *(settings.reads or ())) if name in WITH_SCHEMAS]


class _Check(NamedTuple):
    """Does the pipeline make sense? `run` raises a ValueError with one sentence if not."""

    planned: Planned
    registry: RegistrySettings

    def run(self) -> None:
        self._serializer()
        self._compression()
        self._encryption()
        self._claim_check()

    def _serializer(self) -> None:
        given, settings = self.planned.given, self.planned.settings
        if given.reads is not None and (settings.serializer or "json") in given.reads:
            self._refuse(
                f"reads names {settings.serializer or 'json'}, which is the serializer: it is read in any case"
            )
        formats = _formats(settings)
        if formats and self.registry.url is None:
            where = variable(("payload", "registry", "url"))
            self._refuse(f"{formats[0]} needs a schema registry: set {where}")
        self._refuse_unused("schema_", bool(formats), "serializer", WITH_SCHEMAS)

    def _compression(self) -> None:
        given, settings = self.planned.given, self.planned.settings
        codec = _other_than_none(settings.compression)
        self._refuse_unused("compression_", codec is not None, "compression", ("gzip", "zstd", "lz4"))
        if codec is None:
            return
        if given.compression_reads is not None and codec in given.compression_reads:
            self._refuse(f"compression_reads names {codec}, which is the compression: it is unpacked in any case")
        if settings.compression_required and settings.compression_reads:
            self._refuse("compression_required and compression_reads exclude each other: no message has both codecs")
        if settings.compression_required and settings.compression_writes is False:
            self._refuse(
                "what this app publishes would be refused: set compression_required to false, too, as "
                "compression_writes is false"
            )

    def _encryption(self) -> None:
        settings = self.planned.settings
        cipher = _other_than_none(settings.encryption)
        self._refuse_unused("encryption_", cipher is not None, "encryption", ("fernet", "aes-gcm"))
        if cipher is None:
            return
        if not settings.encryption_keys and settings.encryption_keys_file is None:
            keys, file = self._named("encryption_keys"), self._named("encryption_keys_file")
            self._refuse(f"encryption {cipher} needs keys: set {keys} or {file}")
        if settings.encryption_keys and settings.encryption_keys_file is not None:
            self._refuse("encryption_keys and encryption_keys_file are both set: only one can be used; unset the other")
        if settings.encryption_writes is False and settings.encryption_required is not False:
            self._refuse(
                "what this app publishes would be refused: set "
                f"{self._named('encryption_required')} to false, too, as encryption_writes is false"
            )

    def _claim_check(self) -> None:
        store = _other_than_none(self.planned.settings.claim_check)
        self._refuse_unused("claim_check_", store is not None, "claim_check", STORES)
        if store is None:
            return
        parts = urlsplit(store)
        if "@" in parts.netloc:
            self._refuse(
                "credentials do not belong in claim_check: the store's client takes them from AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or from the machine"
            )
        somewhere = parts.netloc if parts.scheme == "s3" else not parts.netloc and parts.path.strip("/")
        if parts.scheme not in ("s3", "file") or not somewhere or parts.query or parts.fragment:
            self._refuse(f"{self._named('claim_check')} must be {', '.join(STORES)} or none")
        endpoint = self.planned.given.claim_check_endpoint
        if endpoint is not None and (parts.scheme != "s3" or not endpoint.startswith(("https://", "http://"))):
            self._refuse(
                "claim_check_endpoint is the URL of a store that speaks S3, and claim_check s3://bucket/prefix"
            )
        if endpoint is not None and not is_bare_url(endpoint):
            self._refuse(
                "claim_check_endpoint has more than https://host:port/path: the store's client takes credentials from "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the machine"
            )

    def _refuse_unused(self, prefix: str, used: bool, choice: str, choices: Sequence[str]) -> None:
        """What is set and does nothing: somebody may rely on it."""
        given = self.planned.given
        unused = [name for name in _options(prefix) if getattr(given, name) is not None]
        if unused and not used:
            now = getattr(self.planned.settings, choice) or {"serializer": "json"}.get(choice, "none")
            self._refuse(
                f"{', '.join(unused)} would not be used with {choice} {now}: set {self._named(choice)} to "
                f"{', '.join(choices[:-1])} or {choices[-1]}"
            )

    def _named(self, field: str) -> str:
        return variable((*self.planned.path, field))

    def _refuse(self, sentence: str) -> None:
        raise ValueError(self.planned.place + sentence)


def _options(prefix: str) -> list[str]:
    return [name for name in PipelineSettings.model_fields if name.startswith(prefix)]


def _other_than_none(choice: str | None) -> str | None:
    return None if choice == "none" else choice


def _check_registry(registry: RegistrySettings, used: bool) -> None:
    """Raises ValueError: one sentence."""

    def named(field: str) -> str:
        return variable(("payload", "registry", field))

    given = [name for name in RegistrySettings.model_fields if getattr(registry, name) is not None]
    if given and not used:
        raise ValueError(
            f"registry.{', registry.'.join(given)} would not be used: no serializer needs a registry; set "
            f"{variable(('payload', 'serializer'))} to {', '.join(WITH_SCHEMAS[:-1])} or {WITH_SCHEMAS[-1]}"
        )
    if registry.url is None:
        return
    try:
        url = checked_registry_url(registry.url)
    except ValueError as error:
        raise ValueError(f"registry.url: {error}") from None
    if (registry.username is None) != (registry.password is None):
        both = f"set {named('username')} and {named('password')}"
        raise ValueError(f"registry.username and registry.password go together: {both}")
    if registry.token is not None and registry.password is not None:
        raise ValueError("registry.token and registry.password are both set: only one can be used; unset the other")
    if registry.ssl_certfile is None and registry.ssl_keyfile is not None:
        raise ValueError(f"registry.ssl_keyfile is the key of a certificate: set {named('ssl_certfile')}, too")
    unused = [name for name in given if name.startswith("ssl_")] if "https:" not in url else []
    if url.startswith("memory:"):
        unused += [name for name in ("username", "password", "token", "timeout", "normalize") if name in given]
    if unused:
        scheme = url.partition(":")[0]
        raise ValueError(
            f"registry.{', registry.'.join(unused)} would not be used with {scheme}://: set {named('url')} to "
            "https://host:port"
        )
