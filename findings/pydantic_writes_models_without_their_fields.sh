#!/usr/bin/env bash
# `warnings="error"` makes pydantic's serializer refuse a value of another type than declared, but not a required field that is
# missing (`model_construct`, `del`), nor keys that a TypedDict does not declare: the first is written as `{}`, which the same class
# does not read, and the others are dropped.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
import pydantic
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict


class Order(BaseModel):
    number: int


class Typed(TypedDict):
    number: int


def written(write, value):
    try:
        return write(value, warnings="error").decode()
    except PydanticSerializationError:
        return "refused"


to_json = TypeAdapter(Order).dump_json
wrong, missing = written(to_json, Order.model_construct(number="x")), written(to_json, Order.model_construct())
more = written(TypeAdapter(Typed).dump_json, {"number": 1, "note": "kept?"})
try:
    read = Order.model_validate_json(missing)
except ValidationError as error:
    read = error.errors()[0]["type"]
print("pydantic", pydantic.VERSION, f"wrong type: {wrong}; missing field: {missing}, read back: {read}; undeclared key: {more}")
assert (wrong, missing, read, more) == ("refused", "{}", "missing", '{"number":1}'), "it behaves otherwise now"
PY
