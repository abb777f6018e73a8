#!/usr/bin/env bash
# pydantic writes offsets from UTC in minutes, and cuts what is left: a datetime with a ZoneInfo before that zone's first
# standard time (Berlin before April 1893: +00:53:28) comes back up to 59 seconds off, without a warning. Python's own
# isoformat keeps the seconds.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.4 tzdata==2025.2
"$folder/venv/bin/python" - <<'PY'
from datetime import datetime
from zoneinfo import ZoneInfo

import pydantic

born = datetime(1893, 3, 31, 12, tzinfo=ZoneInfo("Europe/Berlin"))
adapter = pydantic.TypeAdapter(datetime)
written = adapter.dump_json(born)
read = adapter.validate_json(written)
off = (read - born).total_seconds()
print("pydantic", pydantic.VERSION, "writes", born.isoformat(), "as", written.decode(), "and reads it", off, "s later")
assert datetime.fromisoformat(born.isoformat()) == born
assert off == 28, "it behaves otherwise now"
PY
