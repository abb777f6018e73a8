"""A service of several processes, run by uvicorn: see `test_group_status`. The topic is named by the environment."""

from __future__ import annotations

import os

from fastapi import FastAPI

from fastapi_athomic import include_athomic

TOPIC = os.environ["SHARED_TOPIC"]
app = FastAPI()
athomic = include_athomic(app)


@athomic.subscribe_to(TOPIC, group_id=TOPIC, handler_id="h")
async def handle(number: int) -> None:
    if number < 0:
        raise ValueError("below zero")
