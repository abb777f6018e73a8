"""`fastapi-athomic run`, up to the point where it would consume. tests/integration/test_run.py goes on."""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Iterator

import pytest

from fastapi_athomic.cli import run as module
from fastapi_athomic.cli.worker import load
from fastapi_athomic.exceptions import AthomicError
from fastapi_athomic.operation_settings import WorkerSettings
from fastapi_athomic.workers.channel import Hello
from tests.unit.cli.conftest import Command, Write

APP = """
from fastapi import FastAPI
from fastapi_athomic import AthomicSettings, include_athomic, subscribe_to

app = FastAPI()
athomic = include_athomic(app, AthomicSettings(broker_url="kafka://127.0.0.1:1"))

@subscribe_to("orders", group_id="billing", handler_id="billing")
async def bill(order: str) -> None: ...

@subscribe_to("orders", group_id="shipping", handler_id="shipping")
async def ship(order: str) -> None: ...
"""
IN_MEMORY = APP.replace('AthomicSettings(broker_url="kafka://127.0.0.1:1")', "AthomicSettings()")
SECOND = """
other = include_athomic(app, AthomicSettings(broker_url="kafka://127.0.0.1:1"), name="other", prefix="/other")
"""


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    names = ("uvicorn", "uvicorn.error", "uvicorn.access")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def options(app: str, **more: object) -> argparse.Namespace:
    given = {"factory": False, "app_dir": "", "name": None, "traceback": False, "only": [], "processes": None}
    return argparse.Namespace(**{**given, "app": app, "place": 2, **more})


def test_an_unknown_handler_is_refused_and_the_known_ones_are_named(write: Write, command: Command) -> None:
    write(run1=APP)
    answer = command("run", "run1:app", "--only", "biling", "--only", "shipping", "--port", "0")
    assert answer.status == 1
    assert "unknown handlers were asked for: biling" in answer.err
    assert "the handlers are: billing, shipping" in answer.err


def test_an_app_that_cannot_be_imported_is_told_as_by_the_other_commands(write: Write, command: Command) -> None:
    answer = command("run", "run2:app")
    assert answer.status == 1
    assert answer.err.startswith("error: there is no module run2 in the current directory")


def test_a_process_that_dies_while_it_loads_the_app_is_no_reason_to_go_on(write: Write, command: Command) -> None:
    write(run3="import os\nos._exit(7)\n")
    answer = command("run", "run3:app")
    assert (answer.status, answer.err) == (
        1,
        "error: run3:app cannot be loaded: it ended with exit status 7 before it had loaded the app\n",
    )


def test_a_port_that_is_taken_is_told(write: Write, command: Command) -> None:
    write(run4=APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command("run", "run4:app", "--port", str(port))
    assert (answer.status, answer.err) == (
        1,
        f"error: nothing can be served at 127.0.0.1:{port}: Address already in use\n",
    )


def test_on_windows_it_says_what_to_do_instead(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM", "nt")
    answer = command("run", "run5:app")
    assert answer.status == 1
    assert "set ATHOMIC_ROLE=worker and start the app with its server" in answer.err


@pytest.mark.parametrize("wrong", [("--processes", "0"), ("--port", "65536"), ("--port", "x")])
def test_numbers_are_checked(command: Command, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]) -> None:
    with pytest.raises(SystemExit):
        command("run", "run6:app", *wrong)
    assert "must be a whole number from" in capsys.readouterr().err


def test_a_broker_in_memory_is_refused(write: Write) -> None:
    write(run7=IN_MEMORY)
    with pytest.raises(AthomicError, match="the broker is memory://"):
        load(options("run7:app"))


def test_the_role_is_worker_and_ids_of_several_processes_differ(write: Write) -> None:
    changed = 'broker_url="kafka://127.0.0.1:1", role="web", instance_id="shop", kafka={"group_instance_id": "shop"}'
    write(run8=APP.replace('broker_url="kafka://127.0.0.1:1"', changed))
    _, (athomic,) = load(options("run8:app", processes=3))
    assert athomic.settings.role == "worker"
    assert athomic.settings.instance_id == "shop:2"
    assert athomic.settings.kafka.group_instance_id == "shop-2"
    _, (athomic,) = load(options("run8:app", processes=1))
    assert athomic.settings.kafka.group_instance_id == "shop-2", "what was set stays set"


def test_several_processes_that_remember_each_for_itself_are_warned_of_once(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write(run10=APP.replace('"kafka://127.0.0.1:1"', '"kafka://127.0.0.1:1", state_store_url="memory://"'))
    load(options("run10:app", processes=3, place=2))
    load(options("run10:app", processes=1, place=1))
    assert caplog.text == ""
    load(options("run10:app", processes=3, place=1))
    assert "the state store is memory:// and the server runs 3 workers" in caplog.text


class Told:
    def __init__(self) -> None:
        self.events: list[str] = []

    def stop(self) -> None:
        self.events.append("stop")

    def stop_at_once(self) -> None:
        self.events.append("at once")

    def replace_all(self) -> None:
        self.events.append("replace")


def test_what_signals_do(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = True
    monkeypatch.setattr(module, "has_terminal", lambda: terminal)
    stop, told = module.Stop(), Told()
    stop.supervisor = told  # type: ignore[assignment]
    stop.hang_up()
    stop.terminate()
    assert (told.events, stop.status(True), stop.status(False)) == (["replace", "stop"], 0, 1)
    stop.interrupt()
    stop.interrupt()
    assert (told.events[2:], stop.status(False)) == (["stop", "at once"], 130)
    terminal = False
    stop.hang_up()
    assert told.events[4:] == ["stop"], "the window of the terminal was closed"


def test_with_several_athomics_the_others_only_publish(write: Write) -> None:
    write(run9=APP + SECOND)
    with pytest.raises(AthomicError, match="--only needs --name, as the app has several Athomics: athomic, other"):
        load(options("run9:app", only=["billing"]))
    app, (chosen,) = load(options("run9:app", name="other"))
    assert chosen.name == "other"
    assert app.state.athomic.settings.role == "web"  # type: ignore[attr-defined]


def test_options_win_against_settings() -> None:
    given = argparse.Namespace(processes=4, host=None, port=0)
    settings = module._settings(given, WorkerSettings(processes=2, host="0.0.0.0", port=9000))
    assert (settings.processes, settings.host, settings.port) == (4, "0.0.0.0", 0)
    hello = Hello(handlers=["a"], prefix="/c", guarded=False, shutdown_timeout=1, worker=settings)
    assert "runs a in 4 processes, health at no port" in module._start_line(hello, settings)
