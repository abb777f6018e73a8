"""Starts what an app needs in the order in which it depends on each other, and stops it in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from .exceptions import ConfigurationError

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Something with a start and an end."""

    name: str
    depends_on: tuple[str, ...]
    required: bool  # if it cannot start, nothing may run

    async def start(self) -> None:
        """Returns when ready.

        What a service can wait for (a broker that is away) it waits for; it raises for what no waiting cures.
        """

    async def stop(self, timeout: float) -> None:
        """Ends within `timeout` seconds, whether it had started or not. Never raises, may be called twice."""


class LifecycleManager:
    """Owns the services of one app.

    Start-up is all-or-nothing for required services: if one fails, all that had started are stopped, in reverse, and
    its error is raised. The failure of another service is kept in `failures`, and what depends on it is not started.
    """

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self.failures: dict[str, BaseException] = {}
        self.started = False  # all that can start have started

    def register(self, service: Service) -> None:
        if service.name in self._services:
            raise ConfigurationError(f"two services are named {service.name}")
        self._services[service.name] = service

    @property
    def services(self) -> tuple[Service, ...]:
        return tuple(self._services.values())

    async def start(self, stop_timeout: float) -> None:
        """Starts level by level, each level's services at once.

        Raises:
            ConfigurationError: a dependency is unknown or circular.
            Exception: of the required service that could not start; all others are stopped within `stop_timeout`
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
        """Stops all, in reverse, within `timeout` seconds; each level gets what the levels before it left."""
        self.started = False
        end = monotonic() + timeout
        for level in reversed(self._levels()):
            left = max(0.1, end - monotonic())
            results = await asyncio.gather(*(service.stop(left) for service in level), return_exceptions=True)
            for service, result in zip(level, results, strict=True):
                if isinstance(result, Exception):
                    logger.error("service %s did not stop cleanly: %r", service.name, result)

    def clear(self) -> None:
        self._services.clear()
        self.failures.clear()

    def _skip_dependants(self, level: Iterable[Service], runnable: list[Service]) -> None:
        for service in level:
            if service not in runnable:
                self.failures[service.name] = RuntimeError(f"depends on {', '.join(service.depends_on)}, which failed")

    def _levels(self) -> list[list[Service]]:
        """The services in order of start: each level depends on the ones before it only."""
        left, done, levels = dict(self._services), set[str](), list[list[Service]]()
        while left:
            level = [service for service in left.values() if done >= set(service.depends_on)]
            if not level:
                names = ", ".join(f"{s.name} (needs {', '.join(s.depends_on)})" for s in left.values())
                raise ConfigurationError(f"services that wait for each other or for something unknown: {names}")
            levels.append(level)
            done |= {service.name for service in level}
            for service in level:
                del left[service.name]
        return levels
