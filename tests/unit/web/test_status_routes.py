"""GET /consumers and /consumers/{id}: over all processes, or of the one that answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from fastapi_athomic.observation.sharing import NO_STORE
from fastapi_athomic.operation_settings import SharingSettings
from tests.support.apps import SECONDS, running


def member(broker: str, name: str, *ids: str, **options: Any) -> Athomic:
    settings = AthomicSettings(
        broker_url=f"memory://{broker}", instance_id=name, sharing=SharingSettings(interval=0.02), **options
    )
    athomic = include_athomic(FastAPI(), settings)
    for handler_id in ids:

        @athomic.subscribe_to("t", group_id=f"group-{handler_id}", handler_id=handler_id)
        async def handle(number: int) -> None: ...

    return athomic


async def get(athomic: Athomic, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(athomic.app), base_url="http://test") as client:
        return await client.get(path)


def names(status: Any) -> set[str]:
    return {each["instance_id"] for each in status["members"]}


async def test_an_answer_is_over_all_unless_one_process_is_asked_for() -> None:
    broker = uuid4().hex
    async with running(member(broker, "ann", "h", "i")) as ann, running(member(broker, "bob", "h")):
        async with asyncio.timeout(SECONDS):
            while names((await get(ann, "/consumers/h")).json()) != {"ann", "bob"}:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        listed = (await get(ann, "/consumers")).json()
        assert [(status["id"], status["scope"], names(status)) for status in listed] == [
            ("h", "group", {"ann", "bob"}),
            ("i", "group", {"ann"}),
        ]
        assert (await get(ann, "/consumers?scope=group")).json()[0]["scope"] == "group"
        for status in (
            (await get(ann, "/consumers?scope=process")).json()[0],
            (await get(ann, "/consumers/h?scope=process")).json(),
        ):
            assert (status["scope"], status["scope_note"], names(status)) == ("process", None, {"ann"})


async def test_the_dashboard_is_fed_with_the_same_answer() -> None:
    broker, dashboard = uuid4().hex, {"interval": 0.02, "stream_seconds": 0.1}
    async with running(member(broker, "ann", "h", dashboard=dashboard)) as ann, running(member(broker, "bob", "h")):
        async with asyncio.timeout(SECONDS):
            while names((await get(ann, "/consumers/h")).json()) != {"ann", "bob"}:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        events = (await get(ann, "/consumers/events")).text
    snapshot = json.loads(events.partition("data: ")[2].partition("\n")[0])
    assert snapshot["process"]["instance_id"] == "ann"
    assert [(status["scope"], names(status)) for status in snapshot["consumers"]] == [("group", {"ann", "bob"})]


@pytest.mark.parametrize("path", ["/consumers?scope=everybody", "/consumers/h?scope="])
async def test_another_scope_is_refused(path: str) -> None:
    async with running(member("", "ann", "h")) as athomic:
        assert (await get(athomic, path)).status_code == 422


@pytest.mark.parametrize("scope", ["group", "process"])
async def test_an_unknown_consumer_is_not_found_in_any_scope(scope: str) -> None:
    async with running(member("", "ann", "orders")) as athomic:
        answer = await get(athomic, f"/consumers/order?scope={scope}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no consumer has the id 'order'; did you mean orders?"
    assert answer.headers["x-athomic-instance"] == "ann"


async def test_without_a_store_an_answer_says_that_it_is_of_one_process() -> None:
    athomic = member("", "ann", "h")
    async with running(athomic):
        run: Any = athomic._run
        run._sharing._alone = NO_STORE  # as on Kafka
        for path in ("/consumers/h", "/consumers/h?scope=group"):
            status = (await get(athomic, path)).json()
            assert (status["scope"], status["scope_note"]) == ("process", NO_STORE)
        assert (await get(athomic, "/consumers/h?scope=process")).json()["scope_note"] is None


async def test_no_secret_is_in_an_answer() -> None:
    secret = uuid4().hex
    store = f"memory://{secret}"
    athomic = member("", "ann", "h", state_store_url=store, kafka={"ssl_password": secret, "security_protocol": "SSL"})
    async with running(athomic):
        answer = await get(athomic, "/consumers")
    assert answer.json()[0]["settings"]["isolation"] == "loop"
    assert secret not in answer.text
