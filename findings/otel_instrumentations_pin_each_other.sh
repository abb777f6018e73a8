#!/usr/bin/env bash
# Packages of opentelemetry-python-contrib pin each other exactly and are not all released each time: the newest
# instrumentations of FastAPI (0.66b2) and of aiokafka (0.66b1) cannot be installed together, and one installed after the
# other exits 0 and leaves an environment in which the first one's requirements are broken.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" --disable-pip-version-check)
fastapi="opentelemetry-instrumentation-fastapi==0.66b2" aiokafka="opentelemetry-instrumentation-aiokafka==0.66b1"

if "${pip[@]}" install --quiet "$fastapi" "$aiokafka" 2>"$folder/together"; then
    echo "they can be installed together now"
    exit 1
fi
echo "together: $(grep -m1 -o 'ResolutionImpossible' "$folder/together")"
"${pip[@]}" install --quiet "$fastapi"
"${pip[@]}" install --quiet "$aiokafka" 2>/dev/null && echo "one after the other: exit status 0"
if "${pip[@]}" check >"$folder/check"; then
    echo "the environment is whole now"
    exit 1
fi
echo "pip check afterwards:"
grep "^opentelemetry-instrumentation-fastapi 0.66b2 has requirement opentelemetry-instrumentation==0.66b2" "$folder/check"
