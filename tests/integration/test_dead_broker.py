"""A broker that dies, or never lived, fails a publish within `publish_timeout`, with a sentence that says so."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastapi_athomic import Athomic, AthomicSettings, PublishError
from tests.support.apps import new_app
from tests.support.processes import free_port
from tests.support.silent_server import SilentServer

SECONDS = 20.0
"""Much longer than the `publish_timeout` here, and shorter than any timer that would end a publish without it."""
CHILD = """
import sys
from tests.support.mock_cluster import MockCluster
cluster = MockCluster()
print(cluster.bootstrap, flush=True)
sys.stdin.read()
"""

ISOLATIONS = pytest.mark.parametrize("isolation", ["loop", "thread"])


class Broker:
    """A mock cluster in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", CHILD]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, cwd=root, stdin=-1, stdout=-1, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def freeze(self) -> None:
        """Its port stays open, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Its port is closed."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.kill()


@asynccontextmanager
async def app_on(address: str, isolation: Any) -> AsyncIterator[Athomic]:
    settings = AthomicSettings(
        broker_url=f"kafka://{address}", isolation=isolation, publish_timeout=0.5, shutdown_timeout=1
    )
    athomic = new_app(settings)
    async with athomic.app.router.lifespan_context(athomic.app):
        yield athomic


async def errors_of_all(athomic: Athomic) -> list[str]:
    """What each way to publish says, all at the same time."""

    def sync() -> Any:
        return athomic.publish_sync("t", "m")

    ways = (
        athomic.publish("t", "m"),
        athomic.publish_many("t", ["m"] * 100),
        athomic.publish("topic.that.is.not.there", "m"),
        athomic.publish_many("topic.that.is.not.there.either", ["m"] * 10),
        athomic.publish("t", "m", partition=99),
        athomic.publish("t", None),
        asyncio.to_thread(sync),
    )
    async with asyncio.timeout(SECONDS):
        results = await asyncio.gather(*ways, return_exceptions=True)
    assert all(isinstance(result, PublishError) for result in results), results
    return [str(result) for result in results]


@ISOLATIONS
async def test_a_broker_that_never_answers(isolation: Any) -> None:
    with SilentServer() as server:
        async with app_on(server.url.removeprefix("http://"), isolation) as athomic:
            said = await errors_of_all(athomic)
    assert said == ["the broker cannot be reached, tried for 0.5 s: no answer yet"] * len(said)


@ISOLATIONS
async def test_a_port_that_is_closed(isolation: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with app_on(address, isolation) as athomic:
        said = await errors_of_all(athomic)
    reason = f"connecting to Kafka: {address}: nothing listens there (connection refused)"
    assert set(said) == {f"the broker cannot be reached, tried for 0.5 s: {reason}"}


@ISOLATIONS
async def test_a_broker_that_freezes_and_then_dies(isolation: Any, broker: Broker) -> None:
    async with app_on(broker.address, isolation) as athomic:
        async with asyncio.timeout(SECONDS):
            while True:  # the first publish waits for a cold client, with a short time
                try:
                    await athomic.publish("t", "m")
                    break
                except PublishError:
                    continue
        broker.freeze()
        one, many, missing, missing_many, *_ = await errors_of_all(athomic)
        assert "message to t was not published: sending to t: not acknowledged in time; it may be written later" in one
        assert many.startswith("100 of 100 messages to t were not published: ")
        assert "asking for topic topic.that.is.not.there: no answer within" in missing
        assert "10 of 10 messages to topic.that.is.not.there.either were not published: asking for" in missing_many
        broker.kill()
        said = await errors_of_all(athomic)
        assert not any("does not exist" in error for error in said), "nobody can know: no broker answers"
