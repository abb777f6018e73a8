"""Bytes of one schema become values of one type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader
from pydantic import ValidationError

from ..error_text import located
from ..exceptions import PayloadDecodeError
from ..payload.objects import object_validator
from ..payload.target import Target
from .avro_diagnosis import count_items, what_is_wrong
from .avro_logical import Unfit
from .avro_schema import Node, takes_no_bytes
from .avro_shapes import Expected
from .avro_wire_schema import ReadingRules, WireSchemas

STEP = "avro"
MAGIC = b"Obj\x01"
"""The first bytes of an object container file."""


class SchemaReader:
    """Reads what was written by one schema. Raises `PayloadDecodeError` for what was not.

    Args:
        node: the writer's schema, perhaps resolved for a reader's.
        target: the handler's type. None: values come as Python's own types.
        rules: of the serializer.
        in_slices: it is used in a thread, and lets the event loop go on.
        thread_above: larger payloads (in bytes) are left to `read_later`.
        read_later: gives a `Later`.
    """

    def __init__(
        self,
        node: Node,
        target: Target | None,
        rules: ReadingRules,
        *,
        in_slices: bool = False,
        thread_above: int = sys.maxsize,
        read_later: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._target = target
        expected = None if target is None else Expected(target.adapter)
        self._schema = WireSchemas(expected, rules, in_slices=in_slices).of(node)
        self._validate = None if target is None else object_validator(target.adapter, in_slices=in_slices)
        self._thread_above, self._read_later = thread_above, read_later
        # by itself, a value of type bytes is written without its length, as Confluent's serializers do
        self._is_bare = node.kind == "bytes" and node.logical is None
        self._counts = any(each.kind == "array" and takes_no_bytes(each.items) for each in node.walk())

    def __call__(self, data: bytes) -> Any:
        if self._read_later is not None and data[self._thread_above :]:  # it is larger
            return self._read_later(data)
        try:
            value = data if self._is_bare else self._decoded(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of fastavro, of our converters, or of a validator of the user's
            problem = self._problem(data, error)
        else:
            if self._validate is None:
                return value
            try:
                return self._validate(value)
            except ValidationError as error:
                assert self._target is not None
                problem = f"the payload is not a valid {self._target.name}: {self._target.describe(error)}"
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                problem = f"a validator raised {located(error)}"
        # outside the except block, as a traceback through the first error would show the payload
        raise PayloadDecodeError(f"step {STEP}: {problem}", step=STEP)

    def _decoded(self, data: bytes) -> Any:
        if self._counts:
            count_items(data, self._schema)
        stream = BytesIO(data)
        value = schemaless_reader(stream, self._schema)
        if stream.tell() < len(data):
            raise Unfit(f"the value ends, and {len(data) - stream.tell()} bytes are left over")
        return value

    def _problem(self, data: bytes, error: BaseException) -> str:
        if data.startswith(MAGIC):
            return "this is an object container file (.avro), and a message holds one value without a header"
        wrong = what_is_wrong(data, self._schema)
        if wrong is not None:
            return wrong
        return str(error) if isinstance(error, Unfit) else f"it cannot be read: {located(error)}"
