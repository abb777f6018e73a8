from __future__ import annotations

import asyncio

import pytest

from fastapi_athomic import TransportError
from fastapi_athomic.transports.kafka.boundary import within


async def test_a_future_that_is_late_is_not_taken_for_one_that_the_client_cancelled() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(TransportError, match=r"asking: no answer within 0\.01 s"):
        await within(never, 0.01, "asking")  # type: ignore[arg-type]  # aiokafka gives futures, too
    never = asyncio.get_running_loop().create_future()
    never.cancel()
    with pytest.raises(TransportError, match="asking: cancelled by the Kafka client"):
        await within(never, 0.01, "asking")  # type: ignore[arg-type]
