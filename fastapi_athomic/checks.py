"""Is each option that a user gave what it must be? If not: one sentence that says what is allowed, for people."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

LONGEST_SHOWN = 60
"""An error shows no more characters of a value."""


class Check(NamedTuple):
    """What one option must be."""

    holds: Callable[[Any], bool]
    text: str  # continues 'must be'
    known: tuple[str, ...] = ()  # all values that are allowed, if they can be listed


def one_of(*known: str) -> Check:
    """One of these texts."""
    *others, last = map(repr, known)
    return Check(lambda value: isinstance(value, str) and value in known, f"{', '.join(others)} or {last}", known)


BOOLEAN = Check(lambda value: isinstance(value, bool), "True or False")
COUNT = Check(lambda value: is_whole(value) and is_number(value) and value >= 1, "a whole number of 1 or more")
NAME = Check(
    lambda value: isinstance(value, str) and bool(value) and value == value.strip(),
    "text that is not empty, and has no space around it",
)
SECONDS = Check(lambda value: is_number(value) and value >= 0, "a number of seconds, 0 or more")
POSITIVE_SECONDS = Check(lambda value: is_number(value) and value > 0, "a number of seconds above 0")


def or_none(check: Check, meaning: str) -> Check:
    """The same, or None, which means this."""
    return check._replace(
        holds=lambda value: value is None or check.holds(value), text=f"{check.text}, or None ({meaning})"
    )


def first_problem(options: object, checks: Mapping[str, Check]) -> str | None:
    """A sentence about the first attribute of `options` that is not what it must be; None if all are."""
    for name, check in checks.items():
        value = getattr(options, name)
        if not check.holds(value):
            return f"{name} must be {check.text}, not {shown(value)}{did_you_mean(value, check.known)}"
    return None


def nearest(given: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that may have been meant, the best one first."""
    from difflib import get_close_matches  # only who has made a mistake needs it

    return get_close_matches(given, list(known), most)


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Ends a sentence with the known name that is nearest to the given one; empty if none is near."""
    near = nearest(given, known) if isinstance(given, str) else []
    return f": did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """The value as an error shows it: short, and without what objects may say of themselves."""
    if value is None or isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    if isinstance(value, tuple | list):
        text = ", ".join(map(shown, value))
        if isinstance(value, tuple):
            return f"({text},)" if len(value) == 1 else f"({text})"
        return f"[{text}]"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def is_whole(value: object) -> bool:
    """A whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A finite number that a float can hold; True and False are none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and is_whole(value) and abs(value) <= sys.float_info.max
