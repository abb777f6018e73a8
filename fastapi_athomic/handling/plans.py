"""A compiled call at work: what is injected is resolved anew for each message, then the handler is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..messages import DeliveryAttempt, RawMessage
from .functions import Function


class Delivery(NamedTuple):
    """One call of a handler: what can be injected comes from here."""

    message: RawMessage  # of a batch the first
    attempt: DeliveryAttempt
    messages: Sequence[RawMessage] | None = None  # of a batch: all


Provider = Callable[[Delivery], Any]
Overrides = Callable[[], Mapping[Function, Function]]
Call = Callable[[Any, Delivery], Awaitable[Any]]
Replaced = Mapping[Function, Function]


class Argument:
    """Where the value of one parameter comes from: a provider, or the slot of a dependency."""

    __slots__ = ("name", "provider", "slot")

    def __init__(self, name: str, *, provider: Provider | None = None, slot: int = -1) -> None:
        self.name = name
        self.provider = provider
        self.slot = slot


@dataclass(frozen=True, slots=True)
class Node:
    """One dependency; its value goes to the slot of its place in the plan."""

    function: Callable[..., Any]  # awaited; for a manager: gives an async context manager
    arguments: Sequence[Argument]
    is_manager: bool


class Plan:
    """Resolves the dependencies in their order, then calls the handler."""

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
        if failure is not None:  # a dependency swallowed it: the message has failed all the same
            raise failure
        return result


class OverridablePlan:
    """A plan, and those that the app's `dependency_overrides` make of it."""

    def __init__(
        self,
        build: Callable[[Replaced], Plan],
        plain: Plan,
        overrides: Overrides,
    ) -> None:
        self._compile = build
        self._plain = plain
        self._overrides = overrides
        self._made: tuple[Replaced, Plan] = ({}, plain)  # the last one

    async def __call__(self, value: Any, delivery: Delivery) -> Any:
        overrides = self._overrides()
        if not overrides:
            return await self._plain(value, delivery)
        replaced, plan = self._made
        if replaced != overrides:
            replaced = dict(overrides)
            plan = self._compile(replaced)
            self._made = (replaced, plan)
        return await plan(value, delivery)


def _values(arguments: Sequence[Argument], delivery: Delivery, values: Sequence[Any]) -> dict[str, Any]:
    return {
        argument.name: values[argument.slot] if argument.provider is None else argument.provider(delivery)
        for argument in arguments
    }
