"""The two fields of a decoded message that say where it stands: its aggregate key and its sequence number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..exceptions import PayloadDecodeError
from ..stores.base import GREATEST
from ..subscriptions import Sequencing

STEP = "sequence"
"""Errors name this step, as they name the steps of the payload pipeline."""


class SequenceReader:
    """Reads the aggregate key and the sequence number: attributes of an object, or keys of a mapping."""

    def __init__(self, sequencing: Sequencing) -> None:
        self._key_field = sequencing.aggregate_key_field
        self._number_field = sequencing.sequence_id_field

    def read(self, value: Any) -> tuple[bytes, int]:
        """Gives the aggregate key and the sequence number.

        The key is a string, an integer, a UUID or bytes. Only its text counts: 1 and "1" are the same aggregate.

        Raises:
            PayloadDecodeError: a field is missing or has a wrong type. The error names the field, never its value.
        """
        if isinstance(value, Mapping):
            key, number = value.get(self._key_field), value.get(self._number_field)
        else:
            key, number = getattr(value, self._key_field, None), getattr(value, self._number_field, None)
        if type(number) is not int or not -GREATEST <= number <= GREATEST:
            raise PayloadDecodeError(f"{self._number_field} is not a whole number below 2**53", step=STEP)
        if isinstance(key, str):
            return key.encode("utf-8", "surrogatepass"), number
        if isinstance(key, bytes):
            return key, number
        if isinstance(key, int | UUID) and not isinstance(key, bool):
            return str(key).encode(), number
        raise PayloadDecodeError(f"{self._key_field} is no text, whole number, UUID or bytes", step=STEP)
