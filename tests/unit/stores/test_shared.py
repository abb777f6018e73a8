"""Documents that processes share: the same in memory and in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import redis
from pydantic import SecretStr

from fastapi_athomic import AthomicSettings, StateStoreError
from fastapi_athomic.stores.schemes import create_shared_state
from fastapi_athomic.stores.shared import SharedState
from fastapi_athomic.stores.shared_memory import MemorySharedState, shared_named
from fastapi_athomic.stores.shared_redis import RedisSharedState
from tests.support.processes import free_port
from tests.support.redis_server import RedisServer
from tests.support.silent_server import SilentServer


class Clock:
    """Goes when it is told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def shared(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[SharedState]:
    if request.param == "memory":
        yield MemorySharedState(clock)
        return
    state = RedisSharedState(request.getfixturevalue("redis_server").url, prefix=uuid4().hex, clock=clock)
    yield state
    await state.close()


async def test_documents_are_found_by_section_and_name(shared: SharedState) -> None:
    await shared.put("pauses", "billing é {x}", b"\x00\xff\r\n")
    await shared.put("pauses", "shipping", b"")
    await shared.put("status", "billing é {x}", b"other")
    assert await shared.all("pauses") == {"billing é {x}": b"\x00\xff\r\n", "shipping": b""}
    assert await shared.all("status") == {"billing é {x}": b"other"}
    assert await shared.all("nothing") == {}


async def test_a_document_is_replaced_and_removed(shared: SharedState) -> None:
    await shared.put("s", "a", b"1")
    await shared.put("s", "a", b"2")
    await shared.put("s", "b", b"3")
    assert await shared.all("s") == {"a": b"2", "b": b"3"}
    await shared.remove("s", "a")
    await shared.remove("s", "never there")
    await shared.remove("no such section", "a")
    assert await shared.all("s") == {"b": b"3"}


async def test_each_document_has_an_end_of_its_own(shared: SharedState, clock: Clock) -> None:
    await shared.put("s", "short", b"1", ttl=10)
    await shared.put("s", "long", b"2", ttl=20)
    await shared.put("s", "for good", b"3")
    clock.now += 9.9
    assert (await shared.all("s")).keys() == {"short", "long", "for good"}
    clock.now += 0.1
    assert (await shared.all("s")).keys() == {"long", "for good"}
    clock.now += 1e6
    assert (await shared.all("s")).keys() == {"for good"}


async def test_writing_again_renews_the_end_or_lifts_it(shared: SharedState, clock: Clock) -> None:
    for name in ("renewed", "kept", "shortened"):
        await shared.put("s", name, b"1", ttl=10)
    clock.now += 9
    await shared.put("s", "renewed", b"2", ttl=10)
    await shared.put("s", "kept", b"2")
    await shared.put("s", "shortened", b"2", ttl=0.5)
    clock.now += 5
    assert (await shared.all("s")).keys() == {"renewed", "kept"}
    clock.now += 5
    assert (await shared.all("s")).keys() == {"kept"}


async def test_what_was_removed_does_not_end_what_comes_after_it(shared: SharedState, clock: Clock) -> None:
    await shared.put("s", "a", b"1", ttl=10)
    await shared.remove("s", "a")
    await shared.put("s", "a", b"2")
    clock.now += 20
    assert await shared.all("s") == {"a": b"2"}


async def test_it_works_again_after_close(shared: SharedState) -> None:
    await shared.put("s", "a", b"1")
    await shared.close()
    await shared.close()
    assert await shared.all("s") == {"a": b"1"}


async def test_in_redis_a_section_of_which_everything_ends_goes_by_itself(redis_server: RedisServer) -> None:
    prefix = uuid4().hex
    state = RedisSharedState(redis_server.url, prefix=prefix)
    with redis.Redis.from_url(redis_server.url) as client:

        def ends_in() -> list[int]:
            """Of each key below the prefix, seconds; -1: it stays."""
            return [int(client.ttl(key)) for key in sorted(client.scan_iter(f"{prefix}:*"))]

        await state.put("s", "a", b"1", ttl=1000)
        await state.put("s", "b", b"1", ttl=5000)
        assert len(ends_in()) == 2
        assert all(1000 < seconds <= 5000 for seconds in ends_in())
        await state.put("s", "c", b"1")
        assert ends_in() == [-1, -1]
        assert set(client.scan_iter(f"{prefix}:*")) == {
            f"{prefix}:shared:{{s}}:{part}".encode() for part in ("documents", "ends")
        }, "one hash tag, so one slot of a Redis Cluster"
    await state.close()


async def test_in_redis_expired_documents_are_removed_when_others_are_written(
    redis_server: RedisServer, clock: Clock
) -> None:
    prefix = uuid4().hex
    state = RedisSharedState(redis_server.url, prefix=prefix, clock=clock)
    await state.put("s", "old", b"1", ttl=10)
    clock.now += 11
    await state.put("s", "new", b"1", ttl=10)
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.hkeys(f"{prefix}:shared:{{s}}:documents") == [b"new"]
        assert client.zcard(f"{prefix}:shared:{{s}}:ends") == 1
    await state.close()


async def test_without_a_clock_of_its_own_it_goes_by_the_servers(redis_server: RedisServer) -> None:
    state = RedisSharedState(redis_server.url, prefix=uuid4().hex)
    await state.put("s", "a", b"1", ttl=1000)
    assert await state.all("s") == {"a": b"1"}
    await state.close()


async def test_scripts_that_the_server_has_forgotten_are_sent_again(redis_server: RedisServer) -> None:
    state = RedisSharedState(redis_server.url, prefix=uuid4().hex)
    await state.put("s", "a", b"1")
    with redis.Redis.from_url(redis_server.url) as client:
        client.script_flush()
    await state.put("s", "b", b"2")
    assert await state.all("s") == {"a": b"1", "b": b"2"}
    await state.close()


CALLS: list[Callable[[SharedState], object]] = [
    lambda state: state.put("s", "a", b"1"),
    lambda state: state.remove("s", "a"),
    lambda state: state.all("s"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_a_store_that_is_away_is_said_to_be_away(call: Callable[[SharedState], object]) -> None:
    state = RedisSharedState(f"redis://:secret@127.0.0.1:{free_port()}/0", timeout=5)
    with pytest.raises(StateStoreError, match=r"^the state store cannot be reached: ConnectionError$"):
        await call(state)  # type: ignore[misc]
    await state.close()


async def test_a_store_that_does_not_answer_is_given_up_in_time() -> None:
    with SilentServer() as server:
        state = RedisSharedState(f"{server.url.replace('http', 'redis')}/0", timeout=0.1)
        with pytest.raises(StateStoreError, match=r"^the state store has not answered within 0\.1 s$"):
            await state.all("s")
        await state.close()


async def test_a_wrong_login_is_named_and_no_password_shown(redis_server: RedisServer) -> None:
    state = RedisSharedState(redis_server.url.replace("//", "//nobody:mistaken@"))
    with pytest.raises(StateStoreError, match=r"^the state store refuses the login: user or password") as caught:
        await state.all("s")
    assert "mistaken" not in str(caught.value)
    await state.close()


async def test_what_a_store_refuses_is_quoted(redis_server: RedisServer) -> None:
    prefix = uuid4().hex
    state = RedisSharedState(redis_server.url, prefix=prefix)
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(f"{prefix}:shared:{{s}}:documents", b"not a hash")
    with pytest.raises(StateStoreError, match=r"^the state store refuses: .*(WRONGTYPE|wrong kind of value)"):
        await state.all("s")
    await state.close()


def test_apps_with_the_same_name_of_a_broker_in_memory_share_one() -> None:
    name = uuid4().hex
    first = create_shared_state(AthomicSettings(broker_url=f"memory://{name}"))
    assert first is shared_named(name) is create_shared_state(AthomicSettings(broker_url=f"memory://{name}"))
    assert first is not create_shared_state(AthomicSettings(broker_url=f"memory://{name}2"))
    assert first is not None
    assert first.has_others


def test_a_broker_in_memory_without_a_name_is_an_apps_own() -> None:
    first, second = (create_shared_state(AthomicSettings()) for _ in range(2))
    assert first is not second
    assert first is not None
    assert not first.has_others


def test_kafka_without_a_store_shares_nothing() -> None:
    assert create_shared_state(AthomicSettings(broker_url="kafka://127.0.0.1:9092")) is None


def test_a_store_in_redis_is_shared_by_processes() -> None:
    url = SecretStr("redis://127.0.0.1/0")
    shared = create_shared_state(AthomicSettings(broker_url="kafka://127.0.0.1:9092", state_store_url=url))
    assert isinstance(shared, RedisSharedState)
    assert shared.has_others


async def test_names_that_are_no_text_do_no_harm(redis_server: RedisServer) -> None:
    state = RedisSharedState(redis_server.url, prefix=(prefix := uuid4().hex))
    await state.put("pauses", "billing", b"ours")
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset(f"{prefix}:shared:{{pauses}}:documents", b"\xff", b"theirs")
    assert await state.all("pauses") == {"billing": b"ours", "\ufffd": b"theirs"}
    await state.close()
