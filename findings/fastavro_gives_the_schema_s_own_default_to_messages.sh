#!/usr/bin/env bash
# A field that a writer's schema lacks gets the default of the reader's schema in fastavro: as it stands in the JSON, and the very
# object that stands there. Bytes come as str, a date as a number, a record's own defaults are left out; and a list that a consumer
# appends to is the default of the schema from then on: the next message has what was appended.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fastavro==1.13.1
cat >"$folder/defaults.py" <<'PY'
from importlib.metadata import version
from io import BytesIO

from fastavro import parse_schema, schemaless_reader, schemaless_writer

NUMBER = {"name": "number", "type": "int"}
WRITER = parse_schema({"type": "record", "name": "Order", "fields": [NUMBER]})
PART = {"type": "record", "name": "Part", "fields": [{"name": "size", "type": "int", "default": 5}]}
ADDED = [
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "raw", "type": "bytes", "default": "\u00ff"},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}, "default": 3},
    {"name": "part", "type": PART, "default": {}},
]
READER = parse_schema({"type": "record", "name": "Order", "fields": [NUMBER, *ADDED]})


def read(number):
    stream = BytesIO()
    schemaless_writer(stream, WRITER, {"number": number})
    return schemaless_reader(BytesIO(stream.getvalue()), WRITER, READER)


print("fastavro", version("fastavro"))
first = read(1)
print("the first message:", first)
first["tags"].append("of the first message")
second = read(2)
print("the second message:", second)
assert (first["raw"], first["day"], first["part"]) == ("\u00ff", 3, {}), first
assert second["tags"] == ["of the first message"], second
PY
"$folder/venv/bin/python" "$folder/defaults.py"
