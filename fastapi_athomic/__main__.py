"""`python -m fastapi_athomic`, the same as `fastapi-athomic`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
