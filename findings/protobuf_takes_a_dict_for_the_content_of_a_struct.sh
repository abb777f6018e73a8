#!/usr/bin/env bash
# A constructor of protobuf takes a dict for a field that holds a message, as the fields of that message. Not for a Struct: there the
# dict is what the Struct should hold, so the same dict that makes a Timestamp or a Line makes a Struct with a key `fields`. What
# `Struct(fields=...)` takes by name, `Value(struct_value={"fields": ...})` nests one level deeper, without an error.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check protobuf==7.36.2
"$folder/venv/bin/python" - <<'PY'
import google.protobuf
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value

parts = {"fields": {"a": {"number_value": 1}}}
by_name, in_a_field = MessageToDict(Struct(**parts)), MessageToDict(Value(struct_value=parts))
print("protobuf", google.protobuf.__version__, f"Struct(**parts): {by_name}; Value(struct_value=parts): {in_a_field}")
assert (by_name, in_a_field) == ({"a": 1.0}, {"fields": {"a": {"number_value": 1.0}}}), "it behaves otherwise now"
PY
