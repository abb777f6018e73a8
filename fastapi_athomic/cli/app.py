"""Finds the app that a command is about: `MODULE:ATTRIBUTE`, as for uvicorn."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..athomic import Athomic
from ..exceptions import AthomicError


def find_athomic(path: str) -> Athomic:
    """The `Athomic` of the app at this path.

    Raises:
        AthomicError: the module cannot be imported, or its app has no `Athomic`.
    """
    module_name, _, attribute = path.partition(":")
    sys.path.insert(0, "")  # as uvicorn does
    try:
        app: Any = importlib.import_module(module_name)
        for name in (attribute or "app").split("."):
            app = getattr(app, name)
    except Exception as error:
        raise AthomicError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    athomic = getattr(getattr(app, "state", None), "athomic", None)
    if not isinstance(athomic, Athomic):
        raise AthomicError(f"{path} has no athomic: call include_athomic(app) in that module")
    return athomic
