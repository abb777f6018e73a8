"""Who may steer consumers and look after dead letters: whoever has the token of the settings."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer
from pydantic import SecretStr

from fastapi_athomic import set_context

# programs send `authorization: Bearer <token>`; a browser, and so the dashboard, can ask for a name and a password only
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
Basic = Annotated[HTTPBasicCredentials | None, Depends(HTTPBasic(auto_error=False))]


def operator_with(token: SecretStr) -> Callable[..., Awaitable[None]]:
    """A dependency that lets in who has the token, and notes who it is: for logs, events and the status."""

    async def operator(bearer: Bearer, basic: Basic) -> None:
        given = bearer.credentials if bearer else basic.password if basic else ""
        if not secrets.compare_digest(given.encode(), token.get_secret_value().encode()):
            raise HTTPException(401, "the control token is needed", {"www-authenticate": 'Basic realm="shop"'})
        set_context(user_id=basic.username if basic else "operator")

    return operator
