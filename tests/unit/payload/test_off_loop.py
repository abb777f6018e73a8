"""Threads for large payloads: a few, shared, and gone when the last app is."""

from __future__ import annotations

import asyncio
import threading
from multiprocessing import get_context

from fastapi_athomic.payload.off_loop import Threads


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("athomic-payload")}


async def test_the_threads_are_few_and_end_with_the_last_user() -> None:
    threads, before = Threads(2), names()
    threads.open()
    threads.open()
    barrier = threading.Barrier(2)
    await asyncio.gather(*(threads.later(barrier.wait) for _ in range(6)))
    assert len(names() - before) <= 2
    threads.close()
    assert await threads.later(lambda: 1) == 1
    running = [thread for thread in threading.enumerate() if thread.name in names() - before]
    threads.close()
    for thread in running:
        await asyncio.to_thread(thread.join)
    assert await threads.later(lambda: 2) == 2, "who goes on gets new ones"
    threads.close()


async def test_what_was_begun_is_finished() -> None:
    threads, go = Threads(1), threading.Event()
    threads.open()
    waits, follows = asyncio.ensure_future(_of(threads, go.wait)), asyncio.ensure_future(_of(threads, lambda: True))
    await asyncio.sleep(0)
    threads.close()
    go.set()
    assert await waits
    assert await follows


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Also if a thread of its parent held the lock in that moment."""
    threads, forking = Threads(1), get_context("fork")
    assert threads.submit(lambda: 1).result() == 1
    answers = forking.SimpleQueue()
    child = forking.Process(target=lambda: answers.put(threads.submit(lambda: 2).result(10)))
    with threads._lock:
        child.start()
    child.join(30)
    assert child.exitcode == 0
    assert answers.get() == 2
    threads.close()


async def _of(threads: Threads, work: object) -> object:
    assert callable(work)
    return await threads.later(work)
