from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from fastapi_athomic import ConfigurationError, DiscoveryError, DuplicateHandlerError, subscribe_to
from fastapi_athomic.discovery import Discovered, Search
from fastapi_athomic.sightings import importable_name
from tests.support.modules import Write

HANDLER = """
from fastapi_athomic import subscribe_to

@subscribe_to("t", group_id="g")
async def {name}(message: str) -> None: ...
"""


def ids(found: list[Discovered]) -> list[str]:
    return [discovered.subscription.handler_id for discovered in found]


def search(app: FastAPI | None = None, **options: object) -> list[str]:
    return ids(Search(app=app or FastAPI(), calling_module="nowhere", **options).find())  # type: ignore[arg-type]


def test_a_package_is_searched_with_all_below_it(write: Write) -> None:
    write(
        **{
            "shop1/__init__": "",
            "shop1/billing": HANDLER.format(name="bill"),
            "shop1/deep/__init__": HANDLER.format(name="top"),
            "shop1/deep/stock": HANDLER.format(name="reserve"),
            "shop1/__main__": "raise SystemExit('never run')",
        }
    )
    assert sorted(search(packages=["shop1"])) == ["shop1.billing.bill", "shop1.deep.stock.reserve", "shop1.deep.top"]


def test_a_module_may_be_given_as_an_object(write: Write) -> None:
    write(shop2=HANDLER.format(name="bill"))
    module = importlib.import_module("shop2")
    assert search(packages=[module]) == ["shop2.bill"]


def test_the_calling_module_and_those_of_routes_are_searched(write: Write) -> None:
    route = "\nfrom fastapi import APIRouter\nrouter = APIRouter()\n@router.get('/x')\ndef x() -> None: ...\n"
    write(caller3=HANDLER.format(name="one"), routes3=HANDLER.format(name="two") + route)
    importlib.import_module("caller3")
    app, outer = FastAPI(), APIRouter()
    outer.include_router(importlib.import_module("routes3").router)
    app.include_router(outer)
    assert ids(Search(app=app, calling_module="caller3").find()) == ["caller3.one", "routes3.two"]


def test_one_function_seen_through_two_imports_is_one_handler(write: Write) -> None:
    write(
        **{
            "shop4/__init__": "",
            "shop4/billing": HANDLER.format(name="bill"),
            "shop4/again": "from .billing import bill",
        }
    )
    assert search(packages=["shop4", "shop4.billing"]) == ["shop4.billing.bill"]


def test_a_module_loaded_under_two_names_has_one_handler(write: Write, tmp_path: Path) -> None:
    write(shop5=HANDLER.format(name="bill").replace('group_id="g"', 'group_id="g", handler_id="b"'))
    importlib.import_module("shop5")
    spec = importlib.util.spec_from_file_location("shop5", tmp_path / "shop5.py")
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert search(packages=["shop5", copy]) == ["b"]


def test_two_subscriptions_with_one_id_name_both_functions(write: Write) -> None:
    same = HANDLER.replace('group_id="g"', 'group_id="g", handler_id="same"')
    write(shop6=same.format(name="one") + same.format(name="two"))
    with pytest.raises(DuplicateHandlerError, match=r"same is used twice: by one \(shop6, line \d+\) and by two"):
        search(packages=["shop6"])


@pytest.mark.parametrize("source", ["import nothing_of_that_name", "1 / 0", "def broken(:"])
def test_a_module_that_fails_to_import_is_named(write: Write, source: str) -> None:
    write(**{f"shop7_{len(source)}/__init__": "", f"shop7_{len(source)}/inner": source})
    with pytest.raises(DiscoveryError, match=rf"module shop7_{len(source)}.inner cannot be searched"):
        search(packages=[f"shop7_{len(source)}"])


def test_a_package_that_does_not_exist_is_named() -> None:
    with pytest.raises(DiscoveryError, match="no_such_package_at_all"):
        search(packages=["no_such_package_at_all"])


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    same = HANDLER.replace('group_id="g"', 'group_id="g", handler_id="same"')
    write(**{"shop8/__init__": "", "shop8/a/__init__": "1 / 0", "shop8/b": "import nothing_of_that_name"})
    write(**{"shop8/c": same.format(name="one") + same.format(name="two")})
    with pytest.raises(ConfigurationError) as caught:
        search(packages=["no_such_package_at_all", "shop8"], handlers=[print])
    assert [type(problem).__name__ for problem in caught.value.problems] == [
        *("DiscoveryError", "DiscoveryError", "DiscoveryError"),
        *("ConfigurationError", "DuplicateHandlerError"),
    ]
    for words in ("no_such_package_at_all", "module shop8.a ", "module shop8.b ", "print", "same is used twice"):
        assert str(caught.value).count(words) >= 1, words


def test_handlers_given_by_hand_need_a_subscription() -> None:
    async def handle(message: str) -> None: ...

    with pytest.raises(ConfigurationError, match="has no subscription"):
        search(handlers=[handle])
    assert search(handlers=[subscribe_to("t", group_id="g", handler_id="h")(handle)]) == ["h"]


def test_a_function_with_two_subscriptions_is_two_handlers() -> None:
    async def handle(message: str) -> None: ...

    for number in (1, 2):
        subscribe_to("t", group_id=f"g{number}", handler_id=f"h{number}")(handle)
    assert search(handlers=[handle]) == ["h1", "h2"]


def test_a_method_of_an_object_can_be_given() -> None:
    class Billing:
        @subscribe_to("t", group_id="g", handler_id="method")
        async def handle(self, message: str) -> None: ...

    assert search(handlers=[Billing().handle]) == ["method"]


def test_modules_are_not_imported_to_find_routes() -> None:
    app = FastAPI()

    def endpoint() -> None: ...

    endpoint.__module__ = "never.imported"
    app.add_api_route("/x", endpoint)
    assert search(app) == []
    assert "never.imported" not in sys.modules
    assert not isinstance(sys.modules.get("never"), ModuleType)


def test_modules_of_routes_of_mounted_apps_are_searched(write: Write) -> None:
    source = (
        HANDLER.format(name="bill") + "\nfrom fastapi import FastAPI\nsub = FastAPI()\n@sub.get('/x')\ndef x(): ...\n"
    )
    write(mounted8=source, mounted9=source)
    app = FastAPI()
    with_its_own = importlib.import_module("mounted9").sub
    kept = Search(app=with_its_own, calling_module="mounted9")
    app.mount("/8", importlib.import_module("mounted8").sub)
    app.mount("/9", with_its_own)
    assert search(app) == ["mounted8.bill"]
    assert ids(kept.find()) == ["mounted9.bill"]


def test_two_that_one_decorator_made_are_two_handlers(write: Write) -> None:
    """They stand at one place, and it used to be taken for one function: the second one vanished."""
    without_wraps = "def logged(function):\n    async def inner(message: str) -> None: ...\n    return inner\n"
    write(
        decorators10=without_wraps,
        shop10="from fastapi_athomic import subscribe_to\nfrom decorators10 import logged\n"
        "@subscribe_to('a', group_id='g')\n@logged\ndef one(): ...\n"
        "@subscribe_to('b', group_id='g')\n@logged\ndef two(): ...\n",
    )
    with pytest.raises(DuplicateHandlerError, match=r"logged.<locals>.inner is used twice.*functools.wraps"):
        search(packages=["shop10"])


def test_a_handler_beside_its_wrapper_is_told_apart_from_it(write: Write) -> None:
    wrapper = "import functools\n@functools.wraps(bill)\ndef wrapped(message: str) -> None: ...\n"
    write(shop14=HANDLER.format(name="bill") + wrapper)
    with pytest.raises(DuplicateHandlerError, match=r"shop14\.bill is used twice.*one of them wraps the other"):
        search(packages=["shop14"])


class Billing:
    @subscribe_to("t", group_id="g", handler_id="method")
    async def handle(self, message: str) -> None: ...

    @staticmethod
    @subscribe_to("t", group_id="other", handler_id="static")
    async def static(message: str) -> None: ...


def test_one_method_of_two_objects_needs_two_ids() -> None:
    one, two = Billing(), Billing()
    assert search(handlers=[one.handle, one.handle]) == ["method"]
    with pytest.raises(DuplicateHandlerError, match=r"one method of two objects.*athomic\.subscribe_to\(.*handler_id"):
        search(handlers=[one.handle, two.handle])


def test_a_method_that_is_given_keeps_its_object() -> None:
    searching = Search(app=FastAPI(), calling_module="nowhere", handlers=[Billing().handle])
    gc.collect()
    (found,) = searching.find()
    assert isinstance(found.function.__self__, Billing)  # type: ignore[attr-defined]


def test_a_method_without_its_object_is_refused_and_a_static_method_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"Billing\.handle .* is a method without its object") as caught:
        search(handlers=[Billing.handle])
    assert "handlers=[Billing(...).handle]" in str(caught.value)
    assert search(handlers=[Billing.static]) == ["static"]


@pytest.mark.parametrize(("given", "advice"), [(Billing, "Billing(...).handle"), (Billing(), "object.handle")])
def test_an_object_in_place_of_its_method_gets_a_sentence(given: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Billing .*no subscription: give the method of an object") as caught:
        search(handlers=[given])
    assert f"handlers=[{advice}]" in str(caught.value)


@pytest.mark.parametrize(("option", "given"), [("packages", "shop"), ("handlers", Billing.static)])
def test_what_should_be_a_list_gets_a_sentence(option: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option} must be a list: .*{option}=\[\.\.\.\]"):
        Search(app=FastAPI(), calling_module="nowhere", **{option: given})


def test_a_proxy_that_raises_when_it_is_touched_stops_no_search(write: Write) -> None:
    proxy = "class Proxy:\n    def __getattribute__(self, name):\n        raise RuntimeError(name)\nrequest = Proxy()\n"
    write(shop11=HANDLER.format(name="bill") + proxy)
    assert search(packages=["shop11"]) == ["shop11.bill"]


# --- ids do not depend on how the app is started

STARTED = """
import sys
from fastapi import FastAPI
from fastapi_athomic import include_athomic, subscribe_to

app = FastAPI()
athomic = include_athomic(app)

@subscribe_to("t", group_id="g")
async def bill(message: str) -> None: ...

if __name__ in ("__main__", "__mp_main__"):
    print([each.subscription.handler_id for each in athomic._search.find()])
"""


@pytest.mark.parametrize(
    ("start", "handler_id"),
    [
        (lambda: runpy.run_module("shop12.main", run_name="__main__", alter_sys=True), "shop12.main.bill"),
        (lambda: runpy.run_module("shop12", run_name="__main__", alter_sys=True), "shop12.__main__.bill"),
        (lambda: runpy.run_path("shop12/main.py", run_name="__main__"), "main.bill"),
        (lambda: runpy.run_path("shop12/main.py", run_name="__mp_main__"), "main.bill"),
    ],
    ids=["python -m shop12.main", "python -m shop12", "python shop12/main.py", "spawned by it"],
)
def test_ids_are_those_of_the_imported_module(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    start: Callable[[], object],
    handler_id: str,
) -> None:
    write(**{"shop12/__init__": "", "shop12/main": STARTED, "shop12/__main__": STARTED})
    monkeypatch.chdir(tmp_path)
    start()
    assert capsys.readouterr().out.strip() == str([handler_id])


def test_a_module_that_cannot_be_imported_keeps_its_name() -> None:
    assert importable_name("__main__", {"__spec__": None}) == "__main__", "python -c, or a console"


def test_a_script_has_the_ids_that_it_has_under_uvicorn(write: Write, tmp_path: Path) -> None:
    write(shop13=STARTED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "shop13.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    imported = importlib.import_module("shop13").athomic._search.find()  # as uvicorn does it
    assert done.stdout.strip() == str(ids(imported)) == "['shop13.bill']"
