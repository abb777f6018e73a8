"""Decorated functions that no app takes in are named, each with the reason and what to do."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest
from fastapi import FastAPI

from fastapi_athomic import (
    AthomicSettings,
    ConfigurationError,
    DiscoveryError,
    discovery,
    include_athomic,
    sightings,
    subscribe_to,
)
from fastapi_athomic.discovery import Search
from fastapi_athomic.settings import HandlerTuning
from fastapi_athomic.unclaimed import Policy, tell_unclaimed
from tests.support.apps import new_app, running
from tests.support.modules import Write

IMPORTS = "from fastapi_athomic import subscribe_to\n"
WITHOUT_WRAPS = """
def logged(function):
    async def inner(message: str) -> None: ...
    return inner
"""
WITH_WRAPS = """
import functools
def logged(function):
    @functools.wraps(function)
    async def inner(message: str) -> None: ...
    return inner
"""
HANDLER = """
@subscribe_to("orders", group_id="g")
async def bill(message: str) -> None: ...
"""


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Other tests' handlers and apps are out of sight."""
    monkeypatch.setattr(sightings, "_seen", {})
    monkeypatch.setattr(discovery, "_searches", WeakSet())
    caplog.set_level(logging.WARNING, "fastapi_athomic")


@pytest.fixture
def named(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Starts an app, as far as needed here, and gives what was said about handlers of no app."""

    def start(calling_module: str = "nowhere", *, policy: Policy = "warn", **options: Any) -> list[str]:
        caplog.clear()
        search = Search(app=FastAPI(), calling_module=calling_module, **options)
        search.find()
        tell_unclaimed(search, policy)
        assert all(record.name == "fastapi_athomic.unclaimed" for record in caplog.records)
        return [record.getMessage() for record in caplog.records]

    return start


Named = Callable[..., list[str]]


def load(write: Write, name: str, source: str) -> None:
    write(**{name: IMPORTS + source})
    importlib.import_module(name)


def test_what_is_found_is_not_named(write: Write, named: Named) -> None:
    load(write, "shop20", HANDLER)
    assert named("shop20") == []


def test_a_module_that_is_imported_but_not_searched(write: Write, named: Named) -> None:
    load(write, "shop21", HANDLER)
    (line,) = named()
    assert line.startswith("handler bill (shop21, line 3) belongs to no app, so it gets no messages: ")
    assert 'imported but not searched; add packages=["shop21"]' in line


def test_a_cell_of_a_notebook_that_was_executed_anew_is_not_named(
    monkeypatch: pytest.MonkeyPatch, named: Named
) -> None:
    notebook = ModuleType("notebook20")
    monkeypatch.setitem(sys.modules, "notebook20", notebook)
    for cell in (IMPORTS, HANDLER, "\n" + HANDLER):
        exec(compile(cell, "<cell>", "exec"), vars(notebook))
    assert named("notebook20") == []


def test_what_a_doctest_has_forgotten_is_not_named(write: Write, named: Named) -> None:
    load(write, "shop29d", "")
    variables = dict(vars(sys.modules["shop29d"]))
    exec(HANDLER, variables)
    variables.clear()
    assert named("shop29d") == []


def test_each_is_named_once_in_a_process(write: Write, named: Named) -> None:
    load(write, "shop22", HANDLER)
    assert len(named()) == 1
    assert named() == []


@pytest.mark.parametrize(
    "above",
    [
        "@subscribe_to('orders', group_id='g')\n@app.post('/x')\n",
        "@app.post('/x')\n@subscribe_to('orders', group_id='g')\n",
    ],
)
def test_routes_that_are_handlers_are_found_in_both_orders(write: Write, named: Named, above: str) -> None:
    load(
        write,
        "shop23",
        f"from fastapi import FastAPI\napp = FastAPI()\n{above}async def bill(message: str) -> None: ...\n",
    )
    assert named("shop23") == []
    assert len(sightings._seen) == 1


def test_a_decorator_that_hides_the_subscription(write: Write, named: Named) -> None:
    load(write, "shop24", WITHOUT_WRAPS + "@logged" + HANDLER)
    (line,) = named("shop24")
    assert "handler bill (shop24, line 6) " in line
    assert "a decorator above it made logged.<locals>.inner (shop24, line 4) of it" in line
    assert "use functools.wraps in that decorator" in line


@pytest.mark.parametrize(
    "source", [WITH_WRAPS + "@logged" + HANDLER, WITHOUT_WRAPS + HANDLER.replace("async", "@logged\nasync")]
)
def test_decorators_that_do_not_hide_it(write: Write, named: Named, source: str) -> None:
    load(write, "shop25", source)
    assert named("shop25") == []


def test_a_decorator_that_makes_an_object_of_it(write: Write, named: Named) -> None:
    load(write, "shop26", "def task(function):\n    return object()\n@task" + HANDLER)
    (line,) = named("shop26")
    assert "a decorator above it made something of type object of it" in line


def test_a_second_function_of_one_name(write: Write, named: Named) -> None:
    load(write, "shop27", HANDLER + HANDLER)
    (line,) = named("shop27")
    assert "handler bill (shop27, line 3) " in line
    assert "bill (shop27, line 6) was defined later by the same name; give one of them another name" in line


def test_what_no_name_holds(write: Write, named: Named) -> None:
    load(
        write, "shop28", "kept = [subscribe_to('orders', group_id='g')(lambda message: None)]\n" + HANDLER + "del bill"
    )
    anonymous, deleted = named("shop28")
    assert "handler <lambda> (shop28, line 2)" in anonymous
    for line in (anonymous, deleted):
        assert "no name in shop28 holds it" in line
        assert "handlers=[...]" in line


METHODS = """
class Billing:
    @subscribe_to("a", group_id="g")
    async def plain(self, message: str) -> None: ...

    @staticmethod
    @subscribe_to("b", group_id="g")
    async def static(message: str) -> None: ...

    @subscribe_to("c", group_id="g")
    @staticmethod
    async def outside(message: str) -> None: ...

    @classmethod
    @subscribe_to("d", group_id="g")
    async def of_class(cls, message: str) -> None: ...
"""


def test_methods(write: Write, named: Named) -> None:
    load(write, "shop29", METHODS)
    plain, static, outside, of_class = named("shop29")
    assert "it is a method, and classes are not searched" in plain
    assert "handlers=[Billing(...).plain]" in plain
    assert "it is a static method, and classes are not searched; give it by handlers=[Billing.static]" in static
    assert "handlers=[Billing.outside]" in outside
    assert "it is a class method, and classes are not searched; give it by handlers=[Billing.of_class]" in of_class


def test_methods_that_are_given(write: Write, named: Named) -> None:
    load(write, "shop30", METHODS)
    billing = importlib.import_module("shop30").Billing
    given = [billing().plain, billing.static, billing.outside, billing.of_class]
    assert named("shop30", handlers=given) == []


FACTORY = """
def create():
    @subscribe_to("orders", group_id="g")
    async def bill(message: str) -> None: ...
"""


def test_a_factory_that_forgets_its_handler_is_named_once(write: Write, named: Named) -> None:
    load(write, "shop31", FACTORY)
    for _ in range(100):
        importlib.import_module("shop31").create()
    (line,) = named("shop31")
    assert "handler create.<locals>.bill (shop31, line 4) " in line
    assert "it is made inside create(), where no search can look" in line
    assert "athomic.subscribe_to" in line
    assert len(sightings._seen) == 1


def test_a_factory_in_another_module_of_the_app(write: Write, named: Named) -> None:
    write(**{"shop32/__init__": "", "shop32/main": "", "shop32/orders": IMPORTS + FACTORY})
    importlib.import_module("shop32.orders").create()
    importlib.import_module("shop32.main")
    assert len(named("shop32.main")) == 1


def test_a_factory_in_a_searched_module_of_another_package(write: Write, named: Named) -> None:
    load(write, "library40", FACTORY)
    importlib.import_module("library40").create()
    assert len(named("shop40.main", packages=["library40"])) == 1


def test_what_a_factory_made_for_an_app_speaks_for_what_it_makes_later(write: Write, named: Named) -> None:
    load(write, "shop41", FACTORY + "    return bill")
    create = importlib.import_module("shop41").create
    assert named("shop41", handlers=[create()]) == []
    gc.collect()
    later = create()
    assert named("shop41") == []
    assert later is not None


def test_a_decorator_of_another_module_hides_not_whose_handler_it_is(write: Write, named: Named) -> None:
    write(decorators42=WITHOUT_WRAPS)
    load(write, "shop42", "from decorators42 import logged" + HANDLER.replace("async", "@logged\nasync"))
    (line,) = named("decorators42")
    assert "handler logged.<locals>.inner (shop42, line " in line
    assert 'packages=["shop42"]' in line


def test_closures_of_finished_tests_are_not_named(named: Named) -> None:
    @subscribe_to("orders", group_id="g")
    async def handle(message: str) -> None: ...

    del handle
    gc.collect()
    assert len(sightings.unclaimed()) == 1
    assert named() == []


def test_closures_that_still_exist_are_named_wherever_they_are_from(named: Named) -> None:
    @subscribe_to("orders", group_id="g")
    async def handle(message: str) -> None: ...

    assert len(named()) == 1
    assert handle is not None


def test_handlers_of_another_app_are_not_named_whether_it_has_started_or_not(write: Write, named: Named) -> None:
    write(**{"shop33/__init__": "", "shop33/a": IMPORTS + HANDLER, "shop33/b": IMPORTS + HANDLER})
    importlib.import_module("shop33.a")
    importlib.import_module("shop33.b")

    async def handle(message: str) -> None: ...

    given = subscribe_to("orders", group_id="g")(handle)
    other = Search(app=FastAPI(), calling_module="nowhere", packages=["shop33.b"], handlers=[given])
    assert named("shop33.a") == []
    del other


def test_an_app_that_is_gone_has_claimed_its_handlers(write: Write, named: Named) -> None:
    load(write, "shop34", HANDLER)
    assert named("shop34") == []
    gc.collect()
    assert named() == []


def test_the_module_that_was_started_and_is_imported_once_more_is_one_place(named: Named) -> None:
    for name in ("__main__", "shop35"):
        variables = {"__name__": name, "__file__": "shop35.py"}
        exec(compile(IMPORTS + HANDLER, "shop35.py", "exec"), variables)
    assert [str(site) for site in sightings._seen] == ["bill (shop35, line 3)"]


def test_a_module_that_was_reloaded_or_taken_away_is_forgotten(write: Write, named: Named) -> None:
    load(write, "shop36", HANDLER)
    write(shop36=IMPORTS + "# another line\n" * 9)
    importlib.reload(importlib.import_module("shop36"))
    assert named() == []


def test_refusing_names_all_and_says_how_to_start_all_the_same(write: Write, named: Named) -> None:
    load(write, "shop37", HANDLER + FACTORY)
    importlib.import_module("shop37").create()
    with pytest.raises(DiscoveryError) as caught:
        named(policy="refuse", packages=[])
    first, *last = str(caught.value).splitlines()
    assert "handler bill (shop37, line 3)" in first
    assert last == ['set unclaimed_handlers="warn" to start all the same']
    with pytest.raises(DiscoveryError, match="imported but not searched"):
        named(policy="refuse")


def test_ignoring_says_nothing(write: Write, named: Named) -> None:
    load(write, "shop38", HANDLER)
    assert named(policy="ignore") == []


def test_what_the_decorator_refuses_is_not_named(named: Named) -> None:
    with pytest.raises(ConfigurationError, match="takes no attributes"):
        subscribe_to("orders", group_id="g")(print)
    assert named() == []


async def test_an_app_that_starts_names_them_and_one_that_refuses_does_not_start(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    load(write, "shop39", HANDLER)
    async with running(new_app(AthomicSettings())):
        pass
    assert "handler bill (shop39, line 3) belongs to no app" in caplog.text
    refusing = new_app(AthomicSettings(unclaimed_handlers="refuse"))
    with pytest.raises(DiscoveryError, match=r"handler bill \(shop39, line 3\)"):
        async with running(refusing):
            pass


async def test_a_handler_that_is_switched_off_and_one_bound_to_the_app_are_claimed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @subscribe_to("orders", group_id="g", handler_id="off")
    async def off(message: str) -> None: ...

    settings = AthomicSettings(handler_tuning={"off": HandlerTuning(enabled=False)}, unclaimed_handlers="refuse")
    athomic = include_athomic(FastAPI(), settings, handlers=[off])

    @athomic.subscribe_to("orders", group_id="g")
    async def bound(message: str) -> None: ...

    async with running(athomic):
        assert [consumer.topics for consumer in athomic.consumers()] == [["orders"]]


async def test_a_start_with_nothing_to_tell_searches_no_other_app(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Search] = []
    monkeypatch.setattr(Search, "claim_all", asked.append)
    others = [include_athomic(FastAPI(), AthomicSettings()) for _ in range(3)]
    async with running(new_app(AthomicSettings())):
        assert not asked, "test suites make hundreds of apps: each start would take longer than the one before"
    assert len(others) == 3
