"""Where supervisor and processes log, unless the app configures logging: as under uvicorn."""

from __future__ import annotations

import logging
import logging.config


def log_as_a_server_does() -> None:
    """Call it before the app is imported, which may change it all, as it may under uvicorn."""
    try:
        from uvicorn.config import LOGGING_CONFIG
    except ImportError:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    else:
        logging.config.dictConfig(LOGGING_CONFIG)
