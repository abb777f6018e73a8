"""The shop's own settings. Those of its consumers are `ATHOMIC_...`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ShopSettings(BaseSettings):
    """From the environment; an empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", env_ignore_empty=True, populate_by_name=True)

    # postgresql+asyncpg://user:password@host/name, or sqlite+aiosqlite:///file. None: an SQLite file that lives as long
    # as the process, as what is on memory:// does
    database_url: Annotated[str | None, Field(validation_alias="DATABASE_URL")] = None
    registry_url: str = "memory://"  # of the schema registry with the schemas of stock movements
    # encrypts mails in their topic: 32 bytes in Base64, `openssl rand -base64 32`. None: one that lives as long as the
    # process, on memory:// only
    mail_key: SecretStr | None = None
    # who has it may steer consumers and look after dead letters; None: nobody may
    control_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    mail_outage_every: Annotated[int, Field(ge=0)] = 200  # mails, after which the mail server is away; 0: it never is

    @field_validator("database_url")
    @classmethod
    def _for_asyncio(cls, url: str | None) -> str | None:
        """Platforms hand out URLs without a driver; SQLAlchemy would take one that blocks the event loop."""
        for begin in ("postgres://", "postgresql://"):
            if url is not None and url.startswith(begin):
                return "postgresql+asyncpg://" + url.removeprefix(begin)
        return url
