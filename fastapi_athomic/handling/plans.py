"""Compiled handlers at work: for each message the dependencies are resolved, then the handler is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from ..messages import DeliveryAttempt, RawMessage
from .functions import Function


class Delivery(NamedTuple):
    """One delivery to a handler: everything that can be injected comes from here."""

    message: RawMessage  # of a batch: the first
    attempt: DeliveryAttempt
    messages: Sequence[RawMessage] | None = None  # of a batch: all
    keys: Sequence[Any] = ()  # decoded: one for each type that is asked for; of a batch: that for each message


Provider = Callable[[Delivery], Any]
"""Gives the value to inject."""
Overrides = Callable[[], Mapping[Function, Function]]
"""Gives the app's `dependency_overrides`."""
Call = Callable[[Any, Delivery], Awaitable[Any]]
"""Calls the handler with a decoded message, or a list of them."""
Replaced = Mapping[Function, Function]
"""Dependencies, and what `dependency_overrides` puts in their place."""


class Argument:
    """Where the value of one parameter comes from: a provider, or else the dependency in a slot."""

    __slots__ = ("name", "provider", "slot")

    def __init__(self, name: str, *, provider: Provider | None = None, slot: int = -1) -> None:
        self.name = name
        self.provider = provider
        self.slot = slot


class Node(NamedTuple):
    """One dependency. The number of its slot is its place in the plan."""

    function: Callable[..., Any]  # a coroutine function; for a manager: one that gives an async context manager
    arguments: Sequence[Argument]
    is_manager: bool


class Plan:
    """Resolves the dependencies one after the other, then calls the handler. Those that yield clean up after it."""

    def __init__(
        self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Argument], nodes: list[Node]
    ) -> None:
        self._nodes = nodes
        self._function = function
        self.arguments = arguments
        self._has_managers = any(node.is_manager for node in nodes)

    async def __call__(self, value: Any, delivery: Delivery) -> Any:
        if self._has_managers:
            return await self._call_and_clean_up(value, delivery)
        values: list[Any] = []
        for node in self._nodes:
            values.append(await node.function(**_values(node.arguments, delivery, values)))
        return await self._function(value, **_values(self.arguments, delivery, values))

    async def _call_and_clean_up(self, value: Any, delivery: Delivery) -> Any:
        failure: BaseException | None = None
        async with AsyncExitStack() as stack:
            values: list[Any] = []
            try:
                for node in self._nodes:
                    made = node.function(**_values(node.arguments, delivery, values))
                    values.append(await (stack.enter_async_context(made) if node.is_manager else made))
                result = await self._function(value, **_values(self.arguments, delivery, values))
            except BaseException as error:
                failure = error
                raise
        if failure is not None:  # a dependency swallowed the error: the message has failed all the same
            raise failure
        return result


class OverridablePlan:
    """A plan that follows the app's `dependency_overrides`: `build` compiles another for those that are set."""

    def __init__(self, build: Callable[[Replaced], Plan], plain: Plan, overrides: Overrides) -> None:
        self._build = build
        self._plain = plain
        self._overrides = overrides
        self._made: tuple[Replaced, Plan] = ({}, plain)  # the last one that was used

    async def __call__(self, value: Any, delivery: Delivery) -> Any:
        overrides = self._overrides()
        if not overrides:
            return await self._plain(value, delivery)
        replaced, plan = self._made
        if replaced != overrides:
            replaced = dict(overrides)
            plan = self._build(replaced)
            self._made = (replaced, plan)
        return await plan(value, delivery)


def _values(arguments: Sequence[Argument], delivery: Delivery, values: Sequence[Any]) -> dict[str, Any]:
    return {
        argument.name: values[argument.slot] if argument.provider is None else argument.provider(delivery)
        for argument in arguments
    }
