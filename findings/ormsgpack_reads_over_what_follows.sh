#!/usr/bin/env bash
# ormsgpack 1.13: `unpackb` returns the first value of the bytes and says nothing of what follows, as if it were not
# there: two messages in one payload, or a length that lost a bit, are read as a shorter message. `msgpack` and the
# `loads` of JSON libraries, ormsgpack's model orjson among them, refuse that.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ormsgpack==1.13.1 msgpack==1.2.4 orjson
"$folder/venv/bin/python" - <<'PY'
import msgpack
import orjson
import ormsgpack

orders = [{"id": 1}, {"id": 2}]
two = b"".join(map(ormsgpack.packb, orders))
shorter = bytearray(ormsgpack.packb([1, 2, 3]))
shorter[0] ^= 2  # an array of three becomes one of one


def said(read, data):
    try:
        return read(data)
    except ValueError as error:
        return type(error).__name__


ours = [said(ormsgpack.unpackb, two), said(ormsgpack.unpackb, bytes(shorter))]
theirs = [said(msgpack.unpackb, two), said(msgpack.unpackb, bytes(shorter))]
json = [said(orjson.loads, b'{"id": 1}{"id": 2}')]
print("two messages in one payload, and a flipped bit: ormsgpack", ours, "msgpack", theirs, "orjson", json)
assert ours == [{"id": 1}, [1]] and theirs == ["ExtraData"] * 2 and json == ["JSONDecodeError"], "it behaves otherwise now"
PY
# two messages in one payload, and a flipped bit: ormsgpack [{'id': 1}, [1]] msgpack ['ExtraData', 'ExtraData'] orjson ['JSONDecodeError']
