"""An app whose routes `scripts/openapi` tries out: `python -m tests.support.control_app PORT`, with dead letters."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, include_athomic
from fastapi_athomic.operation_settings import ControlSettings, DashboardSettings

LETTERS = 300
bearer = HTTPBearer(auto_error=False)


async def known(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Lets in who has the token `operator`."""
    if credentials is None or credentials.credentials != "operator":
        raise HTTPException(401, "who are you?", {"www-authenticate": "Bearer"})


def new_app() -> FastAPI:
    """The app; its handler `billing` fails at each message."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        filling = asyncio.create_task(fill(athomic))
        yield
        await filling

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(
        app,
        AthomicSettings(
            control=ControlSettings(enabled=True),
            dashboard=DashboardSettings(interval=0.01, stream_seconds=0.02),  # a request waits for its end
        ),
        control_dependencies=[Depends(known)],
        payload_dependencies=[Depends(known)],
    )

    @athomic.subscribe_to("orders.placed", group_id="billing", handler_id="billing", retry=RetryPolicy(max_attempts=1))
    async def bill(order: dict[str, Any]) -> None:
        raise ValueError("no money")

    return app


async def fill(athomic: Athomic) -> None:
    """Publishes what becomes dead letters."""
    await athomic.publish_many("orders.placed", [{"total": n} for n in range(LETTERS)], key=lambda each: each["total"])


if __name__ == "__main__":
    uvicorn.run(new_app(), port=int(sys.argv[1]), log_level="warning", access_log=False)
