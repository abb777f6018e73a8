"""Routes, dashboard, stream and `fastapi-athomic --url` below the prefix of a proxy or a mount; and by TLS."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, include_athomic
from fastapi_athomic.cli import main
from fastapi_athomic.cli.service import URL
from fastapi_athomic.operation_settings import ControlSettings, DashboardSettings
from tests.support.certificates import Authority
from tests.support.processes import free_port

WHY = {"reason": "to see it"}


class Place(NamedTuple):
    """What is served, and below which path somebody asks."""

    app: Any
    asked_at: str
    options: dict[str, Any]  # of uvicorn


def shop(root_path: str = "") -> FastAPI:
    """An app with one handler, of which everybody may do everything."""
    app = FastAPI()
    app.root_path = root_path  # as by the argument, which FastAPI has deprecated
    control = ControlSettings(enabled=True, allow_anonymous=True)
    settings = AthomicSettings(control=control, dashboard=DashboardSettings(interval=0.1, stream_seconds=0.2))
    athomic = include_athomic(app, settings)

    @athomic.subscribe_to("orders", group_id="billing", handler_id="billing")
    async def bill(order: int) -> None: ...

    return app


def mounted() -> FastAPI:
    """In an app whose lifespan runs that of the inner one: Starlette does not."""
    return around(shop(), "/shop")


def around(inner: FastAPI, path: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount(path, inner)
    return outer


def mounted_twice() -> FastAPI:
    return around(mounted(), "/all")


PLACES: dict[str, Callable[[], Place]] = {
    "uvicorn --root-path, and a proxy that takes the prefix away": lambda: Place(shop(), "", {"root_path": "/shop"}),
    "FastAPI(root_path), and a proxy that takes the prefix away": lambda: Place(shop(root_path="/shop"), "", {}),
    "FastAPI(root_path), and a proxy that leaves the prefix": lambda: Place(shop(root_path="/shop"), "/shop", {}),
    "mounted": lambda: Place(mounted(), "/shop", {}),
    "mounted twice": lambda: Place(mounted_twice(), "/all/shop", {}),
    "mounted below uvicorn --root-path": lambda: Place(mounted(), "/shop", {"root_path": "/outside"}),
}


@asynccontextmanager
async def serving(place: Place, **tls: Any) -> AsyncIterator[str]:
    """Serves it, and yields where its routes are."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(place.app, port=port, log_level="warning", **place.options, **tls))
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}{place.asked_at}/consumers"
    finally:
        server.should_exit = True
        await task


Ask = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs a command: its status, and what it prints."""
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.setenv("no_proxy", "*")

    async def ask(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, list(arguments))
        return (status, *capsys.readouterr())

    return ask


@pytest.mark.parametrize("name", PLACES)
async def test_all_of_it_works_below_a_prefix(name: str, ask: Ask) -> None:
    async with serving(PLACES[name]()) as url, httpx.AsyncClient(timeout=30, trust_env=False) as client:
        for _ in range(2):  # a path that was found once is found again
            answer = await client.post(f"{url}/billing/pause", json=WHY)
            assert (answer.status_code, len(answer.json()["pauses"])) == (200, 1)
        actions: dict[str, dict[str, Any]] = {
            "resume": {},
            "concurrency": {"value": 2},
            "rate": {"messages_per_second": 5},
            "breaker": {"state": "auto"},
            "restart": {},
            "seek": {"topic": "orders", "to": "end", "dry_run": True},
            "dlq/discard": {"limit": 1, "dry_run": True},
        }
        for action, body in actions.items():
            answer = await client.post(f"{url}/billing/{action}", json=WHY | body)
            assert answer.status_code == 200, f"{action}: {answer.text}"
        assert (await client.get(f"{url}/billing/dlq")).json()["letters"] == []
        assert (await client.get(f"{url}/health/live")).json() == {"ok": True}
        page = await client.get(f"{url}/dashboard")
        for address in re.findall(r'(?:src|href)="(dashboard/[^"]*)"', page.text):
            assert (await client.get(str(page.url.join(address)))).status_code == 200
        assert "rate" in (await client.get(f"{url}/dashboard/config")).json()["actions"]
        slash = await client.get(f"{url}/dashboard/", follow_redirects=False)
        assert (await client.get(str(slash.url.join(slash.headers["location"])))).text == page.text
        async with client.stream("GET", f"{url}/events") as stream:
            told = [line async for line in stream.aiter_lines() if line.startswith("data: ")]
        assert [each["id"] for each in json.loads(told[0][6:])["consumers"]] == ["billing"]
        status, out, _ = await ask("--url", url, "rate", "billing", "default", "--reason", "x")
        assert (status, out) == (0, "billing begins what code and settings allow\n")
        assert (await ask("--url", url, "status"))[1].splitlines()[1].split()[0] == "billing"
        missing = await client.post(f"{url}/nobody/pause", json=WHY)
        assert (missing.status_code, missing.json()["type"]) == (404, "/problems/consumer-not-found")


async def test_root_path_of_uvicorn_is_not_for_a_proxy_that_leaves_the_prefix(ask: Ask) -> None:
    """uvicorn puts the prefix before each path: with it there already no route of the app is found, ours as little."""
    async with serving(Place(shop(), "/shop", {"root_path": "/shop"})) as url:
        status, _, said = await ask("--url", url, "pause", "billing", "--reason", "x")
        assert (status, "has no such route (404): is that where the routes of fastapi_athomic are" in said) == (1, True)


async def test_a_service_with_a_certificate_of_its_own_authority_is_asked_by_tls(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    authority = Authority()
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "certificate.pem", "key.pem"))
    authority.write(ca)
    authority.issue("shop", certificate, key)
    Authority("another").write(other := tmp_path / "other.pem")
    async with serving(PLACES["mounted"](), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as url:
        pause = ("--url", url, "pause", "billing", "--reason", "x")
        for refused in ((), ("--cafile", str(other))):
            status, _, said = await ask(*pause, *refused)
            assert (status, "certificate verify failed" in said) == (1, True)
            assert "--cafile" in said, "what to do"
        status, out, _ = await ask(*pause, "--cafile", str(ca))
        assert (status, "is paused since" in out) == (0, True)
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        assert (await ask("--url", url, "resume", "billing"))[1] == "billing is not paused\n"
        status, _, said = await ask("--url", url.replace("https", "http"), "status")
        assert (status, "cannot be reached" in said or "answers" in said) == (1, True)
