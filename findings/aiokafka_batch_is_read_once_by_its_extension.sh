#!/usr/bin/env bash
# aiokafka 0.14: a record batch can be iterated once by its compiled reader, which every wheel has. Going on with what is
# left, as `islice` in a loop does, raises an AssertionError without a text; iterating a batch that was read to its end
# says that the data is corrupt. The reader in Python, which stands in where the extension is missing
# (AIOKAFKA_NO_EXTENSIONS), goes on in the first case and finds nothing more in the second.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PY'
from itertools import islice

import aiokafka
from aiokafka.record import default_records

builder = default_records.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 100_000)
for number in range(4):
    builder.append(number, 1_700_000_000_000, None, b"value %d" % number, [])
data = bytes(builder.build())


def offsets(batch, most=None):
    try:
        return [record.offset for record in islice(batch, most)]
    except Exception as error:
        return type(error).__name__


def in_pairs(reader):
    batch = reader(data)
    return offsets(batch, 2), offsets(batch, 2)


def twice(reader):
    batch = reader(data)
    return offsets(batch), offsets(batch)


compiled, plain = default_records.DefaultRecordBatch, default_records._DefaultRecordBatchPy
assert compiled is not plain, "this wheel has no extension"
print("aiokafka", aiokafka.__version__)
for name, reader in (("compiled", compiled), ("in Python", plain)):
    print(name, "two at a time:", *in_pairs(reader), " twice:", *twice(reader))
whole = [0, 1, 2, 3]
assert (in_pairs(compiled), twice(compiled)) == (
    ([0, 1], "AssertionError"),
    (whole, "CorruptRecordException"),
), "the compiled reader behaves otherwise now"
assert (in_pairs(plain), twice(plain)) == (([0, 1], [2, 3]), (whole, [])), "the one in Python behaves otherwise now"
PY
