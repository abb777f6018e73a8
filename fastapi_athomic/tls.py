"""TLS to brokers and schema registries. Certificates are loaded again when they have been renewed on disk."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from .exceptions import ConfigurationError

logger = logging.getLogger(__name__)

FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")

_Stamp = tuple[int, int, int] | None


class TlsFiles(Protocol):
    """The settings of TLS. `KafkaSettings` has them, with comments."""

    @property
    def ssl_cafile(self) -> str | None: ...
    @property
    def ssl_certfile(self) -> str | None: ...
    @property
    def ssl_keyfile(self) -> str | None: ...
    @property
    def ssl_password(self) -> SecretStr | None: ...
    @property
    def ssl_check_hostname(self) -> bool: ...


class RenewedContext(ssl.SSLContext):
    """An SSL context that always has the current certificates of the settings' files.

    It checks the files before each new connection; open connections keep theirs. If the files do not fit together (one
    was written, the other not yet), it keeps the old certificates and logs a warning.

    Args:
        files: the settings.
        prefix: what stands before their names in errors: "kafka.".

    Raises:
        ConfigurationError: a file cannot be read at the start.
    """

    def __new__(cls, files: TlsFiles, prefix: str) -> RenewedContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, files: TlsFiles, prefix: str) -> None:
        self._files = files
        self._prefix = prefix
        self._seen = self._stamps()
        self._current = _load(files, prefix)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """asyncio calls this for each new connection."""
        self._renew()
        return self._current.wrap_bio(*arguments, **options)

    def _renew(self) -> None:
        stamps = self._stamps()  # before the files are read, so that a change in between is seen next time
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._current = _load(self._files, self._prefix)
        except ConfigurationError as error:
            logger.warning("renewed certificates cannot be loaded, new connections use the old ones: %s", error)
        else:
            logger.info("certificates were renewed, new connections use them")

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(getattr(self._files, name)) for name in FILES)


def _stamp(path: str | None) -> _Stamp:
    """Changes when the file is written or replaced. Follows links."""
    try:
        found = Path(path).stat() if path is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found is not None else None


def _load(files: TlsFiles, prefix: str) -> ssl.SSLContext:
    for name in FILES:
        path = getattr(files, name)
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"{prefix}{name}: there is no file {path}")
    if files.ssl_keyfile is not None and files.ssl_certfile is None:
        raise ConfigurationError(f"{prefix}ssl_keyfile needs {prefix}ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=files.ssl_cafile)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"{prefix}ssl_cafile: {files.ssl_cafile} cannot be loaded ({_reason(error)})"
        ) from None
    if files.ssl_certfile is not None:
        # without a password argument OpenSSL would ask for one on the terminal, and the app would hang
        password = files.ssl_password.get_secret_value() if files.ssl_password else ""
        try:
            context.load_cert_chain(files.ssl_certfile, files.ssl_keyfile, password)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = "certificate, key and password must fit together"
            raise ConfigurationError(
                f"{prefix}ssl_certfile: {files.ssl_certfile} cannot be loaded ({_reason(error)}): {reason}"
            ) from None
    context.check_hostname = files.ssl_check_hostname
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__
