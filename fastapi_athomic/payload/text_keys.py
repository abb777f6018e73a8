"""Keys as text: what `publish` writes and `Key[...]` reads where a pipeline has no serializer for keys."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ..error_text import located
from ..exceptions import PayloadDecodeError
from .deserialization import deserializer
from .steps import Decoder, Received
from .target import Target

STEP = "key"
"""Errors name this step."""


def key_decoder(target_type: Any) -> Decoder:
    """A function from messages, whose `value` is the key, to the type.

    `bytes` and `str` are taken as they are. A key that begins like a JSON object or list is read as JSON; any other is
    text that pydantic turns into the type, such as `int` or `UUID`.

    Raises:
        ConfigurationError: pydantic cannot validate the type.
    """
    if target_type in (bytes, str, bytes | None, str | None):
        return deserializer(target_type)
    target = Target(target_type)
    of_text, of_json = target.adapter.validator.validate_python, target.adapter.validator.validate_json

    def decode(message: Received) -> Any:
        data = message.value or b""
        try:
            return of_json(data) if data[:1] in (b"{", b"[") else of_text(data.decode())
        except ValidationError as error:
            problem = target.describe(error)
        except UnicodeDecodeError:
            problem = "it is not UTF-8"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from a validator of the user's
            problem = f"a validator raised {located(error)}"
        # outside the except block, as a traceback through the validation error would show the key
        raise PayloadDecodeError(f"not a valid {target.name}: {problem}", step=STEP)

    return decode
