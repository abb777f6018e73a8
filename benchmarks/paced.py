"""A foreign producer at a steady pace, in a process of its own, so that it takes no time from the one that consumes.

`python -m benchmarks.paced BOOTSTRAP RATE KEYS PARTITIONS TOPIC...` writes until its input ends, to the topics in turn,
with so many keys in each. Then it prints the number of messages that the broker has acknowledged.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.builds import HERE, ROOT
from benchmarks.report import NoFigureError
from benchmarks.workload import Source

FLUSH_SECONDS = 130.0


def write(source: Source, rate: float, keys: int, topics: Sequence[str], ending: threading.Event) -> int:
    """Messages are due on a schedule; what was late is made up for."""
    source.look_up(*topics)
    began, count = time.monotonic(), 0
    while not ending.wait(max(0.0, began + count / rate - time.monotonic())):
        source.write(topics[count % len(topics)], count // len(topics) % keys)
        source.poll()
        count += 1
    source.flush()
    return count


class Pace:
    """How much was written; known when it has ended."""

    written = 0


@contextmanager
def paced(bootstrap: str, rate: float, keys: int, partitions: int, topics: Sequence[str]) -> Iterator[Pace]:
    """Within the block, messages are written. Raises `NoFigureError` if the broker did not take all of them."""
    command = [sys.executable, "-m", "benchmarks.paced", bootstrap, str(rate), str(keys), str(partitions), *topics]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=HERE.environment(), stdin=pipe, stdout=pipe, text=True) as producer:
        pace = Pace()
        try:
            yield pace
        finally:
            try:
                printed, _ = producer.communicate(timeout=FLUSH_SECONDS)
            except subprocess.TimeoutExpired:
                producer.kill()
                raise NoFigureError("the broker does not take what is written") from None
        if producer.returncode:
            raise NoFigureError("the producer has failed")
        pace.written = int(printed)


def main(bootstrap: str, rate: str, keys: str, partitions: str, *topics: str) -> None:
    ending = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=listen, daemon=True).start()
    source = Source(bootstrap, partitions=int(partitions), linger_ms=0)
    print(write(source, float(rate), int(keys), topics, ending))


if __name__ == "__main__":
    main(*sys.argv[1:])
