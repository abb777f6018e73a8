"""Where the payloads of a claim check are kept: a folder, or a bucket of an S3-compatible store."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from pydantic import SecretStr

from ..addresses import is_bare_url
from ..exceptions import ConfigurationError, PayloadUnavailableError
from ..extras import needed

logger = logging.getLogger(__name__)

LONGEST_NAME = 500
"""Characters. S3 allows 1,024 bytes, the prefix included."""
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""An object that a folder does not have, and never will have by this name."""
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*").fullmatch


class ObjectStore(Protocol):
    """Keeps objects by their names: parts of letters, digits, `.`, `_` and `-`, with `/` between them.

    No part begins with a full stop, so no name leads out of a folder. The methods run in the event loop of the
    consumers or in any other, and must not block it.
    """

    async def put(self, name: str, data: bytes) -> None:
        """Returns when the object is safely stored. Raises anything if it is not: publishing is tried again."""
        ...

    async def get(self, name: str, size: int) -> bytes:
        """The object, which has so many bytes; no more need be read to see that it has others.

        Raises:
            FileNotFoundError: the store answers, and has no such object: the message becomes a dead letter.
            Exception: any other: the store is away, and the message waits for it.
        """
        ...


def is_safe(name: str) -> bool:
    """Whether it is a name that stays inside a folder, bucket or prefix, whatever the store makes of it."""
    return len(name) <= LONGEST_NAME and _SAFE(name) is not None


class Folder:
    """A folder that all producers and consumers share, such as a network file system. Nothing in it is ever deleted.

    Objects are written to a temporary file, synced to the disk, and renamed. If the folder does not exist, publishing
    and consuming wait for it.

    Args:
        path: give a folder inside the mounted file system, not where it is mounted: if that is missing, its objects
            are only away, and not lost.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = Path(path)

    async def put(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, name, data)

    async def get(self, name: str, size: int) -> bytes:
        return await asyncio.to_thread(self._get, name, size)

    def _put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._make(path.parent)
        temporary = path.with_name(f".{token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync(path.parent)

    def _get(self, name: str, size: int) -> bytes:
        path = self._path(name)
        try:
            found = stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:  # a file system that fails says nothing about the object
            if error.errno not in _LOST:
                raise
            found = False
        if not found:
            raise FileNotFoundError
        with open(path, "rb") as file:
            return file.read(size + 1)

    def _path(self, name: str) -> Path:
        """Raises `FileNotFoundError` if the name, or a link, leads out of the folder."""
        if not self._root.is_dir():
            raise PayloadUnavailableError(f"the folder of the claim check is not there: {self._root}")
        root = self._root.resolve()
        path = root / name
        if not is_safe(name) or not path.resolve().is_relative_to(root):
            raise FileNotFoundError
        return path

    def _make(self, folder: Path) -> None:
        """Makes the folder, and those above it up to the root, and syncs what holds them."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Makes sure that the names in a folder survive a power failure."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class S3:
    """A bucket of Amazon S3, or of a store that speaks its protocol (MinIO, Ceph, R2). Needs the extra `s3`.

    Args:
        bucket: it must exist.
        prefix: of all object names, such as `"orders/"`: nothing outside of it is read or written.
        endpoint: the URL of another store than Amazon's; `http://` only in trusted networks.
        region: None: that of `AWS_REGION`, or `us-east-1`.
        access_key_id: with `secret_access_key`, and `session_token` if there is one. None: the usual environment
            variables (`AWS_ACCESS_KEY_ID`, ...), web identity, container or instance credentials.
        timeout: seconds that one request may take.
        root_certificate: PEM of a private certificate authority.

    The credentials need `s3:PutObject` to publish, `s3:GetObject` and `s3:ListBucket` to consume: without the latter S3
    answers 403 for an object that is lost, and its message waits for the right to read it.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: SecretStr | str | None = None,
        secret_access_key: SecretStr | None = None,
        session_token: SecretStr | None = None,
        timeout: float = 30,
        root_certificate: str | None = None,
    ) -> None:
        stores = needed("obstore.store", extra="s3", what="a claim check in S3")
        errors = needed("obstore.exceptions", extra="s3", what="a claim check in S3")
        self._refusals = (errors.PermissionDeniedError, errors.UnauthenticatedError)
        self._bucket = bucket
        if prefix and not is_safe(prefix.strip("/")):
            raise ConfigurationError(
                f"S3: the prefix {prefix!r} has other characters than letters, digits, . _ - and /"
            )
        if endpoint is not None and not is_bare_url(endpoint):
            raise ConfigurationError("S3: the endpoint is a URL without credentials and query: https://host:port")
        if (access_key_id is None) != (secret_access_key is None):
            raise ConfigurationError("S3: access_key_id and secret_access_key belong together")
        options = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": _shown(access_key_id),
            "secret_access_key": _shown(secret_access_key),
            "session_token": _shown(session_token),
        }
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=timeout),
            "connect_timeout": timedelta(seconds=min(timeout, 5)),
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
        }
        if root_certificate is not None:
            client["root_certificate"] = root_certificate
        try:
            self._store = stores.S3Store(
                bucket,
                prefix=prefix or None,
                client_options=client,
                retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=timeout)},  # messages wait anyway
                **{name: value for name, value in options.items() if value is not None},
            )
        except Exception as error:
            raise ConfigurationError(f"S3: the options of bucket {bucket} are wrong: {type(error).__name__}") from None

    async def put(self, name: str, data: bytes) -> None:
        with self._errors():  # in one request: no part of an object is ever left behind
            await self._store.put_async(_checked(name), data, use_multipart=False)

    async def get(self, name: str, size: int) -> bytes:
        with self._errors():
            try:
                found = await self._store.get_async(_checked(name))
            except FileNotFoundError:
                await self._expect_bucket(name)
            else:
                if found.meta["size"] != size:
                    return b""  # what is too large is not loaded
                return bytes(await found.bytes_async())
        raise FileNotFoundError

    async def _expect_bucket(self, name: str) -> None:
        """Raises if it was not the object that is missing, but the bucket, or if what answers is no S3."""
        try:
            await self._store.list_with_delimiter_async(name)
        except self._refusals:
            raise
        except Exception as error:
            raise FileNotFoundError from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            reason = "does not exist"
        except self._refusals as error:
            reason = f"refuses the credentials ({type(error).__name__})"
        except Exception as error:
            logger.debug("S3", exc_info=error)
            reason = f"does not answer ({type(error).__name__})"
        else:
            return
        raise PayloadUnavailableError(f"the bucket {self._bucket} of the claim check {reason}")


def _checked(name: str) -> str:
    if not is_safe(name):
        raise ValueError("the name is not safe")
    return name


def _shown(value: SecretStr | str | None) -> str | None:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
