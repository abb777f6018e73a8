"""What a test does to the broker."""

from __future__ import annotations

from .bench import Bench
from .portal import Call


class AsyncBrokerFaults:
    """The broker of an `AsyncTestKit`."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench


class BrokerFaults:
    """The broker of a `TestKit`."""

    def __init__(self, faults: AsyncBrokerFaults, call: Call) -> None:
        self._faults, self._call = faults, call
