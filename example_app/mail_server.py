"""Stands for a mail server that is slow, and at times away."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from fastapi_athomic import Athomic, get_athomic

from .messages import Mail


class MailServerDownError(Exception):
    """The server does not answer: no mail will get through, whatever it is."""


class GreylistedError(Exception):
    """The recipient's server wants this mail to come again later (RFC 6647). Others get through."""


class MailServer:
    """After every `outage_every` mails it is away for the next four calls; 0: it never is."""

    OUTAGE = 4

    def __init__(self, outage_every: int = 0) -> None:
        self._outage_every = outage_every
        self._until_outage = outage_every
        self._refusals = 0  # that are still to come
        self._seen: set[str] = set()  # orders of greylisted customers

    async def send(self, mail: Mail) -> None:
        """Raises MailServerDownError, or for a customer `greylisted` GreylistedError, once for each order."""
        if self._refusals:
            self._refusals -= 1
            raise MailServerDownError("connection refused")
        if mail.address.startswith("greylisted@") and mail.order_id not in self._seen:
            self._seen.add(mail.order_id)
            raise GreylistedError("451 come again later")
        self._until_outage -= 1
        if self._until_outage == 0:
            self._until_outage, self._refusals = self._outage_every, self.OUTAGE


def get_mail_server(athomic: Annotated[Athomic, Depends(get_athomic)]) -> MailServer:
    """A dependency, so that tests can put another server in its place."""
    server: MailServer = athomic.app.state.mail_server
    return server
