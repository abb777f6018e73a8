"""What OpenAPI says of our routes is true, whatever is sent to them: schemathesis finds no answer that is not in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
LEAST = 500
"""Requests of each run, at least: fewer, and it has not looked."""


@pytest.mark.timeout(600)
def test_p15_no_request_finds_an_answer_that_openapi_does_not_have() -> None:
    environment = {**os.environ, "PORT": str(free_port()), "PYTHON": sys.executable}
    done = subprocess.run(
        [ROOT / "scripts" / "openapi"], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)
    assert len(asked) == 2, "with credentials, and without"
    assert all(generated == passed and int(passed) >= LEAST for generated, passed in asked)
    log = (ROOT / ".venv-openapi" / "app.log").read_text()
    assert "Exception in ASGI application" not in log
