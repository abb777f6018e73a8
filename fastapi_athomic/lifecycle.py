"""Starts the services of an app in the order of their dependencies, and stops them in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from .exceptions import ConfigurationError

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Something that can be started and stopped."""

    name: str
    depends_on: tuple[str, ...]
    required: bool  # if it cannot start, the app does not start

    async def start(self) -> None:
        """Returns when the service is ready.

        Waits for what may still become available (a broker that is down). Raises if waiting would not help.
        """

    async def stop(self, timeout: float) -> None:
        """Ends within `timeout` seconds, whether the service had started or not. Never raises; may be called twice."""


class LifecycleManager:
    """Owns the services of one app.

    Start-up is all-or-nothing for required services: if one fails, all services are stopped in reverse order, and its
    error is raised. If another service fails, its error is kept in `failures`, and the services that depend on it are
    not started.
    """

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self.failures: dict[str, BaseException] = {}  # of the last start, by the service's name
        self.started = False  # every service that can start has started

    def register(self, service: Service) -> None:
        """Adds a service before the start.

        Raises:
            ConfigurationError: the name is taken.
        """
        if service.name in self._services:
            raise ConfigurationError(f"two services are named {service.name}")
        self._services[service.name] = service

    async def start(self, stop_timeout: float) -> None:
        """Starts level by level; the services of one level start at the same time.

        Raises:
            ConfigurationError: a dependency is unknown or circular.
            Exception: what a required service raised. All services have been stopped by then, within `stop_timeout`
                seconds.
        """
        self.failures.clear()
        for level in self._levels():
            runnable = [service for service in level if not self.failures.keys() & set(service.depends_on)]
            results = await asyncio.gather(*(service.start() for service in runnable), return_exceptions=True)
            for service, result in zip(runnable, results, strict=True):
                if isinstance(result, BaseException):
                    self.failures[service.name] = result
                    logger.error("service %s could not start: %s", service.name, result)
            self._skip_dependants(level, runnable)
            broken = next((self.failures[s.name] for s in runnable if s.required and s.name in self.failures), None)
            if broken is not None:
                await self.stop(stop_timeout)
                raise broken
        self.started = True

    async def stop(self, timeout: float) -> None:
        """Stops all services in reverse order within `timeout` seconds; each level gets the time that is left."""
        self.started = False
        end = monotonic() + timeout
        for level in reversed(self._levels()):
            left = max(0.1, end - monotonic())
            results = await asyncio.gather(*(service.stop(left) for service in level), return_exceptions=True)
            for service, result in zip(level, results, strict=True):
                if isinstance(result, Exception):
                    logger.error("service %s did not stop cleanly: %r", service.name, result)

    def _skip_dependants(self, level: Iterable[Service], runnable: list[Service]) -> None:
        for service in level:
            if service not in runnable:
                self.failures[service.name] = RuntimeError(f"depends on {', '.join(service.depends_on)}, which failed")

    def _levels(self) -> list[list[Service]]:
        """The services in the order of their start: each level depends only on levels before it."""
        left, done, levels = dict(self._services), set[str](), list[list[Service]]()
        while left:
            level = [service for service in left.values() if done >= set(service.depends_on)]
            if not level:
                names = ", ".join(f"{s.name} (needs {', '.join(s.depends_on)})" for s in left.values())
                raise ConfigurationError(f"services depend on each other in a circle, or on unknown services: {names}")
            levels.append(level)
            done |= {service.name for service in level}
            for service in level:
                del left[service.name]
        return levels
