"""What an app runs with in a test: a broker and a store of its own, and an observer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import time
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import FastAPI

from ..athomic import Athomic
from ..checks import shown
from ..exceptions import ConfigurationError, NotIncludedError
from ..messages import RawMessage
from ..observers import StandIns
from ..payload.routing import Payloads
from ..pipelines import new_payloads
from ..settings import AthomicSettings
from ..stores.schemes import create_shared_state, create_store
from ..transports.base import Transport
from ..transports.schemes import create_transport
from .choice import chosen_broker, chosen_store
from .namespace import NamespacedTransport
from .observer import KitObserver
from .records import Published

T = TypeVar("T")

NOT_OPEN = "the kit is not open: use it inside its `with` block"

TAKEN_EARLIER = ("control", "dashboard", "sharing")
"""Settings that the routes have had since `include_athomic`: a kit cannot change them."""


class Bench:
    """One app, and what it runs with while a kit is open. Made anew for each kit."""

    def __init__(
        self,
        app: FastAPI,
        *,
        name: str = "athomic",
        broker: str | None = None,
        settings: Mapping[str, Any] | None = None,
        store: str | None = None,
    ) -> None:
        self.app = app
        self.athomic = _athomic_of(app, name)
        broker, store = broker or chosen_broker(), store or chosen_store()
        self.prefix = "" if broker.startswith("memory:") else f"test-{uuid4().hex[:12]}."
        self.settings = _settings(self.athomic.settings, broker, store, self.prefix, settings or {})
        self.on_memory = self.settings.scheme == "memory"
        self.transport = _transport(self.settings, self.prefix)
        self.observer = KitObserver(self._decode, self.now)
        self.records = self.observer.records
        self._open = False

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """The app starts with all this inside the `with` block. After it the app is as it was."""
        parts = StandIns(
            settings=self.settings,
            transport=self.transport,
            store=create_store(self.settings),
            shared=create_shared_state(self.settings),
            payloads=self._payloads(),
            observer=self.observer,
        )
        with self.athomic.standing_in(parts):
            self._open = True
            try:
                yield
            finally:
                self._open = False

    def check_open(self) -> None:
        """Raises `ConfigurationError` unless a kit is open: otherwise it would tell of another run."""
        if not self._open:
            raise ConfigurationError(NOT_OPEN)

    def now(self) -> float:
        """Seconds since the epoch, by the clock that the app goes by."""
        return time()

    async def clean_up(self) -> None:
        """Removes what the app has left on a broker that others use, too."""
        if isinstance(self.transport, NamespacedTransport):
            await self.transport.remove_all(self.settings.request_timeout)

    def _payloads(self) -> Payloads | None:
        """None: the app's own."""
        given, by_topic = self.athomic.given_payloads
        if self.settings.payload == self.athomic.settings.payload:
            return None
        return new_payloads(self.settings.payload, given, by_topic)

    def _decode(self, published: Published, target_type: Any) -> Any:
        raw = RawMessage(
            published.topic,
            published.partition,
            published.offset,
            0,
            published.key,
            published.value,
            published.headers.raw,
        )
        pipeline = self.athomic.payloads.of_topic(published.topic)
        return _waited_for(lambda: pipeline.read(raw, target_type))


def _waited_for(work: Callable[[], Awaitable[T]]) -> T:
    """What the work gives, for a caller that cannot await it: perhaps it is in the event loop of the app itself."""
    found: list[T] = []
    errors: list[BaseException] = []

    async def awaited() -> T:
        return await work()

    def run() -> None:
        try:
            found.append(asyncio.run(awaited()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="athomic-decode")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return found[0]


def _athomic_of(app: object, name: str) -> Athomic:
    if not isinstance(app, FastAPI):
        raise ConfigurationError(f"a test kit needs the FastAPI app, not an object of {type(app).__name__}")
    found = getattr(app.state, name, None)
    if isinstance(found, Athomic):
        return found
    others = [key for key, value in getattr(app.state, "_state", {}).items() if isinstance(value, Athomic)]
    if others:
        raise NotIncludedError(f"app.state.{name} is no Athomic; say which one is meant: name={others[0]!r}")
    raise NotIncludedError("this app has no athomic: call include_athomic(app) where the app is made")


def _transport(settings: AthomicSettings, prefix: str) -> Transport:
    if settings.scheme == "memory":
        return create_transport(settings)
    from ..transports.kafka.transport import KafkaTransport

    return NamespacedTransport(KafkaTransport(settings), prefix)


def _settings(
    own: AthomicSettings, broker: str, store: str, prefix: str, changes: Mapping[str, Any]
) -> AthomicSettings:
    """The app's settings with these changes. They are checked as those of the environment are."""
    if not isinstance(changes, Mapping):
        raise ConfigurationError(f"settings must be a mapping of names to values, not {shown(changes)}")
    late = [name for name in TAKEN_EARLIER if name in changes]
    if late:
        raise ConfigurationError(
            f"a test kit cannot change {', '.join(late)}: the routes have had it since include_athomic. Set it where "
            "the app is made, include_athomic(app, settings), or in the environment before the test imports the app"
        )
    ours: dict[str, Any] = {"broker_url": broker, "require_broker": False, "state_store_url": store, "role": "all"}
    if prefix:
        ours["ordered"] = {"key_prefix": prefix.rstrip(".")}
        ours["kafka"] = {"group_instance_id": None}  # a static member stays in its group, which could not be removed
    return AthomicSettings(**_merged(_merged(own.model_dump(), ours), changes))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inside = merged.get(name)
        if isinstance(inside, Mapping) and isinstance(value, Mapping):
            value = _merged(inside, value)
        merged[name] = value
    return merged
