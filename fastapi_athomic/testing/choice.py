"""Which broker and store a kit uses that is given none."""

from __future__ import annotations

import sys

PLUGIN = "pytest_fastapi_athomic"
"""The pytest plugin, which knows its options. It is there only if pytest has loaded it."""
MEMORY = "memory://"


def chosen_broker() -> str:
    """The URL that `pytest --athomic-broker` names, else that of a broker in memory."""
    return getattr(sys.modules.get(PLUGIN), "broker", None) or MEMORY


def chosen_store() -> str:
    """The URL that `pytest --athomic-store` names, else that of a store in memory."""
    return getattr(sys.modules.get(PLUGIN), "store", None) or MEMORY
