"""One process of `fastapi-athomic run`, which starts it: `python -m fastapi_athomic.cli.worker OPTIONS FD FD`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from starlette.types import ASGIApp

from ..athomic import Athomic
from ..exceptions import AthomicError
from ..observation.startup import doubts
from ..workers.child import serve
from .app import athomics_of, find_app, refuse_memory

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """`arguments`: the options as JSON, the file descriptors of channel and lifeline. Returns the exit status."""
    options = argparse.Namespace(**json.loads(arguments[0]))
    return serve(lambda: load(options), int(arguments[1]), int(arguments[2]))


def load(options: argparse.Namespace) -> tuple[ASGIApp, list[Athomic]]:
    """The app, and those of its `Athomic`s that consume here. Others publish only.

    Raises:
        AthomicError: there is no such app, or its broker is in memory.
    """
    app, athomics = find_app(options)
    if options.only and len(athomics) > 1:
        names = ", ".join(athomic.name for athomic in athomics)
        raise AthomicError(f"--only needs --name, as the app has several Athomics: {names}")
    for other in athomics_of(app):
        if other not in athomics:
            other.take_role("web")
    for athomic in athomics:
        refuse_memory(athomic)
        processes = options.processes or athomic.settings.worker.processes
        athomic.take_role("worker", options.only, options.place if processes > 1 else None)
        if options.place == 1:
            _warn(athomic, processes)
    return app, athomics


def _warn(athomic: Athomic, processes: int) -> None:
    """What is doubtful only because there are several processes. The rest is told when the app starts."""
    told = {*doubts(athomic.settings, workers=1)}
    for doubt in doubts(athomic.settings, workers=processes):
        if doubt not in told:
            logger.warning("%s", doubt)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
