"""Optional libraries: imported when something that needs them is made, and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .exceptions import ConfigurationError


def needed(module: str, *, extra: str, what: str) -> Any:
    """The module of an optional library. `what` needs it, and `extra` of this package installs it.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{what} needs fastapi-athomic[{extra}]: {error}") from error
