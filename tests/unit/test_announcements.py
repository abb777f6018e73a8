"""Lines that are to be seen in an app that configures no logging."""

from __future__ import annotations

import logging

import pytest

from fastapi_athomic.announcements import announce
from fastapi_athomic.exceptions import PayloadUnavailableError
from fastapi_athomic.handling.patience import Patience
from tests.support.loggers import configured
from tests.support.payloads import message

OURS = logging.getLogger("fastapi_athomic.somewhere")


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn.error", "hypercorn.error", "_granian"])
def test_where_only_the_server_logs_they_are_beside_its_own(server: str) -> None:
    with configured(server) as (kept,):
        announce("new", OURS)
    assert kept.said == [f"{'uvicorn.error' if server == 'uvicorn' else server}: fastapi_athomic: new"]


@pytest.mark.parametrize("ours", ["", "fastapi_athomic"])
def test_an_app_that_configures_logging_gets_them_under_our_name(ours: str) -> None:
    with configured(ours, "uvicorn") as (own, server):
        announce("new", OURS)
    assert own.said == ["fastapi_athomic.somewhere: fastapi_athomic: new"]
    assert server.said == []


def test_who_sees_that_messages_wait_sees_that_they_do_no_more() -> None:
    patience, waiting = Patience("h"), message(b"")
    with configured("uvicorn") as (server,):
        patience.note(waiting, PayloadUnavailableError("the registry is away"))
        patience.arrived(waiting)
    assert server.said == ["uvicorn.error: fastapi_athomic: h: what messages waited for is there again"]
