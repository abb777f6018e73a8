#!/usr/bin/env bash
# pydantic cannot make the JSON schema of a model with a default value that has a key `$ref` (a DBRef, a part of a JSON
# schema): it takes the value for a reference of its own, and raises a KeyError that names neither field nor model. With
# such a model, FastAPI's whole /openapi.json answers 500.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
import pydantic


class Link(pydantic.BaseModel):
    target: dict[str, str] = {"$ref": "users"}


assert Link().model_dump() == {"target": {"$ref": "users"}}
try:
    Link.model_json_schema()
except KeyError as error:
    print("pydantic", pydantic.VERSION, "raises", repr(error), "for a default value with a key $ref")
    assert error.args == ("users",), "it behaves otherwise now"
else:
    raise SystemExit("it behaves otherwise now")
PY
