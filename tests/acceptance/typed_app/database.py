"""What SQLAlchemy's `AsyncSession` is in a real service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Protocol

from fastapi import Depends


class Session(Protocol):
    def add(self, row: object) -> None: ...
    async def commit(self) -> None: ...


class InMemory:
    rows: list[object] = []  # noqa: RUF012 - shared by all sessions, as a database is

    def __init__(self) -> None:
        self._new: list[object] = []

    def add(self, row: object) -> None:
        self._new.append(row)

    async def commit(self) -> None:
        self.rows.extend(self._new)
        self._new.clear()


async def get_session() -> AsyncIterator[Session]:
    session = InMemory()
    yield session
    await session.commit()


def get_cursor() -> Iterator[list[object]]:
    yield InMemory.rows


SessionDependency = Annotated[Session, Depends(get_session)]
Cursor = Annotated[list[object], Depends(get_cursor)]
