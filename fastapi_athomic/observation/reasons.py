"""Why a consumer is not healthy: a stable code for machines, a sentence for people."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field


class ReasonCode(StrEnum):
    """The causes. Codes are never renamed: alerts are written on them."""


class Reason(BaseModel):
    """One reason why something is not healthy."""

    code: ReasonCode
    message: str = Field(description="The same as a sentence, with figures")
    since: datetime | None = Field(None, description="Since when, in UTC; null if that is not known")
    limit_seconds: float | None = Field(None, description="For how long it may last: the setting that decides")
