"""What an app says of itself when it starts and when it has stopped, and what is doubtful about where it runs."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from .. import announcements
from ..addresses import shown_store_url
from ..settings import AthomicSettings
from ..subscriptions import Subscription

logger = logging.getLogger(__name__)

WORKER_VARIABLES = {"gunicorn": ("WEB_CONCURRENCY",), "granian": ("GRANIAN_WORKERS",)}
"""The servers that fork their workers, and the variables in which they look for a number of them."""
DISABLED = (
    "its loggers are disabled, so nobody is told of messages that fail: logging was configured after fastapi_athomic "
    "was imported, and dictConfig and fileConfig disable loggers that exist unless disable_existing_loggers is False"
)
SHOWN = 5
"""So many handlers are named; the others are counted."""
SHOWN_TOPICS = 3


def announce(line: str) -> None:
    """Logs the line as INFO, where it is seen.

    Where our loggers are disabled, the root logger, which cannot be, says so instead.
    """
    if logger.disabled:
        logging.getLogger().warning("fastapi_athomic: %s", DISABLED)
    else:
        announcements.announce(line, logger)


def start_line(settings: AthomicSettings, subscriptions: Sequence[Subscription]) -> str:
    """One line: where messages and state are, and what is consumed. It has no credentials."""
    shown = [f"{each.handler_id} ({_topics(each)})" for each in subscriptions[:SHOWN]]
    if len(subscriptions) > SHOWN:
        shown.append(f"and {len(subscriptions) - SHOWN} more")
    where = "in a thread of their own" if settings.isolation == "thread" else "in the event loop of the routes"
    if settings.role == "web":
        where = "left to processes with the role worker"
    return (
        f"process {os.getpid()} starts with broker {_broker(settings)}, state store {_store(settings)}, "
        f"{len(subscriptions)} consumer{'' if len(subscriptions) == 1 else 's'} {where}"
        + (f": {', '.join(shown)}" if shown else "")
    )


def stop_line(seconds: float) -> str:
    """The counterpart of `start_line`, when everything was stopped in so many seconds."""
    return f"process {os.getpid()} has stopped its consumers, in {seconds:.1f} s"


def _broker(settings: AthomicSettings) -> str:
    if settings.scheme == "kafka":
        return f"kafka://{settings.broker_address} ({settings.kafka.security_protocol})"
    return f"memory://{settings.broker_address} (in this process only, it forgets at the end)"


def _store(settings: AthomicSettings) -> str:
    if settings.state_store_url is not None:
        return shown_store_url(settings.state_store_url.get_secret_value())
    return "memory://" if settings.scheme == "memory" else "none"


def _topics(subscription: Subscription) -> str:
    if subscription.pattern is not None:
        return f"pattern {subscription.pattern.pattern}"
    names = ", ".join(subscription.topics[:SHOWN_TOPICS])
    more = len(subscription.topics) - SHOWN_TOPICS
    return f"{names} and {more} more" if more > 0 else names


def doubts(settings: AthomicSettings, workers: int) -> Iterator[str]:
    """What is allowed, and is probably not meant: `memory://` where others would have to see it."""
    if settings.scheme != "memory":
        if (settings.payload.registry.url or "").startswith("memory:"):
            yield (
                "the schema registry is memory://, which others cannot ask what the messages of this process mean, nor "
                "this process itself after a restart; set ATHOMIC_PAYLOAD__REGISTRY__URL to https://host:port"
            )
        if workers > 1 and settings.state_store_url is not None and _store(settings).startswith("memory:"):
            yield (
                f"the state store is memory:// and the server runs {workers} workers: each remembers for itself what "
                "its ordered consumers have handled; set ATHOMIC_STATE_STORE_URL to redis://host:6379/0"
            )
        return
    if settings.role == "web":
        yield "the role is web and the broker is memory://: nobody handles what is published; set ATHOMIC_ROLE=all"
    advice = "set ATHOMIC_BROKER_URL to kafka://host:port; ATHOMIC_REQUIRE_BROKER=1 refuses memory://"
    if workers > 1:
        yield (
            f"the broker is memory:// and the server runs {workers} workers: each has a broker of its own, and its "
            f"handlers do not see what others publish; {advice}"
        )
    store = _store(settings)
    if not store.startswith("memory:"):
        yield (
            f"the broker is memory:// beside the state store {store}: messages are forgotten at the end of this "
            f"process, but not which numbers were handled; {advice}"
        )


def server_workers(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """How many worker processes the server was told to run; 1 if that cannot be known.

    uvicorn and hypercorn hand their configuration to the processes that they start. gunicorn and granian do not: there
    the command line (`argv`, None: this process's own) and the environment are looked at.
    """
    from multiprocessing import current_process  # imported here: it takes a while, and tools never need it

    config = getattr(current_process(), "_kwargs", {}).get("config")
    if config is not None:
        workers = getattr(config, "workers", 1)
        return workers if isinstance(workers, int) and not getattr(config, "should_reload", False) else 1
    command, *words = (sys.argv if argv is None else argv) or [""]
    server = Path(command).parent.name if Path(command).stem == "__main__" else Path(command).stem
    if server not in WORKER_VARIABLES:
        return 1
    if server == "gunicorn":
        words = [*shlex.split(environment.get("GUNICORN_CMD_ARGS", "")), *words]  # the command line wins
    asked = [*(environment.get(name, "") for name in WORKER_VARIABLES[server]), *_options(words)]
    return int(next((number for number in reversed(asked) if number.isdigit()), 1))


def _options(words: Iterable[str]) -> Iterator[str]:
    """The values of all `--workers N`, `--workers=N`, `-w N` and `-wN`."""
    for word, following in pairwise([*words, ""]):
        if word in ("--workers", "-w"):
            yield following
        elif word.startswith("--workers="):
            yield word.partition("=")[2]
        elif word.startswith("-w") and not word.startswith("--"):
            yield word[2:]
