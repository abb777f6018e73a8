"""`python -m fastapi_athomic.cli`, the same as `fastapi-athomic`."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
