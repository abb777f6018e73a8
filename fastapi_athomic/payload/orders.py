"""Do the parts of a pipeline make sense together? Asked when the pipeline is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..exceptions import ConfigurationError
from .json_format import Json
from .steps import BytesStep, Serializer

_RANKS = {"compression": 1, "encryption": 2, "storage": 3}
_BECAUSE = {
    ("encryption", "compression"): "what is encrypted cannot be compressed",
    ("storage", "compression"): "only the reference would be compressed, not the payload in the store",
    ("storage", "encryption"): "only the reference would be encrypted, and the payload lie open in the store",
}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of HTTP (RFC 9110, 5.6.2)


def check_order(
    serializer: Serializer, steps: Sequence[BytesStep], reads: Sequence[Serializer], key: Serializer | None
) -> None:
    """Raises `ConfigurationError`: one sentence, which names the steps."""
    problem = (
        next((problem for step in steps for problem in _of_step(step)), None)
        or next(_of_steps(steps), None)
        or next(_of_reads(serializer, reads), None)
        or _of_key(key)
    )
    if problem is not None:
        raise ConfigurationError(problem)


def _of_step(step: BytesStep) -> Iterator[str]:
    if not isinstance(step.name, str) or not _NAME.fullmatch(step.name):
        yield (
            f"the name of a step stands in the header content-encoding, so it is of letters, digits, '-', '.' and '_': "
            f"{type(step).__name__} has {step.name!r}"
        )
    if step.required and not step.writes:
        yield (
            f"the step {step.name} is required and not written (writes=False), so what is published could not be read: "
            "set required=False, too"
        )


def _of_steps(steps: Sequence[BytesStep]) -> Iterator[str]:
    names = [step.name.lower() for step in steps]
    for step in steps:
        if names.count(step.name.lower()) > 1:
            yield f"the step {step.name} stands twice in one pipeline: its headers could not tell which"
    writing = [step for step in steps if step.writes]
    for kind in _RANKS:
        if len(same := [step.name for step in writing if step.kind == kind]) > 1:
            both = " and ".join(same)
            yield f"{both} are both steps for {kind}: one must have writes=False, if the other replaces it"
    for earlier, later in pairwise(step for step in steps if step.kind in _RANKS):
        if _RANKS[earlier.kind] > _RANKS[later.kind]:
            because = _BECAUSE[earlier.kind, later.kind]
            yield f"{earlier.name} stands before {later.name}: {because}; turn them round"
    for earlier, later in pairwise(steps):
        if earlier.kind == "storage" and later.kind != "storage":
            yield (
                f"{earlier.name} stands before {later.name}, which would get the reference, not the payload in the "
                "store: turn them round"
            )


def _of_reads(serializer: Serializer, reads: Sequence[Any]) -> Iterator[str]:
    for number, each in enumerate(reads):
        if not isinstance(each, Serializer):
            yield f"`reads` holds serializers, such as Json(), and {_shown(each)} is none"
        elif each is serializer or (type(each) is Json and type(serializer) is Json):
            yield f"`reads` names {each.name}, which the pipeline reads anyway, as it writes it"
        elif any(each is other for other in reads[:number]):
            yield f"`reads` names {each.name} twice"


def _of_key(key: Any) -> str | None:
    if isinstance(key, Serializer) and not key.takes_keys:
        return f"key={type(key).__name__}(...) is for values only: give another serializer, or None for keys of text"
    if key is None or isinstance(key, Serializer):
        return None
    return f"key must be a serializer, such as Json(), or None for text, not {_shown(key)}"


def _shown(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"an object of {type(thing).__name__}"


def sequence_of(what: str, given: Any) -> tuple[Any, ...]:
    """The members of a list that an option takes. Raises `ConfigurationError` if it is no list."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{what} must be a list, not {_shown(given)}: PayloadPipeline([...])")
    return tuple(given)


def not_a_step(thing: Any) -> ConfigurationError:
    """The error about something that is neither a serializer nor a step."""
    if isinstance(thing, type):
        return ConfigurationError(
            f"the class {thing.__name__} is not a payload step: give an object, {thing.__name__}()"
        )
    return ConfigurationError(f"{type(thing).__name__} is not a payload step: it needs name, encode and decode")
