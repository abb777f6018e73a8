"""Does the order of a pipeline's steps make sense? Asked when the pipeline is made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..exceptions import ConfigurationError
from .steps import BytesStep, Serializer

_RANKS = {"compression": 1, "encryption": 2, "storage": 3}
_BECAUSE = {
    ("encryption", "compression"): "what is encrypted cannot be compressed",
    ("storage", "compression"): "only the reference would be compressed, not the payload in the store",
    ("storage", "encryption"): "only the reference would be encrypted, and the payload lie open in the store",
}


def check_order(
    serializer: Serializer, steps: Sequence[BytesStep], reads: Sequence[Serializer], key: Serializer | None
) -> None:
    """Raises `ConfigurationError`: one sentence, which names the steps."""
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"the step {name} stands twice in one pipeline: its headers could not tell which")
    writing = [step for step in steps if step.writes]
    for kind in ("compression", "encryption", "storage"):
        if len(same := [step.name for step in writing if step.kind == kind]) > 1:
            raise ConfigurationError(
                f"{' and '.join(same)} are both steps for {kind}: one must have writes=False, if the other replaces it"
            )
    ranked = [step for step in steps if step.kind in _RANKS]
    for earlier, later in pairwise(ranked):
        if _RANKS[earlier.kind] > _RANKS[later.kind]:
            raise ConfigurationError(
                f"{earlier.name} stands before {later.name}: {_BECAUSE[earlier.kind, later.kind]}; turn them round"
            )
