"""Reads payloads as a type; what goes wrong is told with the step and the place, and never with a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from ..error_text import located
from ..exceptions import PayloadDecodeError
from .serialization import RefusedError, UnfitError
from .target import Target

Read = Callable[[bytes | None], Any]
"""A payload, or None for a null value, becomes a value. Raises `PayloadDecodeError`."""


def validated(target: Target, read: Callable[[bytes], Any], *, step: str, name: str) -> Read:
    """The same as `read`, with null values, and with errors of ours.

    Args:
        target: the type that is read.
        read: may raise `ValidationError`, `RefusedError`, and whatever validators of the user's raise.
        step: named in errors.
        name: of the format, for people.
    """
    allows_none = target.allows_none

    def read_payload(data: bytes | None) -> Any:
        if data is None:
            if allows_none:
                return None
            text = f"step {step}: the payload is null, and the handler's type {target.name} does not allow None"
            raise PayloadDecodeError(text, step=step)
        if not data:
            raise PayloadDecodeError(f"step {step}: the payload is no {name}: it is empty", step=step)
        try:
            return read(data)
        except UnfitError as error:
            problem = f"not a valid {target.name}: {error}"
        except RefusedError as error:
            problem = f"no {name}: {error}"
        except ValidationError as error:
            problem = f"not a valid {target.name}: {target.describe(error)}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from a validator of the user's
            problem = f"not a valid {target.name}: a validator raised {located(error)}"
        # outside the except block, as a traceback through the validation error would show the payload
        raise PayloadDecodeError(f"step {step}: the payload is {problem}", step=step)

    return read_payload
