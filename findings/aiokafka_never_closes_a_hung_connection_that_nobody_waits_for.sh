#!/usr/bin/env bash
# aiokafka 0.14: `request_timeout_ms` is watched by whoever awaits the answer. A caller that gives up sooner (with a
# timeout of its own, which a service has) takes that watch with it: the connection on which nothing comes any more is
# never closed, and each later request over it waits in vain, too. Below, a broker falls silent after its first answer.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio
from struct import pack, unpack

import aiokafka
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataRequest

TIMEOUT = 1.0
VERSIONS = ApiVersionResponse_v0(0, [(3, 0, 5), (18, 0, 0)]).encode()


async def broker(reader, writer):
    (size,) = unpack(">i", await reader.readexactly(4))
    _, _, number = unpack(">hhi", (await reader.readexactly(size))[:8])
    writer.write(pack(">ii", 4 + len(VERSIONS), number) + VERSIONS)
    while await reader.read(1000):  # and never answers again
        pass
    writer.close()


async def open_after(patience):
    """Whether a connection is open when three requests have waited so long, and its timeout is over twice."""
    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    connection = await create_conn(*server.sockets[0].getsockname(), request_timeout_ms=round(TIMEOUT * 1000))
    errors = []
    for _ in range(3):
        try:
            async with asyncio.timeout(patience):
                await connection.send(MetadataRequest([]))
        except Exception as error:
            errors.append(type(error).__name__)
    await asyncio.sleep(2 * TIMEOUT)
    found = connection.connected(), len(connection._requests), errors
    connection.close()
    server.close()
    return found


opened, waiting, errors = asyncio.run(open_after(TIMEOUT / 2))
print("aiokafka", aiokafka.__version__, f"request_timeout_ms={TIMEOUT * 1000:.0f}, callers give up after half of it")
print(f"after twice the timeout: connected={opened}, requests that still wait={waiting}, callers got {errors}")
assert (opened, waiting, errors) == (True, 3, ["TimeoutError"] * 3), "it behaves otherwise now"
PY
