"""Python source as syntax trees, for tests that read the package's own code."""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """As `ast.parse`, without a collection of garbage in the midst of it.

    What is collected may log a traceback (a task whose error nobody asked for), and for that Python 3.11 parses, too:
    one within the other ends in "SystemError: AST constructor recursion depth mismatch".
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if enabled:
            gc.enable()
