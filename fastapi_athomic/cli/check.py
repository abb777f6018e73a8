"""`fastapi-athomic check`: would the app start? For CI: no broker is asked, and nothing is started.

A schema registry is asked, if the app has one: would it take the schemas of the app's messages?
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..exceptions import AthomicError, ConfigurationError
from .app import add_app_options, find_athomics, told
from .schemas import compare
from .terminal import FAILED, OK, print_json

_LOGGER = logging.getLogger(__package__.partition(".")[0])


@dataclass(slots=True)
class _Findings:
    handlers: list[str] = field(default_factory=list)  # ids
    problems: list[str] = field(default_factory=list)  # because of which the app would not start
    warnings: list[str] = field(default_factory=list)
    brokers: set[str] = field(default_factory=set)  # schemes
    compared: int = 0  # schemas, with those of a registry


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `check`."""
    command = areas.add_parser(
        "check",
        help="would the app start? finds and compiles handlers, validates settings; asks no broker",
        description="Finds and compiles the handlers and validates the settings, as a start of the app does. No broker "
        "is asked, nothing is started. If the app has a schema registry, that is asked whether the schemas of the "
        "handlers' types go with those that it has; nothing is registered. The exit status is 1 if the app would not "
        "start, or a schema would be refused.",
    )
    add_app_options(command)
    command.add_argument("--strict", action="store_true", help="fail if there are warnings, too")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Prints a sentence for each problem; returns the exit status."""
    findings = _Findings()
    with _collected(findings.warnings) as collector:
        try:
            athomics = find_athomics(options)
            collector.listen()
            for athomic in athomics:
                findings.brokers.add(athomic.settings.scheme)
                try:
                    consumers = (await athomic.check()).consumers
                    findings.handlers += consumers
                    await _compare_schemas(athomic, consumers.values(), findings)
                except ConfigurationError as error:
                    findings.problems += map(str, error.problems or (error,))
                except Exception as error:  # of the user's code, which a start would run too
                    findings.problems.append(told(error))
        except AthomicError as error:
            findings.problems.append(str(error))
    failed = bool(findings.problems or (options.strict and findings.warnings))
    if options.json:
        print_json(
            {
                "ok": not failed,
                "handlers": findings.handlers,
                "schemas": findings.compared,
                "problems": findings.problems,
                "warnings": findings.warnings,
            }
        )
    else:
        _print(findings)
    return FAILED if failed else OK


async def _compare_schemas(athomic: Athomic, consumers: Iterable[ConsumerService], findings: _Findings) -> None:
    comparison = await compare(athomic, consumers)
    findings.compared += comparison.compared
    findings.problems += comparison.problems
    findings.warnings += comparison.warnings


def _print(findings: _Findings) -> None:
    for problem in findings.problems:
        print(f"error: {problem}", file=sys.stderr)
    for warning in findings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if findings.problems:
        return
    count = len(findings.handlers)
    print(f"{count} handler{'' if count == 1 else 's'} would start: {', '.join(findings.handlers) or 'none'}")
    if findings.compared:
        print(f"{findings.compared} schema{'' if findings.compared == 1 else 's'} compared with the schema registry")
    if findings.brokers == {"memory"}:
        print("The broker is memory:// here. Set the variables of production to check what they concern, too.")


class _Collector(logging.Handler):
    """Collects what the package logs as a warning or worse: what a start would log."""

    def __init__(self, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        if (said := record.getMessage()) not in self._warnings:
            self._warnings.append(said)

    def listen(self) -> None:
        """Call it again when the app has been imported: it may have configured logging, and switched ours off."""
        for name in [*logging.root.manager.loggerDict]:
            if f"{name}.".startswith(f"{_LOGGER.name}."):
                logger = logging.getLogger(name)
                logger.disabled = False
                logger.setLevel(min(logger.level, logging.WARNING))
        _LOGGER.propagate = False  # else each would be printed twice
        if self not in _LOGGER.handlers:
            _LOGGER.addHandler(self)


@contextmanager
def _collected(warnings: list[str]) -> Iterator[_Collector]:
    collector, propagate = _Collector(warnings), _LOGGER.propagate
    collector.listen()
    try:
        yield collector
    finally:
        _LOGGER.removeHandler(collector)
        _LOGGER.propagate = propagate
