#!/usr/bin/env bash
# fastavro checks a decimal's digits before it fills them up to the schema's scale, and rounds what it reads to the schema's
# precision: Decimal("12E3") with precision 4 and scale 2 is written as 1200000, seven digits, without a complaint; 12345.67,
# which Java writes (or wrote, when the schema had more digits), is read as 12350. Nothing tells of either.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fastavro==1.13.1
cat >"$folder/decimals.py" <<'PY'
from decimal import Decimal
from importlib.metadata import version
from io import BytesIO

from fastavro import parse_schema, schemaless_reader, schemaless_writer


def schema(precision):
    return parse_schema({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 2})


def written(value, precision):
    stream = BytesIO()
    schemaless_writer(stream, schema(precision), value)
    return stream.getvalue()


def read(data, precision):
    return schemaless_reader(BytesIO(data), schema(precision))


print("fastavro", version("fastavro"))
data = written(Decimal("12E3"), 4)
unscaled = int.from_bytes(data[1:], "big", signed=True)
print(f"12E3 with 4 digits, 2 behind the point: written as {unscaled}, {len(str(unscaled))} digits")
wide = written(Decimal("12345.67"), 9)
print(f"12345.67 read with 9 digits: {read(wide, 9)}; with 4 digits: {read(wide, 4)}")
assert len(str(unscaled)) == 7
assert read(wide, 9) == Decimal("12345.67")
assert read(wide, 4) == Decimal("12350"), read(wide, 4)
PY
"$folder/venv/bin/python" "$folder/decimals.py"
