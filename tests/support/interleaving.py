"""An event loop that runs ready callbacks in random order, on a clock of its own.

All randomness comes from one seed. A failing test shows its seed; run it again with `ATHOMIC_TEST_SEED` set to it, and
with the same `PYTHONHASHSEED` if the order of a set matters. `ATHOMIC_TEST_SEEDS` sets how many seeds are tried.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import selectors
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from random import Random, SystemRandom
from typing import Any, TypeVar

import pytest

from .clock import import_room

SEED_VARIABLE = "ATHOMIC_TEST_SEED"
COUNT_VARIABLE = "ATHOMIC_TEST_SEEDS"
STEPS = (1e-6, 2e-5, 5e-4)
"""The most seconds that may pass between two looks at the clock; each run chooses one of these."""

T = TypeVar("T")


def with_seeds(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test with so many new random seeds, or with the one seed that the environment sets."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def with_each(*args: Any, **kwargs: Any) -> None:
            given, wanted = os.environ.get(SEED_VARIABLE), int(os.environ.get(COUNT_VARIABLE, count))
            for seed in [int(given)] if given else SystemRandom().sample(range(2**32), wanted):
                try:
                    test(*args, **kwargs, random=Random(seed))
                except BaseException as error:
                    error.add_note(f"to see it again: {SEED_VARIABLE}={seed}")
                    raise

        # pytest takes parameters for fixtures, so hide this one from it
        signature = inspect.signature(test)
        with_each.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[parameter for name, parameter in signature.parameters.items() if name != "random"]
        )
        return with_each

    return decorate


class _AnyOrder(deque[Any]):
    """The queue of ready callbacks, from which any may be taken next."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def popleft(self) -> Any:
        place = self._random.randrange(len(self))
        self.rotate(-place)
        taken = super().popleft()
        self.rotate(place)
        return taken


class _Selector(selectors.DefaultSelector):
    """Never waits: moves the clock forward instead."""

    def __init__(self, put_forward: Callable[[float], None]) -> None:
        super().__init__()
        self._put_forward = put_forward

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits for something that will never come")
        if timeout > 0:
            self._put_forward(timeout)
        return super().select(0)


class ShuffledLoop(asyncio.SelectorEventLoop):
    """For work that stays in the process and its thread, such as `memory://`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._step = random.choice(STEPS)
        self.now = 1_000.0  # on the loop's clock, in seconds
        super().__init__(_Selector(self._put_forward))
        self._ready = _AnyOrder(random)

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Replaces `time.monotonic` in the code under test. Each call is a moment later."""
        self.now += self._random.random() * self._step
        return self.now

    def _put_forward(self, seconds: float) -> None:
        self.now += seconds


def run_shuffled(work: Coroutine[Any, Any, T], random: Random) -> T:
    """`asyncio.run` on a `ShuffledLoop`, with its clock in all modules of the package."""
    with asyncio.Runner(loop_factory=lambda: ShuffledLoop(random)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, ShuffledLoop)
        with _clock_of(loop):
            return runner.run(work)


@contextmanager
def _clock_of(loop: ShuffledLoop) -> Iterator[None]:
    for room in ("sequencing", "stores", "transports.memory"):
        import_room(room)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("fastapi_athomic.") and hasattr(module, "monotonic"):
                patch.setattr(module, "monotonic", loop.monotonic)
        yield
