"""The type that payloads are validated against, and how to describe its errors without showing the payload."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pydantic import PydanticUserError, ValidationError

from ..compatibility import type_adapter
from ..error_text import problems_of
from ..exceptions import ConfigurationError
from .annotations import type_name
from .fidelity import names_of


class Target:
    """The type that payloads are validated against.

    Raises:
        ConfigurationError: pydantic cannot validate the type.
    """

    def __init__(self, target_type: Any) -> None:
        self.type = target_type
        self.name = type_name(target_type)
        try:
            self.adapter = type_adapter(target_type)
        except (PydanticUserError, NameError, TypeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ConfigurationError(f"messages cannot be decoded into {self.name}: {reason}") from error

    @property
    def allows_none(self) -> bool:
        """Whether a null value is one of the type's values."""
        try:
            return self.adapter.validate_python(None) is None
        except Exception:
            return False

    def describe(self, error: ValidationError) -> str:
        """Where and how the validation failed, without showing any of the payload."""
        return problems_of(error, self._place)

    def _place(self, location: Iterable[int | str], kind: str) -> str:
        """Keys that are not fields of the type come from the payload, so they become a question mark."""
        parts = [str(part) if isinstance(part, int) or part in self._known_names else "?" for part in location]
        return f"{'.'.join(parts)}: " if parts else ""

    @cached_property
    def _known_names(self) -> frozenset[str]:
        return names_of(self.adapter.core_schema)
