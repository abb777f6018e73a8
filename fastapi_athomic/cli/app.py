"""Finds the app that a command is about: `MODULE:ATTRIBUTE`, as for uvicorn, and what `include_athomic` gave it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from starlette.routing import Mount

from ..athomic import Athomic
from ..exceptions import AthomicError

DEFAULT_ATTRIBUTE = "app"
WRAPPED = 20
"""Most middlewares around an app that are looked through, each by its attribute `app`."""
_PACKAGE = str(Path(__file__).parents[1])
_NOT_THE_USERS = (f"{_PACKAGE}{os.sep}", f"{sysconfig.get_path('stdlib')}{os.sep}", "<")
_INSTALLED = ("site-packages", "dist-packages")


def add_app_options(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the options that say where the app is: with `--app`, or without it, as for uvicorn.

    Not `required`: the command may ask a running service instead, and takes something else without an option.
    """
    where = command.add_argument_group("the app")
    metavar, summary = "MODULE:ATTRIBUTE", "as for uvicorn: shop.main:app, or shop.main:create_app with --factory; "
    summary += "without :ATTRIBUTE it is app"
    either = where.add_mutually_exclusive_group(required=required)
    if required:
        either.add_argument("app", nargs="?", default=argparse.SUPPRESS, metavar=metavar, help=summary)
    either.add_argument("--app", metavar=metavar, help="the same" if required else summary)
    where.add_argument("--factory", action="store_true", help="ATTRIBUTE is a function that makes the app")
    where.add_argument(
        "--app-dir", default="", metavar="DIRECTORY", help="where MODULE is looked for (default: this directory)"
    )
    where.add_argument("--name", help="which Athomic, if the app has several: include_athomic(app, name=...)")
    where.add_argument("--traceback", action="store_true", help="show the traceback if the app cannot be imported")


def find_athomic(options: argparse.Namespace) -> Athomic:
    """The one `Athomic` that the options name.

    Raises:
        AthomicError: the app cannot be found, or it has none of this name, or several and no name was given.
    """
    found = find_athomics(options)
    if len(found) > 1:
        names = ", ".join(athomic.name for athomic in found)
        raise AthomicError(f"{options.app} has several Athomics: say which one with --name: {names}")
    return found[0]


def find_athomics(options: argparse.Namespace) -> list[Athomic]:
    """Those of the app, or the one that the options name. At least one.

    Raises:
        AthomicError: the app cannot be found, or it has none, or none of this name.
    """
    return find_app(options)[1]


def find_app(options: argparse.Namespace) -> tuple[Any, list[Athomic]]:
    """The app, with the middlewares around it, and what `find_athomics` finds."""
    app = _load(options)
    found = [*dict.fromkeys(athomics_of(app))]  # an app may keep the same one under a name of its own, too
    if not found:
        raise AthomicError(f"{options.app} has no athomic: call include_athomic(app) in that module")
    if options.name is None:
        return app, found
    named = [athomic for athomic in found if athomic.name == options.name]
    if not named:
        names = ", ".join(athomic.name for athomic in found)
        raise AthomicError(f"{options.app} has no Athomic named {options.name}; it has: {names}")
    return app, named


def refuse_memory(athomic: Athomic, instead: str = "") -> None:
    """Raises `AthomicError` if the broker is in memory: an answer from this process's own, empty one would mislead.

    `instead`: what answers in the running app.
    """
    if athomic.settings.scheme == "memory":
        raise AthomicError(
            "the broker is memory://, which lives inside the app's own process: this process sees nothing of it. "
            "Set ATHOMIC_BROKER_URL to the broker that the app uses; if that is memory://, only the running app can "
            f"answer{instead and f' ({instead})'}"
        )


def athomics_of(app: Any) -> Iterator[Athomic]:
    """Of the app, or of the one inside its middlewares; else of those that are mounted in it."""
    for _ in range(WRAPPED):
        values = getattr(getattr(app, "state", None), "_state", None)
        athomics = [each for each in values.values() if isinstance(each, Athomic)] if isinstance(values, dict) else []
        if athomics or not hasattr(app, "app"):
            break
        app = app.app
    yield from athomics
    if not athomics:
        for route in getattr(app, "routes", ()):
            if isinstance(route, Mount):
                yield from athomics_of(route.app)


# --- importing it


def _load(options: argparse.Namespace) -> Any:
    module_name, _, attribute = options.app.partition(":")
    if module_name.endswith(".py") or "/" in module_name or os.sep in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".").replace("/", ".")
        raise AthomicError(f"--app names a module, not a file: {dotted}:{attribute or DEFAULT_ATTRIBUTE}")
    sys.path.insert(0, options.app_dir)  # as uvicorn does
    module = _import(module_name, options)
    found = _attribute(module, attribute, options)
    if isinstance(found, ModuleType):
        raise AthomicError(f"{options.app} is a module: say what in it is the app, {found.__name__}:app for one")
    return _made_by(found, options)


def _import(name: str, options: argparse.Namespace) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            directory = options.app_dir or "the current directory"
            raise AthomicError(
                f"there is no module {error.name} in {directory}: call this where you start the server, "
                "or give --app-dir the directory"
            ) from error
        raise AthomicError(f"{name} cannot be imported: {_told(error, options)}") from error


def _attribute(module: ModuleType, path: str, options: argparse.Namespace) -> Any:
    apps = [name for name, value in vars(module).items() if isinstance(value, FastAPI)]
    if not path:
        path = apps[0] if len(apps) == 1 and not hasattr(module, DEFAULT_ATTRIBUTE) else DEFAULT_ATTRIBUTE
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            hints = [f"{module.__name__}:{each}" for each in apps]
            hints += [f"{module.__name__}.{path}:{DEFAULT_ATTRIBUTE}"] if _is_module(module, path) else []
            hints += [f"{module.__name__}:{each} --factory" for each in _factories(module)]
            hint = f"; perhaps it is {' or '.join(hints)}" if hints else ""
            raise AthomicError(f"the module {module.__name__} has no {path}{hint}") from None
        except Exception as error:  # a property, or a module's own `__getattr__`
            raise AthomicError(f"{options.app} cannot be read: {_told(error, options)}") from error
    return found


def _is_module(package: ModuleType, path: str) -> bool:
    return hasattr(package, "__path__") and find_spec(f"{package.__name__}.{path.partition('.')[0]}") is not None


def _factories(module: ModuleType) -> list[str]:
    """Functions of the module that seem to make an app."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and "app" in name.lower()
        and not _missing_arguments(value)
    ]


def _made_by(found: Any, options: argparse.Namespace) -> Any:
    """The app itself, or what the factory makes.

    A function that is no app is called without `--factory`, too, with a word about it, as uvicorn does.
    """
    if hasattr(found, "state") and not isinstance(found, type):
        if options.factory:
            raise AthomicError(f"{options.app} is an app, not a factory: leave out --factory")
        return found
    if not options.factory and not (inspect.isroutine(found) or isinstance(found, type)):
        return found  # a middleware around an app, for one
    if not callable(found):
        raise AthomicError(f"{options.app} is no factory, as it cannot be called: leave out --factory")
    if missing := _missing_arguments(found):
        if options.factory or missing != ["scope", "receive", "send"]:
            raise AthomicError(
                f"{options.app} has no athomic: it looks like a factory, but needs {', '.join(missing)}; "
                "a factory is called without arguments"
            )
        return found
    return _call(found, options)


def _call(factory: Callable[[], Any], options: argparse.Namespace) -> Any:
    if not options.factory:
        print(f"{options.app} looks like a factory and was called: pass --factory", file=sys.stderr)
    try:
        app = factory()
    except (Exception, SystemExit) as error:
        raise AthomicError(f"the factory {options.app} failed: {_told(error, options)}") from error
    if inspect.iscoroutine(app):
        app.close()
        raise AthomicError(f"the factory {options.app} is async: uvicorn takes a sync one only")
    return app


def _missing_arguments(function: Callable[..., Any]) -> list[str]:
    """The parameters without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some built-in functions
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


# --- telling what went wrong in the user's code


def told(error: BaseException) -> str:
    """The error, and the last line of the user's own code that it came through."""
    if isinstance(error, SyntaxError):
        where = f"{_shown(error.filename or '?')}, line {error.lineno}"
        return f"{type(error).__name__}: {error.msg} (in {where}: {(error.text or '').strip()})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_the_users(frame.filename)]
    place = f" (in {_shown(own[-1].filename)}, line {own[-1].lineno}: {own[-1].line})" if own else ""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}){place}"
    return f"{error}{place}" if isinstance(error, AthomicError) else f"{type(error).__name__}: {error}{place}"


def _told(error: BaseException, options: argparse.Namespace) -> str:
    if options.traceback:
        traceback.print_exception(error)
    return told(error)


def _is_the_users(filename: str) -> bool:
    parts = Path(filename).parts
    return not filename.startswith(_NOT_THE_USERS) and not any(each in parts for each in _INSTALLED)


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
