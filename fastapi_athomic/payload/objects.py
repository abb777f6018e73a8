"""Validates what other formats than JSON are read into: Python objects, with text where the format has no type.

pydantic reads text as a UUID, and a list as a set, in strict models too, but only from JSON
(https://docs.pydantic.dev/latest/concepts/conversion_table/). Objects that a strict model refuses are therefore
validated as the JSON that they would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..compatibility import to_json
from .fidelity import is_strict
from .slices import sliced_validator


def object_validator(adapter: TypeAdapter[Any], *, in_slices: bool = False) -> Callable[[Any], Any]:
    """A function from objects that a format was read into to the type. It raises `ValidationError`.

    Args:
        adapter: of the type.
        in_slices: it is used in a thread, and lets the event loop go on.
    """
    validator = sliced_validator(adapter) if in_slices else adapter.validator
    validate: Callable[[Any], Any] = validator.validate_python
    if not is_strict(adapter.core_schema):
        return validate
    validate_json = validator.validate_json

    def validate_strictly(read: Any) -> Any:
        try:
            return validate(read)
        except ValidationError as error:
            refused = error
        try:
            as_json = to_json(read, inf_nan_mode="constants")
        except Exception:  # bytes that are not UTF-8: JSON cannot help
            raise refused from None
        return validate_json(as_json)

    return validate_strictly
