"""Who does something to a consumer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, and why: it is logged, and told to `on_control`."""

    name: str = "app"  # of a person or a program; "app": the app's own code
    reason: str | None = None


THE_APP = Actor()
"""The app's own code, without a reason."""
