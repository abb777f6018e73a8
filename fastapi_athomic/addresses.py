"""The addresses of broker, state store and schema registry: what is wrong with one, and how it may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

SCHEMES = ("memory", "kafka")
"""The schemes of `broker_url`. The docstring of `transports.base` lists all places that a new one concerns."""
STORE_SCHEMES = ("memory://", "redis://", "rediss://", "unix://")
"""How `state_store_url` may begin. A new one also needs a case in `stores.schemes: create_store`."""
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
"""Of Kafka's listeners. Java's clients and brokers write them like the scheme of a URL."""
_USUAL_PORTS = {"http": 80, "https": 443}
_BROKERS = "must be memory://, memory://name or kafka://host:port[,host:port]"
_CREDENTIALS = "credentials do not belong in the URL: set kafka.sasl_username and kafka.sasl_password"
_SERVER = re.compile(r"[^\s:@/]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}")


def checked_broker_url(url: str) -> str:
    """The URL without spaces.

    Raises:
        ValueError: says what is wrong with it, and shows nothing that may be a secret.
    """
    url = "".join(url.split())
    scheme, separator, address = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(_BROKERS + _broker_hint(scheme, separator, address))
    if scheme == "kafka":
        if "@" in address:
            raise ValueError(_CREDENTIALS)
        for server in address.rstrip("/").split(","):
            _check_server(server)
    return url


def _broker_hint(scheme: str, separator: str, address: str) -> str:
    if separator and f"{scheme}://" in STORE_SCHEMES:
        return f"; {scheme}:// is the address of a state store: that is state_store_url"
    if separator and scheme.upper() in PROTOCOLS:
        return f"; kafka.security_protocol says {scheme.upper()}, the URL begins with kafka:// in any case"
    servers = address if separator else scheme
    if all(_SERVER.fullmatch(server) for server in servers.split(",")) and scheme not in ("http", "https"):
        return f": did you mean kafka://{servers}?"
    return ""


def _check_server(server: str) -> None:
    if not server:
        raise ValueError("kafka:// needs host:port; separate several by commas")
    if not _SERVER.fullmatch(server):
        raise ValueError("each Kafka server must be host:port; separate several by commas")
    if not 0 < int(server.rpartition(":")[2]) < 65536:
        raise ValueError("each Kafka server must be host:port, and a port is from 1 to 65535")


def checked_store_url(url: str) -> str:
    """The URL without spaces around it.

    Raises:
        ValueError: says what is wrong with it, and shows nothing of it.
    """
    url = url.strip()
    if not url.startswith(STORE_SCHEMES):
        hint = "; kafka:// is a broker: that is broker_url" if url.startswith("kafka:") else ""
        raise ValueError(f"must begin with one of {', '.join(STORE_SCHEMES)}{hint}")
    if url.startswith(("redis://", "rediss://")):
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        database = parts.path.strip("/")
        if port == -1 or (database and not database.isdigit()) or parts.fragment:
            raise ValueError(
                "must be redis://[user:password@]host:port/number; in a password write / as %2F, # as %23, ? as %3F"
            )
    return url


def shown_store_url(url: str) -> str:
    """The URL without credentials, and without the path of a socket on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "unix:// (a socket)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def checked_registry_url(url: str) -> str:
    """The URL of a schema registry, or several with commas between them, without spaces and slashes at the end.

    Raises:
        ValueError: says what is wrong with it, and shows nothing that may be a secret.
    """
    url = "".join(url.split())
    if url.startswith("memory://"):
        return url
    return ",".join(_checked_web_address(each) for each in url.split(","))


def _checked_web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError("must be memory://, memory://name or http(s)://host:port[/path]; separate several by commas")
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong in the URL of a schema registry: set username and password")
    if parts.query or parts.fragment:
        raise ValueError("the URL of a schema registry has no query and no fragment")
    return url.rstrip("/")


def is_bare_url(url: str) -> bool:
    """Whether it has a server, and neither credentials nor a query or fragment, where others put secrets."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc and not parts.query and not parts.fragment
    except ValueError:
        return False


def checked_origin(origin: str) -> str:
    """An origin as browsers write it: lower case, without a path and without the usual port.

    Raises:
        ValueError: says what an origin is.
    """
    parts = urlsplit(origin.strip())
    try:
        usual = parts.port == _USUAL_PORTS.get(parts.scheme)
    except ValueError:
        usual = False
    if parts.scheme not in _USUAL_PORTS or not parts.hostname or parts.path or parts.query or "@" in parts.netloc:
        raise ValueError("each origin must be http:// or https:// and a host, and a port if it is not the usual one")
    return f"{parts.scheme}://{parts.netloc.removesuffix(f':{parts.port}') if usual else parts.netloc}".lower()
