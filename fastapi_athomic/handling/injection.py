"""Dependency injection: reads a handler's signature when the app starts, and compiles how it is called.

The markers are FastAPI's (`Depends` as a default or in `Annotated`, both also behind a PEP 695 alias), and so are the
rules: a dependency is resolved once per message unless `use_cache=False`, `yield` dependencies clean up after the
handler (whatever their scope), sync functions run in a thread, and `dependency_overrides` apply. A message has no HTTP
request: a signature that needs one is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from fastapi import BackgroundTasks, Request, Response, WebSocket, params
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from ..exceptions import HandlerSignatureError
from ..messages import DeliveryAttempt, MessageHeaders, RawMessage
from ..payload.annotations import expanded, split, type_name
from ..propagation.context import ExecutionContext, get_context
from .functions import Function, caller, context_manager, is_async, limited_call, limited_manager
from .keys import key_type
from .plans import Argument, Call, Node, OverridablePlan, Overrides, Plan, Provider, Replaced
from .threads import HandlerThreads

DEFAULT_THREADS = 40
"""The same as anyio's limit, which applies to FastAPI's routes."""


_ALWAYS: Mapping[Any, Provider] = {
    ExecutionContext: lambda _: get_context(),
    DeliveryAttempt: lambda delivery: delivery.attempt,
}
_SINGLE: Mapping[Any, Provider] = {
    **_ALWAYS,
    RawMessage: lambda delivery: delivery.message,
    MessageHeaders: lambda delivery: MessageHeaders(delivery.message.headers),
}
_BATCH: Mapping[Any, Provider] = {
    **_ALWAYS,
    list[RawMessage]: lambda delivery: list(delivery.messages or ()),
    list[MessageHeaders]: lambda delivery: [MessageHeaders(message.headers) for message in delivery.messages or ()],
}
_HTTP_ONLY = (Request, Response, WebSocket, HTTPConnection, BackgroundTasks, SecurityScopes)
_SCOPES = (None, "function", "request")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class HandlerPlan(NamedTuple):
    """How a handler is called."""

    target_type: Any  # what a message is decoded into; `RawMessage` for handlers that take messages as they came
    call: Call
    direct: Callable[[Any], Awaitable[Any]] | None
    """The handler itself, if it is async and takes nothing but the message; None otherwise."""
    key_types: Sequence[Any] = ()
    """What keys are decoded into: the values are given in `Delivery.keys`, in this order."""


def compile_handler(
    function: Function,
    *,
    handler_id: str,
    target_type: Any = None,
    batch: bool = False,
    providers: Mapping[type, Provider] | None = None,
    known: Mapping[Function, Provider] | None = None,
    overrides: Overrides = dict,
    threads: HandlerThreads | None = None,
) -> HandlerPlan:
    """Compiles how a handler is called.

    Args:
        target_type: what a message is decoded into; None: the annotation of the handler's first parameter.
        batch: the handler takes a list of messages.
        providers: what is injected by type, besides the properties of the message itself.
        known: dependencies whose value is provided, instead of calling them.
        overrides: gives the app's `dependency_overrides`; called for each message.
        threads: where sync functions run; None: in threads of the handler's own.

    Raises:
        HandlerSignatureError: a message cannot fill this signature. Names the handler and the parameter.
    """
    by_type = {**(_BATCH if batch else _SINGLE), **(providers or {})}
    compiler = _Compiler(handler_id, by_type, known or {}, threads or HandlerThreads(DEFAULT_THREADS), batch=batch)
    message, others = compiler.parameters_of_handler(function)
    target = compiler.target_of(message, batch) if target_type is None else compiler.given_target(target_type)
    plain = compiler.compile(function, others, {})
    depends = any(_depends(parameter) is not None for parameter in others)
    call = OverridablePlan(partial(compiler.compile, function, others), plain, overrides) if depends else plain
    alone = not plain.arguments and is_async(function)
    return HandlerPlan(target, call, function if alone else None, compiler.fixed_key_types())


class _Compiler:
    """Turns signatures into plans. Its errors name the handler."""

    def __init__(
        self,
        handler_id: str,
        by_type: Mapping[Any, Provider],
        known: Mapping[Function, Provider],
        threads: HandlerThreads,
        *,
        batch: bool,
    ) -> None:
        self._handler_id = handler_id
        self._by_type = by_type
        self._known = known
        self._threads = threads
        self._batch = batch
        self._key_types: list[Any] | tuple[Any, ...] = []

    # --- the handler itself

    def parameters_of_handler(self, function: Function) -> tuple[inspect.Parameter, list[inspect.Parameter]]:
        """The parameter for the message, and all others."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise self._wrong("it yields; a handler returns")
        parameters = self._parameters(function, "the handler")
        if not parameters or parameters[0].kind not in _POSITIONAL:
            raise self._wrong("its first parameter must be the message")
        message, *others = parameters
        injected = (MessageHeaders, ExecutionContext, DeliveryAttempt)
        is_key = self._key_type(message, "the handler") is not None
        if _depends(message) is not None or split(message.annotation)[0] in injected or is_key:
            raise self._wrong(f"its first parameter must be the message, but {message.name} is injected")
        return message, others

    def target_of(self, message: inspect.Parameter, batch: bool) -> Any:
        annotation = message.annotation
        if annotation is inspect.Parameter.empty:
            raise self._wrong(f"annotate {message.name} with the type of the message, or give target_type")
        kind = split(annotation)[0]
        if not batch:
            if get_origin(kind) is list and get_args(kind) == (RawMessage,):
                raise self._wrong(f"{message.name} is a list of raw messages, but batch_size is not set")
            return _target(annotation)
        if get_origin(kind) not in (list, Sequence) or not get_args(kind):
            raise self._wrong(f"with batch_size, {message.name} must be annotated as list[...]")
        return self._resolved(_target, get_args(kind)[0], "the handler")

    def given_target(self, target_type: Any) -> Any:
        return self._resolved(_target, target_type, "the handler's target_type")

    # --- keys

    def _key_type(self, parameter: inspect.Parameter, where: str) -> Any | None:
        try:
            return self._resolved(partial(key_type, batch=self._batch), parameter.annotation, where)
        except ValueError as error:
            raise self._wrong(f"parameter {parameter.name} of {where} {error}") from None

    def _key(self, name: str, kind: Any, where: str) -> Argument:
        """Each type is decoded once, for all parameters that ask for it."""
        if kind not in self._key_types:
            if isinstance(self._key_types, tuple):
                raise self._wrong(
                    f"{where} asks for Key[{type_name(kind)}], which nothing asked for when the app started"
                )
            self._key_types.append(kind)
        number = self._key_types.index(kind)
        if self._batch:
            return Argument(name, provider=lambda delivery: [keys[number] for keys in delivery.keys])
        return Argument(name, provider=lambda delivery: delivery.keys[number])

    def fixed_key_types(self) -> tuple[Any, ...]:
        """What keys are decoded into. From now on no other type can be asked for, as decoders are made at the start."""
        self._key_types = tuple(self._key_types)
        return self._key_types

    # --- dependencies

    def compile(self, function: Function, others: Iterable[inspect.Parameter], replaced: Replaced) -> Plan:
        nodes: list[Node] = []
        arguments = self._arguments(others, "the handler", _Building(nodes, {}, replaced, ()))
        return Plan(caller(function, self._threads), arguments, nodes)

    def _arguments(self, parameters: Iterable[inspect.Parameter], where: str, building: _Building) -> list[Argument]:
        named = (parameter for parameter in parameters if parameter.kind not in _VARIADIC)
        found = (self._argument(parameter, where, building) for parameter in named)
        return [argument for argument in found if argument is not None]

    def _argument(self, parameter: inspect.Parameter, where: str, building: _Building) -> Argument | None:
        """None: the parameter keeps its default."""
        depends = _depends(parameter)
        if depends is not None:
            return self._dependency(parameter, depends, where, building)
        if (of_key := self._key_type(parameter, where)) is not None:
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise self._wrong(f"parameter {parameter.name} of {where} must not be positional-only")
            return self._key(parameter.name, of_key, where)
        annotation = _plain(parameter.annotation)
        provider = self._provider(annotation)
        if provider is not None and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            return Argument(parameter.name, provider=provider)
        self._refuse_http(parameter, annotation, where)
        if parameter.default is inspect.Parameter.empty:
            types = sorted([*map(_name, self._by_type), "list[Key[...]]" if self._batch else "Key[...]"])
            raise self._wrong(
                f"nothing provides parameter {parameter.name} of {where}: use Depends, a type that is injected "
                f"({', '.join(types)}), or a default"
            )
        return None

    def _provider(self, annotation: Any) -> Provider | None:
        try:
            return self._by_type.get(annotation)
        except TypeError:  # the annotation is not hashable
            return None

    def _refuse_http(self, parameter: inspect.Parameter, annotation: Any, where: str) -> None:
        http_only = inspect.isclass(annotation) and issubclass(annotation, _HTTP_ONLY)
        if http_only or isinstance(parameter.default, params.Param | params.Body) or _has_http_marker(parameter):
            raise self._wrong(
                f"parameter {parameter.name} of {where} comes from an HTTP request, and a message has none; "
                "use RawMessage, MessageHeaders or ExecutionContext"
            )

    def _dependency(
        self, parameter: inspect.Parameter, depends: params.Depends, where: str, building: _Building
    ) -> Argument:
        scope = getattr(depends, "scope", None)  # FastAPI has it since 0.121
        if scope not in _SCOPES:
            raise self._wrong(
                f"parameter {parameter.name} of {where} has the unknown dependency scope {scope!r}: use 'function' or "
                "'request' (either ends after the handler), or none"
            )
        function = depends.dependency or _plain(parameter.annotation)
        if isinstance(depends, params.Security) or not callable(function):
            what = "a security scheme" if isinstance(depends, params.Security) else "no dependency that can be called"
            raise self._wrong(f"parameter {parameter.name} of {where} asks for {what}; a message has no request")
        if function in self._known and function not in building.replaced:
            return Argument(parameter.name, provider=self._known[function])
        function = building.replaced.get(function, function)
        if function in building.path:
            raise self._wrong(f"dependency {_name(function)} depends on itself")
        if not (depends.use_cache and function in building.slots):
            building.nodes.append(_limited(self._node(function, building), depends))
            building.slots[function] = len(building.nodes) - 1
        return Argument(parameter.name, slot=building.slots[function])

    def _node(self, function: Function, building: _Building) -> Node:
        where = f"dependency {_name(function)}"
        inner = building._replace(path=(*building.path, function))
        arguments = self._arguments(self._parameters(function, where), where, inner)
        manager = context_manager(function, self._threads)
        if manager is not None:
            return Node(manager, arguments, True)
        return Node(caller(function, self._threads), arguments, False)

    # --- signatures

    def _parameters(self, function: Function, where: str) -> list[inspect.Parameter]:
        try:
            signature = self._resolved(partial(inspect.signature, eval_str=True), function, where)
        except (ValueError, TypeError) as error:
            raise self._wrong(f"{where} has no signature that can be read: {error}") from error
        return [
            parameter.replace(annotation=self._resolved(expanded, parameter.annotation, where))
            for parameter in signature.parameters.values()
        ]

    def _resolved(self, resolve: Callable[[Any], Any], named: Any, where: str) -> Any:
        """What `resolve` makes of annotations, which may name types as text or through aliases."""
        try:
            return resolve(named)
        except NameError as error:
            raise self._wrong(
                f"an annotation of {where} cannot be resolved: {error}; "
                "types that annotations name as text must be defined at the module's level"
            ) from error

    def _wrong(self, problem: str) -> HandlerSignatureError:
        return HandlerSignatureError(f"handler {self._handler_id}: {problem}")


class _Building(NamedTuple):
    """The state of a plan that is being compiled."""

    nodes: list[Node]
    slots: dict[Function, int]  # of dependencies that may be shared
    replaced: Replaced  # by `dependency_overrides`
    path: tuple[Function, ...]  # from the handler down to the dependency that is being compiled


# --- signatures


def _depends(parameter: inspect.Parameter) -> params.Depends | None:
    if isinstance(parameter.default, params.Depends):
        return parameter.default
    markers = [marker for marker in _markers(parameter) if isinstance(marker, params.Depends)]
    return markers[-1] if markers else None


def _limited(node: Node, depends: params.Depends) -> Node:
    """Keeps `Depends(max_concurrency=...)`. The limit is FastAPI's own object, as routes and handlers share it."""
    limit = getattr(depends, "_concurrency", None)  # an older FastAPI has none
    if limit is None:
        return node
    wrap = limited_manager if node.is_manager else limited_call
    return node._replace(function=wrap(node.function, limit.get_semaphore))


def _has_http_marker(parameter: inspect.Parameter) -> bool:
    return any(isinstance(marker, params.Param | params.Body) for marker in _markers(parameter))


def _markers(parameter: inspect.Parameter) -> tuple[Any, ...]:
    return split(parameter.annotation)[1]


def _plain(annotation: Any) -> Any:
    """The type without `Annotated`, without aliases and without `| None`."""
    kind = split(annotation)[0]
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        return _plain(members[0]) if len(members) == 1 else kind
    return kind


def _target(annotation: Any) -> Any:
    """What a message is decoded into: what is annotated counts, except beside `RawMessage`, which is not decoded."""
    return RawMessage if split(annotation)[0] is RawMessage else expanded(annotation)


def _name(thing: Any) -> str:
    if get_origin(thing) is not None:
        return f"{_name(get_origin(thing))}[{', '.join(map(_name, get_args(thing)))}]"
    return getattr(thing, "__qualname__", None) or repr(type(thing).__name__)
