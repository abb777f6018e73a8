"""The tree of errors, drawn from the classes: `python -m tests.support.error_tree` writes docs/images/errors.svg."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from fastapi_athomic import exceptions
from fastapi_athomic.exceptions import AthomicError

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "errors.svg"
ROW, INDENT, MARGIN, WIDTH, SAID_AT = 25, 30, 18, 980, 350
"""Pixels."""


def picture() -> str:
    """A row for each error: its name below that of its first parent, and what its docstring says first."""
    rows = list(tree(AthomicError, 0))
    height = len(rows) * ROW + 2 * MARGIN
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'{begin} font-family="system-ui, sans-serif" font-size="14">',
        "<title>The tree of errors</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#f8fafc" stroke="#cbd5e1"/>',
        *(drawn(number, depth, error, rows) for number, (depth, error) in enumerate(rows)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def tree(error: type[AthomicError], depth: int) -> Iterator[tuple[int, type[AthomicError]]]:
    """The errors in the order of the module, each below the first of its parents."""
    yield depth, error
    for each in vars(exceptions).values():
        if isinstance(each, type) and each.__bases__[0] is error:
            yield from tree(each, depth + 1)


def drawn(number: int, depth: int, error: type[AthomicError], rows: list[tuple[int, type[AthomicError]]]) -> str:
    x, y = MARGIN + depth * INDENT, MARGIN + number * ROW + 17
    others = [parent.__name__ for parent in error.__bases__[1:]]
    first_line = (error.__doc__ or "").strip().splitlines()[0]
    said = first_line.partition(":")[0].rstrip(".").replace("`", "") + "".join(f"; also a {other}" for other in others)
    look = 'font-family="ui-monospace, monospace" font-weight="600" fill="#1d4ed8"'
    parts = [
        f'<text x="{x}" y="{y}" {look}>{error.__name__}</text>',
        f'<text x="{SAID_AT}" y="{y}" fill="#334155">{escape(said)}</text>',
    ]
    if depth:
        parent = max(above for above in range(number) if rows[above][0] == depth - 1)
        begin = MARGIN + parent * ROW + 23
        parts.append(f'<path d="M{x - 18} {begin}V{y - 5}h13" fill="none" stroke="#94a3b8"/>')
    return "\n".join(parts)


if __name__ == "__main__":
    PICTURE.write_text(picture())
