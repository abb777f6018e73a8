#!/usr/bin/env bash
# openlineage-python turns OPENLINEAGE_URL and OPENLINEAGE_API_KEY into further variables when a client is made, and leaves
# them in os.environ: child processes inherit the key under a second name, also after both were taken away. Who asks the
# environment whether lineage is wanted (any name that begins with OPENLINEAGE_) is told so for the rest of the process.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openlineage-python==1.54.0
cat >"$folder/client.py" <<'PY'
import os
import subprocess
import sys
from importlib.metadata import version

from openlineage.client import OpenLineageClient

os.environ |= {"OPENLINEAGE_URL": "http://127.0.0.1:1", "OPENLINEAGE_API_KEY": "planted"}
before = set(os.environ)
OpenLineageClient()
added = sorted(set(os.environ) - before)
print("openlineage-python", version("openlineage-python"))
print("added by the client:", *added)

del os.environ["OPENLINEAGE_URL"], os.environ["OPENLINEAGE_API_KEY"]
look = "import os; print([name for name, value in os.environ.items() if 'planted' in value])"
child = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip()
print("the key in a child, after both were taken away:", child)
assert len(added) == 3 and all(name.startswith("OPENLINEAGE__TRANSPORT__TRANSPORTS__") for name in added), added
assert child == str([name for name in added if name.endswith("__AUTH")]), child
PY
"$folder/venv/bin/python" "$folder/client.py"
