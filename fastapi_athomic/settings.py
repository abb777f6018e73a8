"""Everything about one `Athomic` that can be set: in code, or by environment variables.

The variables begin with `ATHOMIC_`, and `__` separates nested names: `ATHOMIC_KAFKA__LINGER`. All durations are in
seconds, all sizes in bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .exceptions import ConfigurationError

logger = logging.getLogger(__name__)

PREFIX = "ATHOMIC_"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

SCHEMES = ("memory", "kafka")
"""The schemes of `broker_url`. The docstring of `transports.base` lists all places that a new one concerns."""
STORE_SCHEMES = ("memory://", "redis://", "rediss://", "unix://")
"""How `state_store_url` may begin. A new one also needs a case in `stores.schemes: create_store`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """How to talk to Apache Kafka. Where librdkafka or the Java client have a name for a setting, it is used here."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretStr | None = None
    ssl_check_hostname: bool = True
    session_timeout: PositiveSeconds = 10.0  # without a heartbeat for this long, a member is evicted by the broker
    heartbeat_interval: PositiveSeconds = 3.0
    max_poll_interval: PositiveSeconds = 300.0
    request_timeout: PositiveSeconds = 40.0
    fetch_max_wait: PositiveSeconds = 0.25
    fetch_max_bytes: Count = 52_428_800
    max_partition_fetch_bytes: Count = 1_048_576
    max_request_size: Count = 1_048_576  # larger messages are refused before they are sent; dead letters are not
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    linger: Seconds = 0.0
    # static membership (KIP-345): an id that must differ between processes. `{pid}` and `{hostname}` are filled in, and
    # each handler adds a suffix of its own. docs/damaged-batches.md says what happens if two processes share an id
    group_instance_id: str | None = None
    replication_factor: int = -1  # of topics that we create; -1: the broker's default

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        with_password = self.security_protocol.startswith("SASL") and self.sasl_mechanism != "GSSAPI"
        if with_password and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password")
        if self.heartbeat_interval >= self.session_timeout:
            raise ValueError("heartbeat_interval must be smaller than session_timeout; a third of it is usual")
        return self


class MemorySettings(_Section):
    """The embedded broker."""

    partitions: Count = 4  # of a topic that is created when it is first used
    retention_messages: Count = 1_000_000  # kept in each partition; older messages are dropped
    max_message_bytes: Count = 1_048_576


class ContextSettings(_Section):
    """What is taken from headers into the `ExecutionContext`."""

    trust_identity_headers: bool = False  # take x-tenant-id, x-user-id and x-role from HTTP requests
    max_value_length: Count = 256  # longer header values are ignored


class OrderedSettings(_Section):
    """The state store of ordered consumers, and how long a process holds an aggregate."""

    lease: PositiveSeconds = 10.0  # how long the aggregates of a process that crashed must wait
    room_per_aggregate: Count = 1_000  # messages that may wait in the state store for their turn
    room_per_group: Count = 100_000
    key_prefix: Annotated[str, Field(pattern=r"^[^{}]+$")] = "athomic"  # begins all keys in Redis
    timeout: PositiveSeconds = 5.0  # of one call to the state store


class RetryTuning(_Section):
    """Overrides single fields of a handler's `RetryPolicy`."""

    max_attempts: Annotated[int, Field(ge=0)] | None = None
    delay: Seconds | None = None
    backoff: Annotated[float, Field(ge=1)] | None = None
    max_delay: Seconds | None = None
    jitter: Annotated[float, Field(ge=0, le=1)] | None = None


class HandlerTuning(_Section):
    """Overrides options of one handler at deploy time."""

    handler: str | None = None  # the handler id; needed in `tuning`, where the key is only a number
    enabled: bool = True
    paused: bool = False  # starts paused
    concurrency: Count | None = None
    batch_size: Count | None = None
    batch_linger_ms: Annotated[int, Field(ge=0)] | None = None
    timeout: PositiveSeconds | None = None
    auto_offset_reset: Literal["earliest", "latest"] | None = None
    enable_lineage: bool | None = None
    retry: RetryTuning | None = None


class AthomicSettings(BaseSettings):
    """All settings of one `Athomic`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    broker_url: str = "memory://"  # memory://, memory://name, kafka://host:port[,host:port]
    client_id: Annotated[str, Field(min_length=1)] = "fastapi-athomic"

    # offsets are committed 1 ms after a message is done, but not within `commit_interval` of the last commit, unless
    # `commit_count` messages are done; and never more often than every 5 ms. A thread that computes for more than 0.8
    # of its time commits a third as often, whatever is done
    commit_interval: Seconds = 0.01
    commit_count: Count = 10
    drain_timeout: PositiveSeconds = 20.0  # how long handlers may still run when partitions are revoked
    shutdown_timeout: PositiveSeconds = 25.0  # a stop takes no longer, whatever happens
    # True: consumers stop as soon as the process gets SIGTERM, while open requests are still being answered. False:
    # they stop when the server ends the app's lifespan, which uvicorn does after the last response
    drain_on_sigterm: bool = True
    publish_timeout: PositiveSeconds = 30.0
    request_timeout: PositiveSeconds = 10.0  # for any other call to the broker
    startup_timeout: Seconds = 0.0  # how long the app waits for its consumers before it serves HTTP; 0: not at all
    restart_backoff: PositiveSeconds = 0.5  # the pause before a consumer that broke is rebuilt; doubles each time
    restart_backoff_max: PositiveSeconds = 30.0

    # most messages of one partition that wait or run. None: 500, or more for a handler that takes many at once:
    # twice as many as it takes, five times with order by key and with batches
    max_buffered_messages: Count | None = None
    max_buffered_bytes: Count = 16_777_216  # per partition
    max_poll_messages: Count = 125  # taken in at once; small numbers are easier on the garbage collector
    stall_timeout: PositiveSeconds = 60.0  # a consumer that has messages but makes no progress for this long is rebuilt
    stuck_after: PositiveSeconds = 60.0  # health reports handlers that run for longer

    # where consumers run: in the event loop of the routes, or together in a thread with an event loop of its own
    isolation: Literal["loop", "thread"] = "loop"
    # consumers give the event loop back when they have worked for this long. Sooner while requests are being answered
    # or a socket of the event loop is ready; after two and a half times as long while no requests come
    slice_seconds: PositiveSeconds = 0.002
    blocking_after: PositiveSeconds = 0.1  # a handler that blocks the event loop for longer is named in a warning
    # while the app runs, keep the garbage collector away from what was loaded before, and collect young objects less
    # often
    tune_gc: bool = True

    # send OpenLineage run events; None: if openlineage-python is installed and its environment variables are set
    lineage_events: bool | None = None
    lineage_interval: PositiveSeconds = 60.0  # between two events of a run

    # create missing topics where the broker allows it: source topics at the start, those for dead letters, retries and
    # redrives when they are first needed
    create_topics: bool = True
    dlq_topic: str = "{topic}.{group_id}.dlq"
    retry_topic: str = "{topic}.{group_id}.retry.{delay}s"
    redrive_topic: str = "{topic}.{group_id}.redrive"
    max_redrives: Count = 5  # how often one dead letter may be sent back
    dlq_traceback: bool = False  # add the traceback to dead letters
    dlq_header_spellings: tuple[Literal["spring", "smallrye"], ...] = ()  # also write headers in these spellings
    trace_message_keys: bool = False  # put message keys on spans; keys may be personal data
    # put the text of handlers' exceptions into dead letters; status and spans show only the type
    expose_error_messages: bool = True

    # where ordered consumers keep their state: redis://, rediss://, unix://, or memory:// for a single process that may
    # forget it. None: in memory, allowed only if the broker is memory:// too
    state_store_url: SecretStr | None = None

    ordered: OrderedSettings = OrderedSettings()
    kafka: KafkaSettings = KafkaSettings()
    memory: MemorySettings = MemorySettings()
    context: ContextSettings = ContextSettings()
    handler_tuning: dict[str, HandlerTuning] = Field(default_factory=dict)  # by handler id
    tuning: dict[str, HandlerTuning] = Field(default_factory=dict)  # ATHOMIC_TUNING__<n>__HANDLER is the handler id

    @field_validator("broker_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        scheme, separator, address = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise ValueError("must be memory://, memory://name or kafka://host:port[,host:port]")
        if scheme == "kafka":
            for server in address.split(","):
                _check_server(server)
        return url

    @field_validator("state_store_url")
    @classmethod
    def _known_store(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(STORE_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(STORE_SCHEMES)}")
        return url

    @field_validator("dlq_topic", "retry_topic", "redrive_topic")
    @classmethod
    def _usable_template(cls, template: str) -> str:
        try:
            name = template.format(topic="t", group_id="g", delay=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError("may use {topic}, {group_id} and {delay} only") from error
        if name == "t":
            raise ValueError("must differ from the topic itself")
        return template

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, tuning in self.tuning.items():
            if tuning.handler is None:
                raise ValueError(f"tuning.{key} needs `handler`: the id of the handler to tune")
        if self.max_buffered_messages is not None and self.max_poll_messages > self.max_buffered_messages:
            raise ValueError("max_poll_messages must not exceed max_buffered_messages: nothing could be fetched")
        if self.broker_url.startswith("kafka") and self.drain_timeout > self.kafka.max_poll_interval:
            raise ValueError(
                "drain_timeout must not exceed kafka.max_poll_interval: the broker waits no longer than that"
            )
        return self

    @property
    def scheme(self) -> str:
        """Which transport: `memory` or `kafka`."""
        return self.broker_url.partition("://")[0]

    @property
    def session_timeout(self) -> float | None:
        """Seconds after which the broker evicts a silent member of a group. None: this broker never does."""
        return self.kafka.session_timeout if self.scheme == "kafka" else None

    @property
    def broker_address(self) -> str:
        """What follows the scheme: a name for `memory`, `host:port[,host:port]` for `kafka`."""
        return self.broker_url.partition("://")[2].rstrip("/")

    def tuning_by_handler(self) -> dict[str, HandlerTuning]:
        """`handler_tuning` and `tuning` as one table by handler id; an entry of `tuning` wins."""
        return {**self.handler_tuning, **{entry.handler: entry for entry in self.tuning.values() if entry.handler}}


def read_settings() -> AthomicSettings:
    """The settings from the environment.

    Raises:
        ConfigurationError: names each variable that is wrong. It shows no values, as they may be secret.
    """
    try:
        return AthomicSettings()
    except ValidationError as error:
        raise ConfigurationError(describe_settings_error(error)) from None


def tell_unknown_variables(names: Iterable[str]) -> None:
    """Logs the environment variables that begin with `ATHOMIC_` but are no setting, so that a misspelt one is noticed.

    A warning if a setting has nearly the same name; else an info, because something else may read the variable.
    """
    known = [name.upper() for name in AthomicSettings.model_fields]
    for name in sorted(name for name in map(str.upper, names) if name.startswith(PREFIX)):
        section, *rest = name.removeprefix(PREFIX).split("__")
        if section in known:
            continue
        if meant := get_close_matches(section, known, n=1, cutoff=0.8):
            nearest = PREFIX + "__".join([meant[0], *rest])
            logger.warning("environment variable %s is unknown and ignored: did you mean %s?", name, nearest)
        else:
            logger.info("environment variable %s is unknown and ignored", name)


def describe_settings_error(error: ValidationError) -> str:
    """One line for each wrong setting, under the name of its environment variable."""
    lines = [
        f"  {PREFIX}{'__'.join(str(part) for part in item['loc']).upper() or '*'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    ]
    return "\n".join(["the settings of fastapi_athomic are wrong:", *lines])


def _check_server(server: str) -> None:
    host, separator, port = server.rstrip("/").rpartition(":")
    if "@" in server:
        raise ValueError("credentials do not belong in the URL: set kafka.sasl_username and kafka.sasl_password")
    if not separator or not host or not port.isdigit():
        raise ValueError("each Kafka server must be host:port; separate several by commas")
