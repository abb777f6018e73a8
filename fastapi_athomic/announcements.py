"""Where a line of level INFO is seen: the start, the end, what is in order again."""

from __future__ import annotations

import logging

SERVER_LOGGERS = ("uvicorn.error", "gunicorn.error", "hypercorn.error", "_granian")
"""Where servers tell of their own start. They configure these loggers only, unless they are told otherwise."""


def announce(line: str, own: logging.Logger) -> None:
    """Logs the line as INFO: with `own`, our logger.

    An app that configures no logging would see nothing below a warning. There the line goes beside the server's own.
    """
    chosen = own
    if not own.hasHandlers():
        servers = (logging.getLogger(name) for name in SERVER_LOGGERS)
        chosen = next((server for server in servers if server.hasHandlers()), own)
    chosen.info("fastapi_athomic: %s", line)
