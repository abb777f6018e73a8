"""What somebody does to a consumer, who does it, and why."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from ..observation.actors import THE_APP, Actor
from ..observation.status import ProcessInfo

__all__ = ["BREAKER", "THE_APP", "Actor", "ControlAction", "ControlEvent"]


class ControlAction(StrEnum):
    """All that can be done to a consumer from outside."""

    PAUSE = "pause"
    RESUME = "resume"
    RESTART = "restart"
    CONCURRENCY = "concurrency"
    RATE = "rate"
    BREAKER = "breaker"
    SEEK = "seek"
    REDRIVE = "redrive"
    DISCARD = "discard"


BREAKER = Actor(name="breaker")
"""The circuit breaker of a handler, where it opens and closes by itself."""


class ControlEvent(BaseModel):
    """One action, after it was done or refused."""

    action: ControlAction
    consumer: str = Field(description="The handler id")
    actor: str = Field(description="Who did it")
    reason: str | None = Field(description="Why, in their words")
    at: datetime = Field(description="When, in UTC")
    process: ProcessInfo = Field(description="The process that did it")
    details: dict[str, Any] = Field(description="What exactly: topic, partition, offsets, numbers; no payloads")
    done: bool = Field(description="False: it was refused or failed, and `details` says why")
