"""Settings of those who operate an app: health, control, the dashboard, and the part that a process plays."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .addresses import checked_origin
from .variables import Checked, Count, PositiveSeconds

Role = Literal["all", "web", "worker"]
ReadyPart = Literal["faults", "checks", "consumers", "broker", "dependencies"]


class HealthSettings(Checked):
    """What health calls late, and which of it takes an instance out of service."""

    # what takes this instance out of service (readiness), written with commas. `faults`: it does not work, through its
    # own fault; `checks`: the app's own; `consumers`: one of them does not consume, whoever's fault that is; `broker`:
    # it cannot be reached; `dependencies`: state store, schema registry or object store cannot. None: faults and
    # checks, and consumers, too, where `role` is worker. docs/operations.md has the reasons for and against each
    ready_includes: tuple[ReadyPart, ...] | None = None
    poll_late: PositiveSeconds = 10.0  # a consumer that has not polled for so long is unhealthy
    long_rebalance: PositiveSeconds = 10.0  # a rebalance that takes longer is reported
    timeout_grace: PositiveSeconds = 10.0  # how long a handler may clean up after its own `timeout` before it is stuck
    queue_late: PositiveSeconds = 300.0  # a fetched message that waits for its turn for longer is reported
    back_pressure: PositiveSeconds = 300.0  # a partition that is not fetched for so long is: its buffer is full
    restarts: Count = 3  # a consumer that was rebuilt so often within `restarts_within` is reported
    restarts_within: PositiveSeconds = 300.0  # see `restarts`
    loop_late: PositiveSeconds = 2.0  # an event loop that turns so late is reported
    loop_stalled: PositiveSeconds = 60.0  # consumers' thread: without a turn for so long, the process is not live
    shown_for: PositiveSeconds = 30.0  # so long health tells that an event loop was blocked, or turned late
    check_interval: PositiveSeconds = 10.0  # between two runs of the app's own checks, while somebody asks for health
    check_idle_interval: PositiveSeconds = 60.0  # the same, while nobody does
    check_timeout: PositiveSeconds = 5.0  # one run that takes longer has failed


class ControlSettings(Checked):
    """Routes that change something, and those that show dead letters."""

    enabled: bool = False  # add these routes; then `include_athomic` needs `control_dependencies`
    allow_anonymous: bool = False  # they need no dependencies: whoever reaches the app may use them
    # other sites, such as https://ops.example.com, whose pages may call these routes in a browser
    allowed_origins: tuple[str, ...] = ()
    most_letters: Count = 1_000  # one request sends back or discards no more dead letters than that

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_origin(origin) for origin in origins)


class DashboardSettings(Checked):
    """The page for people, and what it is fed with."""

    enabled: bool = True  # add the page; what it can do depends on `control`
    interval: PositiveSeconds = 1.0  # between two looks at the consumers that are sent to an open page
    stream_seconds: PositiveSeconds = 30.0  # after so long a stream ends, and the page opens the next one
    most_streams: Count = 20  # of one process; whoever comes then is told to come back later


class AsyncApiSettings(Checked):
    """The AsyncAPI document (docs/asyncapi.md), and the page that shows it."""

    enabled: bool = True  # add the routes `/consumers/asyncapi.json` and `/consumers/asyncapi`
    version: Literal["3.1.0", "3.0.0"] = "3.1.0"  # of AsyncAPI
    servers: bool = True  # name the brokers, without credentials; memory:// is named in no case
    # what the document says of itself, where not as the FastAPI app: {"title": "Shop events", "version": "7"}
    info: dict[str, Any] = Field(default_factory=dict)


class SharingSettings(Checked):
    """What processes with the same state store in Redis tell each other of their consumers (docs/status.md)."""

    enabled: bool = True  # tell it, and answer for all of them
    # between two looks whether there is something new to tell; what is unchanged is told again after three of them
    interval: PositiveSeconds = 5.0


class WorkerSettings(Checked):
    """Processes that only consume (`role` worker): `fastapi-athomic run`, which has options of the same names."""

    processes: Count = 1  # each has consumers of its own: partitions that a process does not get, the others have
    host: str = "127.0.0.1"  # where probes, status and metrics of all processes are served; 0.0.0.0: everywhere
    port: Annotated[int, Field(ge=0, le=65535)] = 8081  # the same; 0: nowhere
    # serve `/consumers` and `/consumers/health` there, too, without any login. None: unless the app asks for one, by
    # `dependencies`
    show_status: bool | None = None
    restart_backoff: PositiveSeconds = 0.5  # the pause before a process that ended is started again; doubles each time
    restart_backoff_max: PositiveSeconds = 30.0  # that pause grows no longer
    silent_timeout: PositiveSeconds = 60.0  # a process whose event loop does not answer for so long is killed, replaced
