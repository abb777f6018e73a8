"""Everything about one `Athomic` that can be set: in code, or by environment variables.

The variables begin with `ATHOMIC_`, and `__` separates nested names: `ATHOMIC_KAFKA__LINGER`. All durations are in
seconds, all sizes in bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .addresses import checked_broker_url, checked_store_url
from .exceptions import ConfigurationError
from .operation_settings import (
    AsyncApiSettings,
    ControlSettings,
    DashboardSettings,
    HealthSettings,
    Role,
    SharingSettings,
    WorkerSettings,
)
from .payload_settings import PayloadSettings
from .variables import DELIMITER, PREFIX, Checked, Count, PositiveSeconds, Seconds, checked_sources, variable

Assignor = Literal["roundrobin", "range", "sticky"]
_YES, _NO = ("true", "1", "yes", "y", "on", "t"), ("false", "0", "no", "n", "off", "f")
"""What pydantic takes for a bool."""


def _creation(value: object) -> object:
    """When topics are created. What was a yes or no before is still understood."""
    name = {**dict.fromkeys(_YES, "when_needed"), **dict.fromkeys(_NO, "never")}.get(str(value).lower(), value)
    if name not in ("when_needed", "at_start", "never"):
        raise ValueError("must be when_needed, at_start or never (true is when_needed, false is never)")
    return name


CreateTopics = Annotated[Literal["when_needed", "at_start", "never"] | bool, PlainValidator(_creation)]
"""When an app creates topics that are missing."""

_PLAINER = {
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number without a unit (durations are in seconds)",
    "int_parsing": "must be a whole number without a unit",
}
"""What is said instead of pydantic's messages of these types."""
_TOPIC = re.compile(r"[a-zA-Z0-9._-]+")
"""What Kafka allows in the name of a topic."""
_INSTANCE_ID = re.compile(r"(?:[a-zA-Z0-9._-]|\{pid\}|\{hostname\})+")


class KafkaSettings(Checked):
    """How to talk to Apache Kafka. Where librdkafka or the Java client have a name for a setting, it is used here."""

    # as the listener of the brokers wants it: SSL is TLS, SASL a login
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    # how to log in; GSSAPI needs the package gssapi
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] = "PLAIN"
    sasl_username: str | None = None  # needed with SASL, but for GSSAPI
    sasl_password: SecretStr | None = None  # the same
    ssl_cafile: str | None = None  # a file of certificates to trust; None: those of the system
    ssl_certfile: str | None = None  # the client's own certificate. All three files are read again when they change
    ssl_keyfile: str | None = None  # its key, if that is in another file
    ssl_password: SecretStr | None = None  # of the key
    ssl_check_hostname: bool = True  # the certificate of a broker must be for its host
    session_timeout: PositiveSeconds = 10.0  # without a heartbeat for this long, a member is evicted by the broker
    heartbeat_interval: PositiveSeconds = 3.0  # the longest, while idle; while messages come it is 0.1 s
    max_poll_interval: PositiveSeconds = 300.0  # the longest that the group waits in a rebalance for who drains
    request_timeout: PositiveSeconds = 40.0  # for the answer to one request
    # the broker answers after this long, if there are no messages; sooner while something has just happened. At most
    # 60: firewalls drop a connection on which nothing is said for minutes
    fetch_max_wait: Annotated[PositiveSeconds, Field(le=60)] = 5.0
    # while messages trickle, the next ones are asked for this long after the last, so that one answer brings more of
    # them. Each waits for up to as long, and takes less CPU of this process and of the broker; at most 1
    fetch_pace: Annotated[Seconds, Field(le=1)] = 0.0
    fetch_max_bytes: Count = 4_194_304  # of one answer with messages, for all handlers together
    max_partition_fetch_bytes: Count = 1_048_576  # of one partition in such an answer
    max_batch_bytes: Count = 268_435_456  # to which a compressed batch may unpack; a larger one holds its partition
    max_request_size: Count = 1_048_576  # larger messages are refused before they are sent; dead letters are not
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"  # of what is published
    linger: Seconds = 0.0  # how long a message that is published waits for others, to be sent with them
    # how a group's partitions are shared out, the preferred way first. All members must offer one that the others do.
    # Name several only while a group moves from one to another: each costs one more rebalance whenever a member joins
    partition_assignment_strategy: Annotated[tuple[Assignor, ...], Field(min_length=1)] = ("roundrobin",)
    # static membership (KIP-345): an id that must differ between processes. `{pid}` and `{hostname}` are filled in, and
    # each handler adds a suffix of its own. docs/damaged-batches.md says what happens if two processes share an id
    group_instance_id: str | None = None
    replication_factor: int = -1  # of topics that we create; -1: the broker's default

    @field_validator("group_instance_id")
    @classmethod
    def _usable_instance_id(cls, template: str | None) -> str | None:
        """Kafka's rule is that of topic names (`JoinGroupRequest.validateGroupInstanceId`). We add 9 characters."""
        if template is not None and not (_INSTANCE_ID.fullmatch(template) and len(template) <= 240):
            raise ValueError("1 to 240 of the characters a-z A-Z 0-9 . _ - are allowed, besides {pid} and {hostname}")
        return template

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        with_password = self.security_protocol.startswith("SASL") and self.sasl_mechanism != "GSSAPI"
        if with_password and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password: "
                f"set {variable(('kafka', 'sasl_username'))} and {variable(('kafka', 'sasl_password'))}"
            )
        self._refuse_unused("sasl_", self.security_protocol.startswith("SASL"), "SASL_SSL (or SASL_PLAINTEXT)")
        self._refuse_unused("ssl_", self.security_protocol.endswith("SSL"), "SSL (or SASL_SSL)")
        if self.heartbeat_interval >= self.session_timeout:
            raise ValueError("heartbeat_interval must be smaller than session_timeout; a third of it is usual")
        return self

    def _refuse_unused(self, prefix: str, used: bool, protocols: str) -> None:
        """A client would connect without them, and wait in vain for an answer of a listener that needs them."""
        given = [
            name
            for name, field in type(self).model_fields.items()
            if name.startswith(prefix) and (value := getattr(self, name)) != field.default and (value or value is False)
        ]
        if given and not used:
            raise ValueError(
                f"{', '.join(given)} would not be used with security_protocol {self.security_protocol}: "
                f"set security_protocol ({variable(('kafka', 'security_protocol'))}) to {protocols}"
            )


class MemorySettings(Checked):
    """The embedded broker."""

    partitions: Count = 4  # of a topic that is created when it is first used
    retention_messages: Count = 1_000_000  # kept in each partition; older messages are dropped
    max_message_bytes: Count = 1_048_576  # larger messages are refused


class ContextSettings(Checked):
    """What is taken from headers into the `ExecutionContext`."""

    trust_identity_headers: bool = False  # take x-tenant-id, x-user-id and x-role from HTTP requests
    max_value_length: Count = 256  # longer header values are ignored


class OrderedSettings(Checked):
    """The state store of ordered consumers, and how long a process holds an aggregate."""

    lease: PositiveSeconds = 10.0  # how long the aggregates of a process that crashed must wait
    room_per_aggregate: Count = 1_000  # messages that may wait in the state store for their turn
    room_per_group: Count = 100_000  # the same, of all aggregates of a group
    key_prefix: Annotated[str, Field(pattern=r"^[^{}]+$")] = "athomic"  # begins all keys in Redis
    timeout: PositiveSeconds = 5.0  # of one call to the state store


class RetryTuning(Checked):
    """Overrides single fields of a handler's `RetryPolicy`."""

    max_attempts: Annotated[int, Field(ge=0)] | None = None  # in place, the first one included
    delay: Seconds | None = None  # before the second attempt
    backoff: Annotated[float, Field(ge=1)] | None = None  # each delay is so many times the one before
    max_delay: Seconds | None = None  # no delay is longer
    jitter: Annotated[float, Field(ge=0, le=1)] | None = None  # the part of a delay that is left to chance


class HandlerTuning(Checked):
    """Overrides options of one handler at deploy time."""

    handler: str | None = None  # the handler id; needed in `tuning`, where the key is only a number
    enabled: bool = True  # false: the handler is not started in this process
    paused: bool = False  # it starts paused
    concurrency: Count | None = None  # messages, or batches, handled at once
    batch_size: Count | None = None  # most messages of a batch
    batch_linger_ms: Annotated[int, Field(ge=0)] | None = None  # how long a batch that is not full waits for more
    timeout: PositiveSeconds | None = None  # of one attempt
    rate_limit: Annotated[float, Field(ge=0)] | None = None  # messages that begin in a second at most; 0: no limit
    burst: Count | None = None  # messages that may begin at once after a pause, with a rate limit
    breaker: bool | None = None  # false: the circuit breaker that the handler has in code is switched off
    auto_offset_reset: Literal["earliest", "latest"] | None = None  # where a new group begins
    enable_lineage: bool | None = None  # take part in OpenLineage
    retry: RetryTuning | None = None


class AthomicSettings(Checked, BaseSettings):
    """All settings of one `Athomic`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        nested_model_default_partial_update=True,
    )

    broker_url: str = "memory://"  # memory://, memory://name, kafka://host:port[,host:port]
    require_broker: bool = False  # refuse memory://, so that a forgotten `broker_url` stops the start
    client_id: Annotated[str, Field(min_length=1)] = "fastapi-athomic"  # the name of this service in the broker's logs
    # the name of this process in answers and metrics, with `{hostname}` and `{pid}` filled in. Workers that share an
    # address need names that differ, and a name that is the same after a restart keeps the number of time series small
    instance_id: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")] = "{hostname}:{pid}"

    # decorated handlers that no app takes in are named at the start: in warnings, or in the error that refuses it
    unclaimed_handlers: Literal["warn", "refuse", "ignore"] = "warn"

    # offsets are committed 1 ms after a message is done, but not within `commit_interval` of the last commit, unless
    # `commit_count` messages are done; and never more often than every 5 ms. One or two messages wait for up to five
    # times as long, less if another handler commits, longer where messages trickle for more than five handlers.
    # A thread that computes for more than 0.8 of its time commits every 30 ms, whatever is done
    commit_interval: Seconds = 0.01
    commit_count: Count = 10  # see `commit_interval`
    drain_timeout: PositiveSeconds = 20.0  # how long handlers may still run when partitions are revoked
    shutdown_timeout: PositiveSeconds = 25.0  # a stop takes no longer, whatever happens
    # True: consumers stop as soon as the process gets SIGTERM, while open requests are still being answered. False:
    # they stop when the server ends the app's lifespan, which uvicorn does after the last response
    drain_on_sigterm: bool = True
    publish_timeout: PositiveSeconds = 30.0  # until the broker has acknowledged a message, or `publish` fails
    request_timeout: PositiveSeconds = 10.0  # for any other call to the broker
    startup_timeout: Seconds = 0.0  # how long the app waits for its consumers before it serves HTTP; 0: not at all
    restart_backoff: PositiveSeconds = 0.5  # the pause before a consumer that broke is rebuilt; doubles each time
    restart_backoff_max: PositiveSeconds = 30.0  # that pause grows no longer

    # most messages of one partition that wait or run. None: 500, in an ordered consumer 750, or more for a handler that
    # takes many at once: twice as many as it takes, five times with order by key and with batches; but only while that
    # lets more calls run (docs/key-order-and-concurrency.md). If this is set, so many in any case
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
    # write the headers openlineage-run, -parent and -root to what is published; None: where run events are sent
    lineage_headers: bool | None = None
    lineage_interval: PositiveSeconds = 60.0  # between two events of a run

    # when missing topics are created, where the broker allows it; `when_needed`: source topics at the start, those for
    # dead letters, retries and redrives with the first message for them. true counts as `when_needed`, false as `never`
    create_topics: CreateTopics = "when_needed"
    dlq_topic: str = "{topic}.{group_id}.dlq"  # where dead letters go
    retry_topic: str = "{topic}.{group_id}.retry.{delay}s"  # where messages wait for a later attempt
    redrive_topic: str = "{topic}.{group_id}.redrive"  # where dead letters that are sent back go
    max_redrives: Count = 5  # how often one dead letter may be sent back
    dlq_traceback: bool = False  # add the traceback to dead letters
    dlq_header_spellings: tuple[Literal["spring", "smallrye"], ...] = ()  # also write headers in these spellings
    # put message keys on spans, and into the log lines of failures; keys may be personal data
    trace_message_keys: bool = False
    # show what handlers' exceptions say in logs, spans, status and dead letters; off: only types and places.
    # Inputs of pydantic's validation errors are never shown
    expose_error_messages: bool = True

    # where ordered consumers keep their state: redis://host:port/0, rediss://, unix://, or memory:// for a single
    # process that may forget it. None: in memory, allowed only if the broker is memory:// too
    state_store_url: SecretStr | None = None

    # what this process does: answer HTTP, consume, or both. docs/workers.md
    role: Role = "all"

    ordered: OrderedSettings = Field(default_factory=OrderedSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    control: ControlSettings = Field(default_factory=ControlSettings)
    dashboard: DashboardSettings = Field(default_factory=DashboardSettings)
    asyncapi: AsyncApiSettings = Field(default_factory=AsyncApiSettings)
    sharing: SharingSettings = Field(default_factory=SharingSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    payload: PayloadSettings = Field(default_factory=PayloadSettings)
    # names of environment variables that begin with ATHOMIC_ and belong to something else; `*` stands for any end.
    # Others that are no setting are refused
    ignored_variables: tuple[str, ...] = ()
    handler_tuning: dict[str, HandlerTuning] = Field(default_factory=dict)  # options of handlers, by handler id
    tuning: dict[str, HandlerTuning] = Field(default_factory=dict)  # the same by number, see below

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """pydantic-settings' own sources, in their usual order, which refuse variables that are no settings."""
        return init_settings, *checked_sources(env_settings, dotenv_settings, file_secret_settings)

    @field_validator("broker_url")
    @classmethod
    def _usable_broker(cls, url: str) -> str:
        return checked_broker_url(url)

    @field_validator("state_store_url")
    @classmethod
    def _usable_store(cls, url: SecretStr | None) -> SecretStr | None:
        return None if url is None else SecretStr(checked_store_url(url.get_secret_value()))

    @field_validator("dlq_topic", "retry_topic", "redrive_topic")
    @classmethod
    def _usable_template(cls, template: str) -> str:
        try:
            name = template.format(topic="t", group_id="g", delay=1)
        except (AttributeError, LookupError, ValueError) as error:
            raise ValueError("may use {topic}, {group_id} and {delay} only") from error
        if name == "t":
            raise ValueError("must differ from the topic itself")
        if not _TOPIC.fullmatch(name):
            raise ValueError("may have letters, digits, dots, - and _ beside {topic}, {group_id} and {delay}")
        return template

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.require_broker and self.scheme == "memory":
            raise ValueError(
                f"{variable(['require_broker'])} is set, but the broker is memory://, in this process only: "
                f"set {variable(['broker_url'])} to kafka://host:port"
            )
        self._check_tuning()
        if self.max_buffered_messages is not None and self.max_poll_messages > self.max_buffered_messages:
            raise ValueError("max_poll_messages must not exceed max_buffered_messages: nothing could be fetched")
        if self.broker_url.startswith("kafka") and self.drain_timeout > self.kafka.max_poll_interval:
            raise ValueError(
                "drain_timeout must not exceed kafka.max_poll_interval: the broker waits no longer than that"
            )
        return self

    def _check_tuning(self) -> None:
        keys: dict[str, str] = {}
        for key, tuning in self.tuning.items():
            if tuning.handler is None:
                raise ValueError(f"tuning.{key} needs `handler`: the id of the handler to tune")
            if (other := keys.setdefault(tuning.handler, key)) != key:
                raise ValueError(f"tuning.{other} and tuning.{key} are for the same handler: {tuning.handler}")

    @property
    def scheme(self) -> str:
        """Which transport: `memory` or `kafka`."""
        return self.broker_url.partition("://")[0]

    @property
    def session_timeout(self) -> float | None:
        """Seconds after which the broker evicts a silent member of a group. None: this broker never does."""
        return self.kafka.session_timeout if self.scheme == "kafka" else None

    @property
    def makes_topics(self) -> bool:
        """Missing topics are created, at whatever time."""
        return self.create_topics not in ("never", False)

    @property
    def ready_includes(self) -> tuple[str, ...]:
        """What counts for the readiness probe: as set, or as the role wants it."""
        if self.health.ready_includes is not None:
            return self.health.ready_includes
        return ("faults", "checks", "consumers") if self.role == "worker" else ("faults", "checks")

    @property
    def broker_address(self) -> str:
        """What follows the scheme: a name for `memory`, `host:port[,host:port]` for `kafka`."""
        return self.broker_url.partition("://")[2].rstrip("/")

    def tuning_by_handler(self) -> dict[str, HandlerTuning]:
        """`handler_tuning` and `tuning` as one table by handler id; an entry of `tuning` wins."""
        return {**self.handler_tuning, **{entry.handler: entry for entry in self.tuning.values() if entry.handler}}

    def variable_of_tuning(self, handler_id: str) -> str:
        """The environment variable that names this handler in `tuning`; that of the table, if it is not there."""
        numbers = [number for number, entry in self.tuning.items() if entry.handler == handler_id]
        return variable(("tuning", numbers[0], "handler") if numbers else ("handler_tuning",))


def of_place(settings: AthomicSettings, place: int | None) -> AthomicSettings:
    """The settings of one of several processes that share them: ids that must differ get its number, or have `{pid}`.

    None: there is only one process.
    """
    if place is None:
        return settings
    changed: dict[str, object] = {}
    if "{pid}" not in settings.instance_id:
        changed["instance_id"] = f"{settings.instance_id}:{place}"
    member = settings.kafka.group_instance_id
    if member is not None and "{pid}" not in member:
        changed["kafka"] = settings.kafka.model_copy(update={"group_instance_id": f"{member}-{place}"})
    return settings.model_copy(update=changed)


def read_settings() -> AthomicSettings:
    """The settings from the environment.

    Raises:
        ConfigurationError: names each variable that is wrong. It shows no values, as they may be secret.
    """
    try:
        return AthomicSettings()
    except ValidationError as error:
        raise ConfigurationError(describe_settings_error(error, os.environ)) from None


def describe_settings_error(error: ValidationError, environment: Mapping[str, str]) -> str:
    """One line for each wrong setting, under the name of its environment variable."""
    lines = [_line(details, environment) for details in error.errors(include_input=False, include_url=False)]
    return "\n".join(["the settings of fastapi_athomic are wrong:", *lines])


def _line(error: ErrorDetails, environment: Mapping[str, str]) -> str:
    loc, message = error["loc"], error["msg"].removeprefix("Value error, ")
    if error["type"] == "refused_variable":
        return f"  {loc[0]}: {message}"
    if error["type"] == "unknown_setting" and (nearest := error["ctx"]["nearest"]):
        message = f"there is no such setting: did you mean {variable([*loc[:-1], *nearest])}?"
    message = _PLAINER.get(error["type"], message)
    return f"  {_named(loc, environment)}: {message}" if loc else f"  {message}"


def _named(loc: Sequence[str | int], environment: Mapping[str, str]) -> str:
    """The variable that the value at `loc` is from: its own one, or that of a section, in JSON."""
    names = {name.upper() for name in environment}
    for length in range(len(loc), 0, -1):
        if (name := variable(loc[:length])) in names:
            inside = ".".join(str(part) for part in loc[length:])
            return f"{name}, {inside}" if inside else name
    return variable(loc)
