"""How a command finds the app: every way in which uvicorn would find it, and a sentence for what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastapi_athomic
from tests.unit.cli.conftest import Answer, Command, Write

APP = """
from fastapi import FastAPI
from fastapi_athomic import include_athomic

app = FastAPI()
athomic = include_athomic(app)

@athomic.subscribe_to("orders", group_id="billing", handler_id="bill")
async def bill(order: str) -> None: ...
"""
FACTORY = """
from fastapi import FastAPI
from fastapi_athomic import include_athomic

def create_app(title: str = "shop") -> FastAPI:
    app = FastAPI(title=title)
    athomic = include_athomic(app)

    @athomic.subscribe_to("orders", group_id="billing", handler_id="bill")
    async def bill(order: str) -> None: ...
    return app
"""


def found(answer: Answer) -> bool:
    return answer.status == 0 and "1 handler would start: bill" in answer.out


@pytest.mark.parametrize("name", ["check", "handlers", "topics", "asyncapi"])
def test_the_app_is_named_with_an_option_or_without(
    name: str, write: Write, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    write(either=APP)
    answer = command(name, "either:app")
    assert answer.status == 0
    assert "orders" in answer.out or found(answer)
    for again in (["--app", "either:app"], ["--app-dir", "", "either:app", "--traceback"]):
        same = command(name, *again)
        assert (same.status, same.out) == (answer.status, answer.out)  # what is told once a process is not the same
    for wrong, said in (([], "is required"), (["either:app", "--app", "either:app"], "not allowed with")):
        with pytest.raises(SystemExit):
            command(name, *wrong)
        assert said in capsys.readouterr().err


def error(answer: Answer) -> str:
    assert answer.status == 1, answer.out
    assert answer.err.startswith("error: ")
    return answer.err.removeprefix("error: ").strip()


# --- what is found


def test_an_app_by_module_and_attribute(write: Write, command: Command) -> None:
    write(shop1__in__main=APP)
    assert found(command("check", "--app", "shop1.main:app"))
    assert found(command("check", "--app", "shop1.main")), "without an attribute it is `app`"


def test_an_app_in_a_package_below_a_directory(write: Write, command: Command) -> None:
    write(src__in__shop2__in__api__in__main=APP.replace("app =", "api =").replace("(app)", "(api)"))
    assert found(command("check", "--app-dir", "src", "--app", "shop2.api.main:api"))
    assert found(command("check", "--app-dir", "src", "--app", "shop2.api.main")), "the only app of the module"


def test_an_attribute_of_an_attribute(write: Write, command: Command) -> None:
    write(shop3=APP + "\nclass server: http = app\n")
    assert found(command("check", "--app", "shop3:server.http"))


def test_a_factory(write: Write, command: Command) -> None:
    write(shop4=FACTORY)
    answer = command("check", "--app", "shop4:create_app", "--factory")
    assert found(answer)
    assert answer.err == ""
    answer = command("check", "--app", "shop4:create_app")
    assert found(answer), "uvicorn calls it, too"
    assert answer.err == "shop4:create_app looks like a factory and was called: pass --factory\n"


def test_an_app_inside_middlewares(write: Write, command: Command) -> None:
    write(
        shop5=APP
        + """
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
wrapped = CORSMiddleware(GZipMiddleware(app))
"""
    )
    assert found(command("check", "--app", "shop5:wrapped"))


def test_an_app_that_is_mounted(write: Write, command: Command) -> None:
    write(shop6=APP + "\nroot = FastAPI()\nroot.mount('/shop', app)\n")
    assert found(command("check", "--app", "shop6:root"))


def test_one_of_several(write: Write, command: Command) -> None:
    write(
        shop7=APP
        + """
other = include_athomic(app, name="other", prefix="/other")

@other.subscribe_to("mails", group_id="mail", handler_id="mail")
async def mail(message: str) -> None: ...
"""
    )
    assert "2 handlers would start: bill, mail" in command("check", "--app", "shop7").out
    assert "1 handler would start: mail" in command("check", "--app", "shop7", "--name", "other").out
    assert error(command("check", "--app", "shop7", "--name", "oter")) == (
        "shop7 has no Athomic named oter; it has: athomic, other"
    )
    said = error(command("dlq", "list", "mail", "--app", "shop7"))
    assert said == "shop7 has several Athomics: say which one with --name: athomic, other"


def test_one_under_two_names_is_one(write: Write, command: Command) -> None:
    write(
        shop20=APP + "\napp.state.messages = athomic\nroot = FastAPI()\nroot.mount('/a', app)\nroot.mount('/b', app)\n"
    )
    assert found(command("check", "--app", "shop20:app"))
    assert found(command("check", "--app", "shop20:root")), "mounted twice"


# --- what is not


def test_a_file_instead_of_a_module(write: Write, command: Command) -> None:
    said = error(command("check", "--app", "./shop/main.py:app"))
    assert said == "--app names a module, not a file: shop.main:app"


def test_no_such_module(write: Write, command: Command) -> None:
    write(shop8=APP)
    said = error(command("check", "--app", "shop8x.main:app"))
    assert said.startswith("there is no module shop8x in the current directory: call this where you start the server")
    assert "in src:" in error(command("check", "--app", "shop8x", "--app-dir", "src"))


def test_no_such_attribute(write: Write, command: Command) -> None:
    write(shop9=APP, shop10=FACTORY, shop11__in__app=APP, shop11__in____init__="", shop12="x = 1")
    assert error(command("check", "--app", "shop9:api")).endswith("shop9 has no api; perhaps it is shop9:app")
    assert error(command("check", "--app", "shop10")).endswith(
        "shop10 has no app; perhaps it is shop10:create_app --factory"
    )
    assert error(command("check", "--app", "shop11:app")).endswith("has no app; perhaps it is shop11.app:app")
    assert error(command("check", "--app", "shop12")) == "the module shop12 has no app"


def test_a_module_instead_of_an_app(write: Write, command: Command) -> None:
    write(shop13__in__app=APP, shop13__in____init__="from . import app")
    said = error(command("check", "--app", "shop13:app"))
    assert said == "shop13:app is a module: say what in it is the app, shop13.app:app for one"


@pytest.mark.parametrize(
    ("code", "arguments", "sentence"),
    [
        ("def create_app(url): ...", ["--factory"], "it looks like a factory, but needs url; a factory is called with"),
        ("def create_app(url): ...", [], "it looks like a factory, but needs url; a factory is called without arg"),
        ("async def create_app(): ...", ["--factory"], "create_app is async: uvicorn takes a sync one only"),
        ("def create_app(): return {}['x']", ["--factory"], "create_app failed: KeyError: 'x' (in "),
        ("create_app = 1", ["--factory"], "is no factory, as it cannot be called: leave out --factory"),
        ("create_app = 1", [], "create_app has no athomic: call include_athomic(app) in that module"),
        ("async def create_app(scope, receive, send): ...", [], "has no athomic: call include_athomic(app)"),
        (APP + "create_app = app", ["--factory"], "create_app is an app, not a factory: leave out --factory"),
        ("def __getattr__(name): raise OSError(name)", [], "cannot be read: OSError: create_app (in "),
    ],
)
def test_what_is_no_factory_and_no_app(
    write: Write, command: Command, code: str, arguments: list[str], sentence: str, request: pytest.FixtureRequest
) -> None:
    name = f"factory{abs(hash(request.node.name))}"
    write(**{name: code})
    assert sentence in error(command("check", "--app", f"{name}:create_app", *arguments))


# --- errors of the user's own code


def test_an_import_that_fails_shows_the_users_own_line(write: Write, command: Command) -> None:
    write(shop14="import shop14_db\n" + APP, shop14_db="\nimport json\nSETTINGS = json.loads('{')\n")
    said = error(command("check", "--app", "shop14"))
    assert said.startswith("shop14 cannot be imported: JSONDecodeError: Expecting property name")
    assert said.endswith("(in shop14_db.py, line 3: SETTINGS = json.loads('{'))")


def test_a_missing_library_is_not_taken_for_a_missing_app(write: Write, command: Command) -> None:
    write(shop15="import no_such_library_15")
    said = error(command("check", "--app", "shop15"))
    assert said == (
        "shop15 cannot be imported: ModuleNotFoundError: No module named 'no_such_library_15' "
        "(in shop15.py, line 1: import no_such_library_15)"
    )


def test_a_syntax_error_shows_its_own_line(write: Write, command: Command) -> None:
    write(shop16="import shop16_routes", shop16_routes="x = 1\ndef f(:\n")
    said = error(command("check", "--app", "shop16"))
    assert said == "shop16 cannot be imported: SyntaxError: invalid syntax (in shop16_routes.py, line 2: def f(:)"


def test_a_module_that_ends_the_process(write: Write, command: Command) -> None:
    write(shop17="import sys\nsys.exit('no database')")
    said = error(command("check", "--app", "shop17"))
    assert said == (
        "shop17 cannot be imported: it called sys.exit('no database') (in shop17.py, line 2: sys.exit('no database'))"
    )


def test_the_traceback_is_shown_on_demand(write: Write, command: Command) -> None:
    write(shop18="1 / 0")
    assert "Traceback" not in command("check", "--app", "shop18").err
    assert "Traceback (most recent call last)" in command("check", "--app", "shop18", "--traceback").err


def test_an_error_of_ours_keeps_its_sentence(write: Write, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_DRAIN_TIMEOUT", "soon")
    monkeypatch.setenv("ATHOMIC_COMMIT_COUNT", "0")
    write(shop19=APP)
    said = error(command("check", "--app", "shop19"))
    assert "ATHOMIC_DRAIN_TIMEOUT" in said
    assert "ATHOMIC_COMMIT_COUNT" in said, "all wrong variables, not only the first"
    assert "(in shop19.py, line 6: athomic = include_athomic(app))" in said


# --- the program itself


def test_version_and_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastapi_athomic", "--version"],
        cwd=Path(fastapi_athomic.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"fastapi-athomic {fastapi_athomic.__version__} (Python 3.")
    assert "aiokafka" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_reader_who_goes_early_gets_no_traceback(write: Write, tmp_path: Path) -> None:
    write(piped1=APP)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "fastapi_athomic", "topics", "--app", "piped1", "--publishes", "o"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
