"""Whole messages: written with a schema's id, and read back where there is doubt whether they would be the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError
from ..payload.fidelity import check_of_message
from ..payload.losses import DECLARED, losses
from ..payload.steps import Outgoing
from ..payload.target import Target
from .avro_binary import Output
from .avro_logical import Unfit
from .avro_plans import is_record
from .avro_reading import STEP, SchemaReader
from .avro_schema import Node
from .avro_wire_schema import ReadingRules
from .avro_writing import SchemaWriter
from .wire import Frame


class MessageWriter:
    """Writes messages of one class by one schema.

    Args:
        kind: the class.
        node: the schema.
        frame: puts the schema's id to the bytes.
        rules: as the serializer reads, for reading back.
    """

    def __init__(self, kind: type, node: Node, frame: Frame, rules: ReadingRules) -> None:
        self._kind = kind
        self._frame = frame
        self._write = SchemaWriter(node, rules.records)
        self._proof = _Proof(kind, node, rules) if issubclass(kind, BaseModel) or is_record(kind) else None

    def __call__(self, message: Any, outgoing: Outgoing) -> bytes:
        """The bytes, with the id. Raises `PayloadEncodeError`, which shows no value."""
        try:
            data = self._write(message)
            if self._proof is not None:
                self._proof(message, data)
            return self._frame.put(bytes(data), outgoing)
        except Unfit as error:
            problem = str(error)
        except RecursionError:
            problem = "it is nested too deep"
        # outside the except block, as a traceback through the first error would show the message
        raise PayloadEncodeError(f"step {STEP}: a {self._kind.__name__} cannot be written: {problem}", step=STEP)


class _Proof:
    """Would a model or dataclass be read back as it is? If its class leaves doubts, it is read back.

    The class is judged as for JSON (see `payload.fidelity`): what JSON reads back by the class, Avro does, too, as the
    conversion to bare values loses nothing.
    """

    def __init__(self, kind: type, node: Node, rules: ReadingRules) -> None:
        self._node = node
        self._rules = rules
        self._target = Target(kind)
        self._check = check_of_message(self._target.adapter.core_schema)
        self._read: SchemaReader | None = None
        self._rounds = any(each.kind == "float" for each in node.walk())

    def __call__(self, message: Any, data: Output) -> None:
        """Raises `Unfit` if the bytes would not be read as the message."""
        if data.odd or (self._check is not None and not self._is_sure(message)):
            self._read_back(message, bytes(data))

    def _is_sure(self, message: Any) -> bool:
        try:
            return self._check is None or self._check((message,))
        except Exception:  # a value is not of its declared type
            return False

    def _read_back(self, message: Any, data: bytes) -> None:
        if self._read is None:
            self._read = SchemaReader(self._node, self._target, self._rules)
        try:
            read = self._read(data)
        except PayloadDecodeError as error:
            raise Unfit(f"it would not be read back: {str(error).removeprefix(f'step {STEP}: ')}") from None
        for place, kind in losses(message, read, DECLARED):
            if kind is not float or not self._rounds:
                raise Unfit(f"it would not be read back as it is: {'.'.join(place) or 'it'} ({kind.__name__})")


def reading_rules(records: Mapping[str, type], nanoseconds: str) -> ReadingRules:
    """Raises `ConfigurationError` if an option is none."""
    if nanoseconds not in ("refuse", "cut"):
        raise ConfigurationError("nanoseconds must be 'refuse' or 'cut'")
    return ReadingRules(records=dict(records), cuts_nanoseconds=nanoseconds == "cut")
