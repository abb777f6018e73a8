"""The time limit of one attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from ..exceptions import HandlerTimeoutError
from ..loop.cancellation import is_interrupt
from .plans import Call, Delivery


def limited(call: Call, timeout: float) -> Call:
    """The call, limited to `timeout` seconds: then it is cancelled, and fails with `HandlerTimeoutError`.

    It fails with that whatever the handler does when it is cancelled: even if it returns, or raises something else.
    """

    async def with_timeout(value: Any, delivery: Delivery) -> Any:
        limit = asyncio.timeout(timeout)
        cause: BaseException | None = None
        try:
            async with limit:
                result = await call(value, delivery)
        except BaseException as error:
            if not limit.expired() or is_interrupt(error) or isinstance(error, GeneratorExit):  # our own cancellation
                raise
            cause = error
        if limit.expired():
            raise HandlerTimeoutError(f"the handler ran longer than its timeout of {timeout:g} s") from cause
        return result

    return with_timeout
