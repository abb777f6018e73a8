"""Processes that configure some loggers only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def configured(*names: str) -> Iterator[list[Kept]]:
    """A process in which only these loggers were configured: pytest's own handlers are not there."""
    loggers, root = [logging.getLogger(name) for name in names], logging.getLogger()
    before, levels = root.handlers, [logger.level for logger in loggers]
    root.handlers = []
    kept = []
    for logger in loggers:
        logger.addHandler(handler := Kept())
        logger.setLevel("INFO")
        kept.append(handler)
    try:
        yield kept
    finally:
        for logger, handler, level in zip(loggers, kept, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        root.handlers = before
