from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import APIRouter, FastAPI

from fastapi_athomic import ConfigurationError, DiscoveryError, DuplicateHandlerError, subscribe_to
from fastapi_athomic.discovery import Discovered, discover

HANDLER = """
from fastapi_athomic import subscribe_to

@subscribe_to("t", group_id="g")
async def {name}(message: str) -> None: ...
"""

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes importable modules: `write(**{"shop/billing": source})`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write_modules(**sources: str) -> None:
        for path, source in sources.items():
            file = tmp_path / f"{path}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write_modules
    for name in set(sys.modules) - before:
        if not name.startswith("fastapi_athomic."):  # what the package loads when it is used stays as it is
            del sys.modules[name]


def ids(found: list[Discovered]) -> list[str]:
    return [discovered.subscription.handler_id for discovered in found]


def search(app: FastAPI | None = None, **options: object) -> list[str]:
    return ids(discover(app or FastAPI(), calling_module="nowhere", **options))  # type: ignore[arg-type]


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
    assert ids(discover(app, calling_module="caller3")) == ["caller3.one", "routes3.two"]


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
