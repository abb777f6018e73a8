"""What became of an action in each process that has the consumer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..observation.status import ProcessInfo

__all__ = ["Outcome", "ProcessResult", "SteeringResult"]


class Outcome(StrEnum):
    """What one process has done."""

    APPLIED = "applied"
    REFUSED = "refused"
    UNFINISHED = "unfinished"  # it has heard of it, and is not done: another one is first, or it takes long
    NO_ANSWER = "no_answer"  # it hangs, has crashed, is of an older version, or does not listen
    GONE = "gone"  # it has ended meanwhile


class ProcessResult(ProcessInfo):
    """What became of an action in one process."""

    outcome: Outcome = Field(description="`applied`, `refused`, `unfinished`, `no_answer` or `gone`")
    detail: str | None = Field(None, description="Why it is not applied")
    in_force: dict[str, Any] = Field({}, description="What holds in this process now")


class SteeringResult(BaseModel):
    """What became of an action in all processes that have the consumer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "consumer": "billing",
                    "done": False,
                    "processes": [
                        {
                            "instance_id": "worker-1:7",
                            "host": "worker-1",
                            "pid": 7,
                            "outcome": "applied",
                            "detail": None,
                            "in_force": {"concurrency": 4},
                        },
                        {
                            "instance_id": "worker-2:7",
                            "host": "worker-2",
                            "pid": 7,
                            "outcome": "no_answer",
                            "detail": "it did not answer within 10 s",
                            "in_force": {},
                        },
                    ],
                    "note": "a process that starts later takes it over",
                }
            ]
        }
    )

    consumer: str = Field(description="The handler id")
    done: bool = Field(description="All processes that are known to have the consumer, at least one, have done it")
    processes: list[ProcessResult] = Field(description="Each of them")
    note: str | None = Field(None, description="What to know besides")

    @property
    def in_force(self) -> dict[str, Any]:
        """What holds now in the first process that has done it; empty if none has."""
        return next((each.in_force for each in self.processes if each.outcome is Outcome.APPLIED), {})

    def named(self) -> dict[str, list[str]]:
        """The names of the processes, by what became of it there; for events and logs."""
        found: dict[str, list[str]] = {}
        for each in self.processes:
            found.setdefault(each.outcome.value, []).append(each.instance_id)
        return found


def result_of(consumer: str, processes: Sequence[ProcessResult], note: str | None = None) -> SteeringResult:
    """The result, summed up. Who has ended meanwhile does not count."""
    counted = [each.outcome is Outcome.APPLIED for each in processes if each.outcome is not Outcome.GONE]
    return SteeringResult(consumer=consumer, done=bool(counted) and all(counted), processes=list(processes), note=note)
