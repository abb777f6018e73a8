from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import signature
from typing import Annotated, Any, TypeVar

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response, Security
from fastapi.security import OAuth2PasswordBearer
from httpx import ASGITransport, AsyncClient
from pydantic import Field
from typing_extensions import TypeAliasType

from fastapi_athomic import ExecutionContext, HandlerSignatureError, MessageHeaders, set_context
from fastapi_athomic.handling.injection import HandlerPlan, compile_handler
from fastapi_athomic.handling.plans import Delivery
from fastapi_athomic.handling.threads import HandlerThreads
from fastapi_athomic.messages import DeliveryAttempt, RawMessage

MESSAGE = RawMessage("t", 1, 2, 3, b"k", b"v", (("h", b"1"),))
DELIVERY = Delivery(MESSAGE, DeliveryAttempt(2, 3))
BATCH = Delivery(MESSAGE, DeliveryAttempt(1, 3), [MESSAGE, MESSAGE._replace(offset=3)])
oauth = OAuth2PasswordBearer("token")


def plan(function: Callable[..., Any], **options: Any) -> HandlerPlan:
    return compile_handler(function, handler_id="the.handler", **options)


async def call(function: Callable[..., Any], **options: Any) -> Any:
    return await plan(function, **options).call("value", DELIVERY)


# --- by type


async def test_the_message_and_what_belongs_to_it() -> None:
    async def handle(
        message: str,
        raw: RawMessage,
        headers: MessageHeaders,
        attempt: DeliveryAttempt,
        context: ExecutionContext | None = None,
        number: int = 7,
    ) -> Any:
        return message, raw, headers.raw, attempt.number, context, number

    context = set_context(tenant_id="acme")
    assert await call(handle) == ("value", MESSAGE, MESSAGE.headers, 2, context, 7)


async def test_a_batch_gets_lists() -> None:
    async def handle(messages: list[str], raw: list[RawMessage], headers: list[MessageHeaders]) -> Any:
        return messages, [one.offset for one in raw], [one.text("h") for one in headers]

    compiled = plan(handle, batch=True)
    assert compiled.target_type is str
    assert await compiled.call(["a", "b"], BATCH) == (["a", "b"], [2, 3], ["1", "1"])


def test_the_first_parameter_decides_the_type() -> None:
    async def single(message: dict[str, int]) -> None: ...
    async def raw(message: RawMessage) -> None: ...
    async def batch(messages: Sequence[int]) -> None: ...

    assert plan(single).target_type == dict[str, int]
    assert plan(raw).target_type is RawMessage
    assert plan(batch, batch=True).target_type is int
    assert plan(single, target_type=bytes).target_type is bytes


def test_a_plain_async_handler_is_called_directly() -> None:
    async def alone(message: str, number: int = 1) -> None: ...
    async def more(message: str, raw: RawMessage) -> None: ...
    def sync(message: str) -> None: ...

    assert plan(alone).direct is alone
    assert plan(more).direct is None
    assert plan(sync).direct is None


class Extra:
    pass


async def test_what_the_app_provides() -> None:
    extra = Extra()

    async def handle(message: str, given: Extra) -> Extra:
        return given

    assert await call(handle, providers={Extra: lambda _: extra}) is extra


# --- Depends


calls: list[str] = []


def base(raw: RawMessage) -> int:
    calls.append("base")
    return raw.offset


async def left(base: int = Depends(base)) -> int:
    return base + 1


def right(base: Annotated[int, Depends(base)]) -> int:
    return base + 2


async def fresh(base: int = Depends(base, use_cache=False)) -> int:
    return base


async def test_dependencies_of_dependencies_are_resolved_once_per_message() -> None:
    calls.clear()

    async def handle(
        message: str,
        one: Annotated[int, Depends(left)],
        two: int = Depends(right),
        three: int = Depends(fresh),
    ) -> tuple[int, int, int]:
        return one, two, three

    compiled = plan(handle)
    assert await compiled.call("value", DELIVERY) == (3, 4, 2)
    assert calls == ["base", "base"], "once shared, once for use_cache=False"
    await compiled.call("value", DELIVERY)
    assert len(calls) == 4, "not kept from message to message"


class Service:
    def __init__(self, attempt: DeliveryAttempt) -> None:
        self.attempt = attempt.number

    async def __call__(self) -> str:
        return "called"


async def test_a_class_and_an_object_can_be_dependencies() -> None:
    async def handle(
        message: str, service: Annotated[Service, Depends()], called: str = Depends(Service(DELIVERY.attempt))
    ) -> Any:
        return service.attempt, called

    assert await call(handle) == (2, "called")


async def test_yield_dependencies_clean_up_after_the_handler_in_reverse() -> None:
    steps: list[str] = []

    async def outer() -> AsyncIterator[str]:
        steps.append("outer up")
        yield "outer"
        steps.append("outer down")

    def inner(outer: str = Depends(outer)) -> Iterator[str]:
        steps.append("inner up")
        yield f"inner of {outer}"
        steps.append("inner down")

    async def handle(message: str, inner: str = Depends(inner)) -> str:
        steps.append("handler")
        return inner

    assert await call(handle) == "inner of outer"
    assert steps == ["outer up", "inner up", "handler", "inner down", "outer down"]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_dependency_sees_the_handlers_error_and_cannot_swallow_it(asynchronous: bool) -> None:
    seen: list[BaseException] = []

    async def in_loop() -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)

    def in_thread() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)

    async def handle(message: str, _: None = Depends(in_loop if asynchronous else in_thread)) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await call(handle)
    assert [str(error) for error in seen] == ["broken"]


async def test_a_sync_dependency_rolls_back_when_the_handler_is_cancelled() -> None:
    steps: list[str] = []
    started = asyncio.Event()

    def transaction() -> Iterator[None]:
        try:
            yield
        except BaseException:
            steps.append("rollback")
            raise
        steps.append("commit")

    async def handle(message: str, _: None = Depends(transaction)) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call(handle))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["rollback"]


async def test_a_sync_dependency_enters_and_leaves_in_one_context_that_the_handler_does_not_see() -> None:
    steps: list[str] = []

    def tenant() -> Iterator[None]:
        token = variable.set("dependency")
        yield
        steps.append(variable.get())
        variable.reset(token)  # raises in any other context
        steps.append(variable.get())

    async def handle(message: str, _: None = Depends(tenant)) -> str:
        return variable.get()

    variable.set("app")
    assert await call(handle) == "app"
    assert steps == ["dependency", "app"]


async def test_a_handler_sees_of_a_sync_dependencys_context_what_a_route_sees() -> None:
    def tenant() -> Iterator[None]:
        variable.set("dependency")
        yield

    async def handle(message: str = "", _: None = Depends(tenant)) -> str:
        return variable.get()

    app = FastAPI()
    app.get("/")(handle)
    variable.set("app")
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as client:
        answer = await client.get("/")
    assert answer.json() == await call(handle) == "app"


async def test_a_context_variable_of_an_async_dependency_is_seen_by_the_handler() -> None:
    async def tenant() -> AsyncIterator[None]:
        token = variable.set("dependency")
        yield
        variable.reset(token)

    async def handle(message: str, _: None = Depends(tenant)) -> str:
        return variable.get()

    variable.set("app")
    assert await call(handle) == "dependency"
    assert variable.get() == "app"


async def test_a_sync_dependency_that_was_cancelled_while_it_entered_is_left() -> None:
    steps: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def session() -> Iterator[None]:
        entered.set()
        go_on.wait(30)
        try:
            yield
        except asyncio.CancelledError:  # swallowed: the message is cancelled all the same
            steps.append("closed")

    async def handle(message: str, _: None = Depends(session)) -> None:
        steps.append("handled")

    task = asyncio.create_task(call(handle))
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["closed"]


async def test_a_sync_dependency_is_left_although_its_call_is_cancelled_and_all_threads_are_busy() -> None:
    steps: list[str] = []
    threads = HandlerThreads(1)
    busy, go_on, started = threading.Event(), threading.Event(), asyncio.Event()
    release = asyncio.Event()

    def session() -> Iterator[None]:
        yield
        steps.append("closed")

    def hold() -> None:
        busy.set()
        go_on.wait(30)

    async def handle(message: str, _: None = Depends(session)) -> None:
        started.set()
        await release.wait()

    task = asyncio.create_task(call(handle, threads=threads))
    await started.wait()
    other = asyncio.create_task(threads.run(hold))
    await asyncio.to_thread(busy.wait, 30)
    release.set()
    for _ in range(5):  # the handler returns, and leaving waits for the thread
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await other
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["closed"]


async def plain_slot(raw: RawMessage) -> None:
    await slots.use()


async def yielding_slot(raw: RawMessage) -> AsyncIterator[None]:
    async with slots.taken():
        yield


class Slots:
    """Counts how many use it at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        yield
        self.now -= 1

    async def use(self) -> None:
        async with self.taken():
            await asyncio.sleep(0)


slots = Slots()


@pytest.mark.skipif("max_concurrency" not in signature(Depends).parameters, reason="this FastAPI has no such option")
@pytest.mark.parametrize("function", [plain_slot, yielding_slot])
async def test_a_dependencys_max_concurrency_holds_for_handlers(function: Callable[..., Any]) -> None:
    slots.__init__()  # type: ignore[misc]

    async def handle(message: str, _: None = Depends(function, max_concurrency=2)) -> None:
        await asyncio.sleep(0)

    compiled = plan(handle)
    await asyncio.gather(*(compiled.call("value", DELIVERY) for _ in range(10)))
    assert slots.most == 2


async def test_dependency_overrides_count_also_when_set_after_the_start() -> None:
    async def real() -> str:
        return "real"

    async def deeper(real: str = Depends(real)) -> str:
        return f"deeper {real}"

    async def handle(message: str, value: str = Depends(deeper)) -> str:
        return value

    overrides: dict[Any, Any] = {}
    compiled = plan(handle, overrides=lambda: overrides)
    assert await compiled.call("value", DELIVERY) == "deeper real"
    overrides[real] = lambda: "fake"
    assert await compiled.call("value", DELIVERY) == "deeper fake"
    overrides[real] = lambda: "other"
    assert await compiled.call("value", DELIVERY) == "deeper other"
    overrides.clear()
    assert await compiled.call("value", DELIVERY) == "deeper real"


async def test_a_known_dependency_is_answered_without_a_request() -> None:
    def get_thing(request: Request) -> str:
        raise AssertionError("not called")

    async def handle(message: str, thing: str = Depends(get_thing)) -> str:
        return thing

    known = {get_thing: lambda _: "known"}
    assert await call(handle, known=known) == "known"
    assert await call(handle, known=known, overrides=lambda: {get_thing: lambda: "override"}) == "override"


# --- sync handlers

variable: ContextVar[str] = ContextVar("variable", default="")


async def test_a_sync_handler_runs_in_a_thread_with_the_context() -> None:
    variable.set("here")

    def handle(message: str, raw: RawMessage) -> Any:
        return threading.get_ident(), variable.get(), raw

    thread, value, raw = await call(handle)
    assert thread != threading.get_ident()
    assert (value, raw) == ("here", MESSAGE)


async def test_a_plain_wrapper_around_an_async_function_is_awaited() -> None:
    async def handle(message: str) -> str:
        return f"handled {message}"

    @wraps(handle)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return handle(*args, **kwargs)

    assert await call(wrapper) == "handled value"
    assert await call(partial(handle)) == "handled value"


async def test_a_sync_handler_counts_as_running_until_its_thread_returns() -> None:
    go_on, entered, done = threading.Event(), threading.Event(), threading.Event()

    def handle(message: str) -> None:
        entered.set()
        go_on.wait(30)
        done.set()

    task = asyncio.create_task(call(handle))
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


# --- aliases (PEP 695); Python 3.12 has syntax for them: `type Text = str`

T = TypeVar("T")
Text = TypeAliasType("Text", str)
Raw = TypeAliasType("Raw", RawMessage)
POSITIVE = Field(gt=0)
Checked = TypeAliasType("Checked", Annotated[int, POSITIVE])
Batch = TypeAliasType("Batch", list[T], type_params=(T,))
Texts = TypeAliasType("Texts", list[Text])
Base = TypeAliasType("Base", Annotated[int, Depends(base)])
OwnService = TypeAliasType("OwnService", Annotated[Service, Depends()])
MaybeContext = TypeAliasType("MaybeContext", ExecutionContext | None)
Token = TypeAliasType("Token", Annotated[str, Security(oauth)])
Web = TypeAliasType("Web", Request)


async def test_aliases_are_unwrapped_in_messages_and_dependencies() -> None:
    async def handle(
        message: Text, base: Base, service: OwnService, raw: Raw, context: MaybeContext = None
    ) -> tuple[Any, ...]:
        return message, base, service.attempt, raw, context

    context = set_context(tenant_id="acme")
    assert plan(handle).target_type is str
    assert await call(handle) == ("value", 2, 2, MESSAGE, context)


def test_aliases_of_messages_mean_the_type_with_what_is_annotated() -> None:
    async def checked(message: Checked) -> None: ...
    async def raw(message: Raw) -> None: ...
    async def annotated(message: Annotated[Raw, "as it came"]) -> None: ...
    async def batch(messages: Batch[Text]) -> None: ...
    async def texts(messages: Texts) -> None: ...
    async def raws(messages: Annotated[list[Raw], "as they came"]) -> None: ...

    assert plan(checked).target_type == Annotated[int, POSITIVE]
    assert plan(raw).target_type is RawMessage
    assert plan(annotated).target_type is RawMessage
    assert plan(checked, target_type=Raw).target_type is RawMessage
    assert [plan(each, batch=True).target_type for each in (batch, texts, raws)] == [str, str, RawMessage]


# --- signatures that make no sense


MESSAGE_SCOPE: dict[str, Any] = {"scope": "message"} if "scope" in signature(Depends).parameters else {}


def no_parameter() -> None: ...
def keyword_only(*, message: str) -> None: ...
def unannotated(message) -> None: ...  # type: ignore[no-untyped-def]
def yields(message: str) -> Iterator[None]:
    yield


def unknown(message: str, other: str) -> None: ...
def request(message: str, request: Request) -> None: ...
def response(message: str, response: Response) -> None: ...
def tasks(message: str, tasks: BackgroundTasks) -> None: ...
def query(message: str, q: str = Query()) -> None: ...
def header(message: str, h: Annotated[str, Header()] = "") -> None: ...
def secured(message: str, token: str = Security(oauth)) -> None: ...
def inner_request(message: str, value: str = Depends(request)) -> None: ...
def injected_first(headers: MessageHeaders) -> None: ...
def depends_first(value: str = Depends(unannotated)) -> None: ...
def list_without_batch(messages: list[RawMessage]) -> None: ...
def raw_list_alias(messages: Batch[RawMessage]) -> None: ...
def aliased_request(message: str, request: Web) -> None: ...
def aliased_security(message: str, token: Token) -> None: ...
def aliased_headers(headers: TypeAliasType("H", MessageHeaders)) -> None: ...  # type: ignore[valid-type]
def scoped(message: str, value: str = Depends(unannotated, **MESSAGE_SCOPE)) -> None: ...
def forward(message: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def looping(value: Any = None) -> None: ...


looping.__defaults__ = (Depends(looping),)


def loops(message: str, value: None = Depends(looping)) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_parameter, "first parameter must be the message"),
        (keyword_only, "first parameter must be the message"),
        (unannotated, "annotate message"),
        (yields, "it yields"),
        (unknown, "nothing provides parameter other of the handler"),
        (request, "parameter request of the handler comes from an HTTP request"),
        (response, "parameter response"),
        (tasks, "parameter tasks"),
        (query, "parameter q"),
        (header, "parameter h"),
        (secured, "a security scheme"),
        (inner_request, "parameter message of dependency request|nothing provides parameter message"),
        (injected_first, "headers is injected"),
        (depends_first, "value is injected"),
        (list_without_batch, "batch_size is not set"),
        (raw_list_alias, "batch_size is not set"),
        (aliased_request, "parameter request of the handler comes from an HTTP request"),
        (aliased_security, "a security scheme"),
        (aliased_headers, "headers is injected"),
        pytest.param(
            *(scoped, "parameter value of the handler has the unknown dependency scope 'message': use 'function' or"),
            marks=pytest.mark.skipif(not MESSAGE_SCOPE, reason="this FastAPI has no scopes"),
        ),
        (forward, "Nowhere"),
        (loops, "depends on itself"),
    ],
)
def test_a_signature_that_makes_no_sense_is_refused(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(HandlerSignatureError, match=f"^handler the.handler: .*({said})"):
        plan(function)


def test_a_batch_handler_takes_a_list() -> None:
    async def handle(message: str) -> None: ...

    with pytest.raises(HandlerSignatureError, match=r"annotated as list\[...\]"):
        plan(handle, batch=True)
