"""The limit of time that a handler has for one attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from ..exceptions import HandlerTimeoutError
from ..loop.cancellation import is_interrupt
from .plans import Call, Delivery


def limited(call: Call, timeout: float) -> Call:
    """The call with a limit of `timeout` seconds, after which it is cancelled and fails with `HandlerTimeoutError`.

    So it does whatever the handler makes of that cancellation: also if it returns, or raises something else.
    """

    async def with_timeout(value: Any, delivery: Delivery) -> Any:
        limit = asyncio.timeout(timeout)
        cause: BaseException | None = None
        try:
            async with limit:
                result = await call(value, delivery)
        except BaseException as error:
            if not limit.expired() or is_interrupt(error) or isinstance(error, GeneratorExit):  # that: given up by us
                raise
            cause = error
        if limit.expired():
            raise HandlerTimeoutError(f"the handler ran longer than its timeout of {timeout:g} s") from cause
        return result

    return with_timeout
