"""The load generator, where the shop is not as it should be."""

from __future__ import annotations

import asyncio
import random

import pytest

from example_app.load import Load, run

ANSWERS = {"/totals": b'{"billed": 0, "shipped": 0, "mailed": 0}', "/consumers": b"[]"}


async def test_a_shop_that_goes_away_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        body = ANSWERS.get(path, b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        if path not in ANSWERS:
            server.close()  # after the first order

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    load = Load(orders=1, rate=1000, seconds=5, broke=0, unlucky=0, chance=random.Random(1))
    assert await run(url, load) == 1
    told = capsys.readouterr().err
    assert f"load: 1 placed, 0 failed; the shop at {url} answers no longer (ConnectError)" in told


async def test_a_shop_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    load = Load(orders=1, rate=1000, seconds=5, broke=0, unlucky=0, chance=random.Random(1))
    assert await run("http://127.0.0.1:9", load) == 1
    assert "load: no shop answers at http://127.0.0.1:9" in capsys.readouterr().err
