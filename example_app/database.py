"""The database, and how its transactions go together with messages that may come twice.

A handler gets its session by `Depends`. When it has returned, the dependency commits; when that is done, the offset of
the message is committed. So a crash, or a commit that fails, loses nothing: the message comes again. What that asks of
a handler:

1. What it writes has a key that comes from the message (the order's id), so that it can tell a message that came
   twice: `if await session.get(InvoiceRow, order.order_id): return`.
2. It publishes after `flush`, which shows what the database refuses, and before the commit. So whatever is committed
   has been published. What has been published may not be committed yet: the message is handled again, and published
   again, and whoever consumes it tells that by rule 1 (or by its sequence number).
3. It relies on its message and on tables of its own group only: another group may not have come so far yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import BigInteger, Dialect, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from fastapi_athomic import Athomic, CircuitBreaker, get_athomic

AWAY = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""What is raised while the database cannot be reached."""
DATABASE_BREAKER = CircuitBreaker(exceptions=AWAY, failures=3, pause=1, max_pause=30)
"""While the database is away, handlers wait. Without a breaker each message would use up its attempts and be dead."""
ONE_AT_A_TIME = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(1)"}
"""Several processes may start at once: one creates the tables, the others wait and find them."""


class Base(DeclarativeBase):
    """The tables are where they are used: those of billing in billing.py."""


class Cents(TypeDecorator[Decimal]):
    """Money, kept as a whole number of cents: SQLite has no decimals."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-2)


class Database:
    """One engine for the app, and a session for each message or request."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def create_tables(self) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(text(ONE_AT_A_TIME[connection.dialect.name]))
            await connection.run_sync(Base.metadata.create_all)

    async def answers(self) -> None:
        """For the health of the app: raises while the database is away."""
        async with self.sessions() as session:
            await session.execute(text("SELECT 1"))


@asynccontextmanager
async def open_database(url: str | None) -> AsyncIterator[Database]:
    with TemporaryDirectory(prefix="shop-") as directory:
        engine = _engine(url or f"sqlite+aiosqlite:///{Path(directory, 'shop.db')}")
        try:
            database = Database(engine)
            await database.create_tables()
            yield database
        finally:
            await engine.dispose()


def _engine(url: str) -> AsyncEngine:
    if url.startswith("sqlite"):  # has one writer: whoever waits for its turn waits here, and not for a lock
        engine = create_async_engine(url, pool_size=1, max_overflow=0, connect_args={"timeout": 30})
        event.listen(engine.sync_engine, "connect", _write_ahead)
        return engine
    return create_async_engine(url, pool_size=20, pool_pre_ping=True)


def _write_ahead(connection: DBAPIConnection, _: object) -> None:
    """SQLite then syncs a file now and then, not with each commit."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


async def get_session(athomic: Annotated[Athomic, Depends(get_athomic)]) -> AsyncIterator[AsyncSession]:
    """A transaction, for routes and handlers alike. What raises is not committed."""
    database: Database = athomic.app.state.database
    async with database.sessions() as session:
        yield session
        await session.commit()


Session = Annotated[AsyncSession, Depends(get_session)]
