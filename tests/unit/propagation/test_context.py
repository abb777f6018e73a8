from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from copy import deepcopy
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fastapi_athomic import ExecutionContext, capture_context, get_context, restore_context, set_context
from fastapi_athomic.propagation.context import common_context, context_from_headers, headers_from_context

FULL = ExecutionContext(
    request_id="r",
    correlation_id="c",
    tenant_id="grüße",
    user_id="u",
    role="admin",
    locale="de-AT",
    feature_flags=("a", "b"),
    extra={"region": "eu"},
)


def test_every_field_travels_in_its_header() -> None:
    headers = headers_from_context(FULL)
    assert dict(headers) == {
        "x-request-id": b"r",
        "x-correlation-id": b"c",
        "x-tenant-id": "grüße".encode(),
        "x-user-id": b"u",
        "x-role": b"admin",
        "x-locale": b"de-AT",
        "x-feature-flags": b"a,b",
        "x-context-region": b"eu",
    }
    assert context_from_headers(headers) == FULL


def test_an_empty_context_has_no_headers() -> None:
    assert headers_from_context(ExecutionContext()) == ()
    assert context_from_headers(()) == ExecutionContext()


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"x" * 257, b"a\nb", b"a\x00"])
def test_a_value_that_makes_no_sense_is_ignored(value: bytes | None) -> None:
    headers = (("x-tenant-id", value), ("x-context-a", value), ("x-user-id", b"fine"))
    assert context_from_headers(headers) == ExecutionContext(user_id="fine")


def test_own_fields_from_outside_are_bounded() -> None:
    headers = tuple((f"x-context-f{number}", b"1") for number in range(100))
    extra = context_from_headers((*headers, ("x-context-f0", b"2"))).extra
    assert len(extra) == 32
    assert extra["f0"] == "2", "the last value of a name counts"


def test_without_belief_only_what_grants_nothing_is_read() -> None:
    context = context_from_headers(headers_from_context(FULL), believe_identity=False)
    assert context == ExecutionContext(request_id="r", correlation_id="c", locale="de-AT")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-tenant-id", "x-feature-flags", "x-context-a", "x-context-" + "b" * 99, "x-request-id"])
            | st.text(),
            st.none() | st.binary(),
        )
    )
)
def test_no_header_can_make_it_fail(headers: list[tuple[str, bytes | None]]) -> None:
    context = context_from_headers(tuple(headers))
    assert context_from_headers(headers_from_context(context)) == context


def test_the_context_is_immutable_and_can_be_pickled() -> None:
    with pytest.raises(AttributeError):
        FULL.tenant_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="immutable"):
        FULL.extra["region"] = "us"  # type: ignore[index]
    with pytest.raises(TypeError, match="immutable"):
        FULL.extra.pop("region")  # type: ignore[attr-defined]
    given = {"region": "eu"}
    context = ExecutionContext(extra=given)
    given["region"] = "us"
    assert context.extra == {"region": "eu"}
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert len({FULL, pickle.loads(pickle.dumps(FULL))}) == 1


def test_it_can_be_copied_logged_and_returned_from_a_route() -> None:
    values = asdict(FULL)
    assert ExecutionContext(**values) == FULL
    assert replace(FULL, user_id="v").extra == FULL.extra
    assert deepcopy(FULL) == FULL
    adapter = TypeAdapter(ExecutionContext)
    assert adapter.validate_json(adapter.dump_json(FULL)) == FULL


def test_what_could_not_travel_is_refused() -> None:
    with pytest.raises(ValueError, match="comma"):
        ExecutionContext(feature_flags=("a,b",))
    with pytest.raises(ValueError, match="must match"):
        ExecutionContext(extra={"Not A Name": "x"})
    with pytest.raises(TypeError, match="not one str"):
        ExecutionContext(feature_flags="abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        set_context(no_such_field="x")


async def test_set_capture_and_restore() -> None:
    assert get_context() == ExecutionContext()
    set_context(tenant_id="one")
    assert set_context(user_id="u") == ExecutionContext(tenant_id="one", user_id="u")
    captured = capture_context()
    with restore_context(ExecutionContext(tenant_id="two")) as restored:
        assert get_context() is restored
    assert get_context() == captured

    async def background() -> str | None:
        restore_context(captured)
        return get_context().tenant_id

    set_context(ExecutionContext())
    assert await asyncio.create_task(background()) == "one"
    assert get_context() == ExecutionContext(), "the task had a context of its own"


def test_a_captured_context_can_be_restored_in_a_thread() -> None:
    def work() -> str | None:
        with restore_context(FULL):
            return get_context().tenant_id

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == "grüße"
        assert pool.submit(get_context).result() == ExecutionContext()


def test_leaving_in_another_copy_of_the_context_does_no_harm() -> None:
    restored = copy_context().run(restore_context, FULL)
    restored.__exit__()
    assert get_context() == ExecutionContext()


def test_what_all_contexts_agree_on() -> None:
    other = ExecutionContext(tenant_id="grüße", user_id="another", feature_flags=("a", "b"))
    assert common_context([FULL, other]) == ExecutionContext(tenant_id="grüße", feature_flags=("a", "b"))
    assert common_context([FULL, FULL]) == FULL
