"""An app with control over HTTP, for tests: a handler that fails, users with tokens and a session cookie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from fastapi_athomic import Athomic, AthomicSettings, ControlEvent, RetryPolicy, include_athomic, set_context
from fastapi_athomic.operation_settings import ControlSettings, DashboardSettings

ID = "shop.bill:v1"
"""With dots and a colon, as ids may have them."""
AT = f"/consumers/{ID}"
OPERATOR, AUDITOR = {"authorization": "Bearer operator"}, {"authorization": "Bearer auditor"}
REASON = "it hangs"


async def operator(
    authorization: Annotated[str, Header()] = "", session: Annotated[str | None, Cookie()] = None
) -> None:
    """Lets in who has a token or a session."""
    if authorization.removeprefix("Bearer ") in ("operator", "auditor"):
        set_context(user_id=authorization.removeprefix("Bearer "))
    elif session == "ann":
        set_context(user_id="ann")
    else:
        raise HTTPException(401, "who are you?", {"www-authenticate": "Bearer"})


async def auditor(authorization: Annotated[str, Header()] = "") -> None:
    """Lets in who may see payloads."""
    if authorization != "Bearer auditor":
        raise HTTPException(403, "operators see no payloads")


GUARDED: dict[str, Any] = {
    "control_dependencies": [Depends(operator)],
    "payload_dependencies": [Depends(auditor)],
}


def settings(**control: Any) -> AthomicSettings:
    short = DashboardSettings(interval=0.1, stream_seconds=0.1)  # some tests ask each route, and read to the end
    return AthomicSettings(control=ControlSettings(enabled=True, **control), dashboard=short)


@dataclass
class Shop:
    """A running app: the client of its routes, its `Athomic`, and the events that it has told."""

    athomic: Athomic
    client: TestClient
    events: list[ControlEvent] = field(default_factory=list)

    def fail(self, *values: Any, key: str | None = "ann") -> None:
        """Publishes what the handler cannot handle; returns when it is a dead letter."""
        portal = self.client.portal
        assert portal is not None
        for value in values:
            portal.call(partial(self.athomic.publish, "orders", value, key=key, partition=0))
        portal.call(self.athomic.drain)

    def post(self, path: str, body: object, **headers: str) -> Any:
        sent = {"content-type": "application/json"} | OPERATOR | headers
        return self.client.post(AT + path, content=json.dumps(body), headers=sent)

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(AT + path, params=query, headers=OPERATOR)


@contextmanager
def open_shop(app: FastAPI | None = None, *, root_path: str = "", **options: Any) -> Iterator[Shop]:
    """Runs the app. `options` are those of `include_athomic`."""
    app = app if app is not None else FastAPI()
    athomic = include_athomic(app, options.pop("settings", None) or settings(), **{**GUARDED, **options})

    @athomic.subscribe_to("orders", group_id="g", handler_id=ID, retry=RetryPolicy(max_attempts=1))
    async def bill(order: dict[str, Any]) -> None:
        raise KeyError("no such card") if order.get("card") else ValueError("no money")

    with TestClient(app, root_path=root_path) as client:
        shop = Shop(athomic, client)
        athomic.on_control(shop.events.append)
        assert client.portal is not None
        client.portal.call(athomic.wait_until_ready)
        yield shop
