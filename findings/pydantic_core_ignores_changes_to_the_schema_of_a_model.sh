#!/usr/bin/env bash
# pydantic 2.14: `SchemaValidator` of a core schema that was changed somewhere inside a model does not do what the
# schema says: it takes the validator that the class has already, and the schema is not read at all. The same change in a
# TypedDict is done. `_use_prebuilt=False`, which no documentation names, makes it read the schema.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
from pydantic import BaseModel, TypeAdapter, VERSION
from pydantic_core import SchemaValidator
from typing_extensions import TypedDict


class Order(BaseModel):
    number: int


class Typed(TypedDict):
    number: int


def changed(schema, replaced):
    """The schema, in which each int must be less than ten."""
    if isinstance(schema, dict):
        if schema.get("type") == "int":
            replaced.append(schema)
            return {"type": "int", "lt": 10}
        return {key: part if key in ("metadata", "config") else changed(part, replaced) for key, part in schema.items()}
    return schema


def refused(kind, **options):
    replaced = []
    validator = SchemaValidator(changed(TypeAdapter(kind).core_schema, replaced), **options)
    assert replaced
    try:
        validator.validate_json('{"number": 11}')
    except ValueError:
        return True
    return False


seen = [refused(Order), refused(Typed), refused(Order, _use_prebuilt=False)]
print("pydantic", VERSION, "11 is refused by `lt: 10`: in a model", seen[0], "in a TypedDict", seen[1], "without ready-made validators", seen[2])
assert seen == [False, True, True], "it behaves otherwise now"
PY
# pydantic 2.14.4 11 is refused by `lt: 10`: in a model False in a TypedDict True without ready-made validators True
