"""How messages are written in their topics. What is not named here is JSON."""

from __future__ import annotations

import logging
import os

from fastapi_athomic import AthomicSettings, ConfigurationError, PayloadPipeline
from fastapi_athomic.payload.encryption import AesGcm
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry

from .messages import MAILS, STOCK
from .settings import ShopSettings

logger = logging.getLogger(__name__)


def topic_payloads(settings: ShopSettings, broker: AthomicSettings) -> dict[str, PayloadPipeline]:
    """Stock movements are Avro, as the warehouse is a program of its own. Mails are encrypted: they name people.

    Raises:
        ConfigurationError: mails would be encrypted with a key that is forgotten before they are read.
    """
    registry = SchemaRegistry(settings.registry_url)
    return {
        STOCK: PayloadPipeline([Avro(registry, auto_register=True)]),
        MAILS: PayloadPipeline([AesGcm(_mail_key(settings, broker))]),
    }


def _mail_key(settings: ShopSettings, broker: AthomicSettings) -> bytes | str:
    if settings.mail_key is not None:
        return settings.mail_key.get_secret_value()
    if broker.scheme != "memory":
        raise ConfigurationError(
            "mails outlive this process, so their key must, too: set SHOP_MAIL_KEY (openssl rand -base64 32 makes one)"
        )
    logger.warning("SHOP_MAIL_KEY is not set: mails are encrypted with a key that lives as long as this process")
    return os.urandom(32)
