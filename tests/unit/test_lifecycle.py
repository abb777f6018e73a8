import asyncio

import pytest

from fastapi_athomic.exceptions import ConfigurationError
from fastapi_athomic.lifecycle import LifecycleManager


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []


class FakeService:
    """A service that writes down what is done to it."""

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        depends_on: tuple[str, ...] = (),
        *,
        required: bool = True,
        error: Exception | None = None,
        gate: asyncio.Barrier | None = None,
    ) -> None:
        self.name, self.depends_on, self.required = name, depends_on, required
        self._events, self._error, self._gate = recorder.events, error, gate

    async def start(self) -> None:
        if self._gate is not None:
            await self._gate.wait()
        if self._error is not None:
            raise self._error
        self._events.append(f"+{self.name}")

    async def stop(self, timeout: float) -> None:
        self._events.append(f"-{self.name}")


def manager(*services: FakeService) -> LifecycleManager:
    lifecycle = LifecycleManager()
    for service in services:
        lifecycle.register(service)
    return lifecycle


async def test_dependencies_start_first_and_stop_last() -> None:
    log = Recorder()
    lifecycle = manager(FakeService(log, "c", ("b",)), FakeService(log, "b", ("a",)), FakeService(log, "a"))
    await lifecycle.start(1)
    assert lifecycle.started
    await lifecycle.stop(1)
    assert log.events == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert not lifecycle.started


async def test_independent_services_start_at_once() -> None:
    log, gate = Recorder(), asyncio.Barrier(2)  # passes only when both are starting
    lifecycle = manager(FakeService(log, "a", gate=gate), FakeService(log, "b", gate=gate))
    await asyncio.wait_for(lifecycle.start(1), 5)
    assert sorted(log.events) == ["+a", "+b"]


async def test_a_required_service_that_fails_leaves_none_running() -> None:
    log = Recorder()
    lifecycle = manager(
        FakeService(log, "a"), FakeService(log, "b", ("a",), error=OSError("no")), FakeService(log, "c", ("b",))
    )
    with pytest.raises(OSError, match="no"):
        await lifecycle.start(1)
    assert not lifecycle.started
    assert "-a" in log.events
    assert "+c" not in log.events


async def test_another_service_that_fails_takes_only_its_dependants_with_it() -> None:
    log = Recorder()
    lifecycle = manager(
        FakeService(log, "a", required=False, error=OSError("no")),
        FakeService(log, "b", ("a",), required=False),
        FakeService(log, "c"),
    )
    await lifecycle.start(1)
    assert log.events == ["+c"]
    assert set(lifecycle.failures) == {"a", "b"}


@pytest.mark.parametrize("depends_on", [("b",), ("nobody",)])
async def test_circles_and_unknown_dependencies_are_named(depends_on: tuple[str, ...]) -> None:
    log = Recorder()
    lifecycle = manager(FakeService(log, "a", depends_on), FakeService(log, "b", ("a",)))
    with pytest.raises(ConfigurationError, match=rf"a \(needs {depends_on[0]}\)"):
        await lifecycle.start(1)
    assert log.events == []


async def test_two_services_of_one_name_are_refused() -> None:
    log = Recorder()
    with pytest.raises(ConfigurationError, match="named a"):
        manager(FakeService(log, "a"), FakeService(log, "a"))
