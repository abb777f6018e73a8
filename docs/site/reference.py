"""What autodoc does not see: the comments behind fields, and the descriptions of models. See docs/reference.md."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tokenize
from collections.abc import Container, Iterator
from dataclasses import is_dataclass
from io import StringIO
from types import MemberDescriptorType
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

from fastapi_athomic.variables import Checked

LOGGER = getLogger(__name__)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", warn_of_names)
    app.connect("autodoc-process-docstring", link_pages)
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_field)


def warn_of_names(_app: Sphinx, what: str, name: str, kind: Any, _options: Any, lines: list[str]) -> None:
    """A line of a section that is not indented is read as a parameter or an error of that name."""
    said = "\n".join(lines)
    errors = re.findall(r"^:raises ([^:]*):", said, re.MULTILINE)
    wrong = [error for error in errors if not all(one.endswith(("Error", "Exception")) for one in error.split(", "))]
    if parameters := re.findall(r"^:param ([^:]*):", said, re.MULTILINE):
        known = inspect.signature(kind).parameters
        named = [one.strip("*\\") for parameter in parameters for one in parameter.split(", ")]
        wrong += [one for one in named if one not in known]
    if wrong:
        LOGGER.warning("the docstring of %s %s describes what does not exist: %s", what, name, wrong)


def link_pages(_app: Sphinx, _what: str, _name: str, _kind: Any, _options: Any, lines: list[str]) -> None:
    """A docstring names a page as a file, which is what a reader of the code needs."""
    lines[:] = [re.sub(r"(?<![`/])docs/([\w-]+)\.md", r":doc:`/docs/\1`", line) for line in lines]


def add_fields(_app: Sphinx, what: str, _name: str, kind: Any, _options: Any, lines: list[str]) -> None:
    """A list of the fields with what is said about them. Settings have a page of their own."""
    if what == "class" and has_fields(kind) and not issubclass(kind, Checked | BaseSettings):
        lines += ["", *fields(kind), ""]


def shorten_signature(_app: Sphinx, what: str, _name: str, kind: Any, *_: Any) -> tuple[str, str] | None:
    """The fields are listed below the name. Exceptions are caught, seldom made."""
    plain = what == "class" and has_fields(kind)
    return ("", "") if plain or what == "exception" else None


def skip_field(_app: Sphinx, _what: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    is_field = isinstance(member, MemberDescriptorType) or type(member).__name__ == "_tuplegetter"
    return True if is_field else None


def has_fields(kind: type) -> bool:
    return is_dataclass(kind) or issubclass(kind, BaseModel) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def fields(kind: type) -> Iterator[str]:
    """A line for each public field: as the code has it, then its description or the comment behind it."""
    source = textwrap.dedent(inspect.getsource(kind))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    described = getattr(kind, "model_fields", {})
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_field(node):
            name = node.target.id
            comment = " ".join(comments[line] for line in lines_about(node, source.splitlines(), comments))
            meaning = described[name].description if name in described else comment
            yield f"- ``{shown(node)}``" + (f": {escaped(meaning)}" if meaning else "")


def lines_about(node: ast.AnnAssign, lines: list[str], comments: Container[int]) -> list[int]:
    """Those of the comments directly above a field and behind it."""
    first = node.lineno
    while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return [line for line in range(first, (node.end_lineno or 0) + 1) if line in comments]


def is_field(node: ast.AnnAssign) -> bool:
    return not ast.unparse(node.target).startswith("_") and "ClassVar" not in ast.unparse(node.annotation)


def shown(node: ast.AnnAssign) -> str:
    """The field with a type and a default that a reader understands: no checks, no factory, no description."""
    default = "" if node.value is None or isinstance(node.value, ast.Call) else f" = {ast.unparse(node.value)}"
    return f"{ast.unparse(node.target)}: {ast.unparse(Plain().visit(node.annotation))}{default}"


class Plain(ast.NodeTransformer):
    """`Annotated[int, ...]` is `int`."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        is_annotated = isinstance(node.value, ast.Name) and node.value.id == "Annotated"
        return node.slice.elts[0] if is_annotated and isinstance(node.slice, ast.Tuple) else self.generic_visit(node)


def escaped(text: str) -> str:
    """Comments are plain text with code in backticks."""
    return re.sub(r"([*|_])(?=\w|$)", r"\\\1", text) if "`" not in text else text
