"""Why a broker cannot be reached, and which setting to look at: aiokafka's own words seldom say it."""

from __future__ import annotations

import ssl
from asyncio import IncompleteReadError
from socket import gaierror

from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

TLS_ALERT, HTTP = b"\x15\x03", b"HTTP"
"""How an answer begins that comes from a TLS listener (RFC 8446, section 5.1), or from a web server. aiokafka takes
the first four bytes for the length of a response."""
OF_NAMES = ("hostname mismatch", "ip address mismatch")
"""Begin OpenSSL's texts if a certificate is for another host."""


def connection_hint(error: BaseException, security_protocol: str, sasl_mechanism: str) -> str:
    """What a failed attempt to connect means, in the words of `KafkaSettings`. Holds no secret."""
    cause = error.__cause__ or error
    tls, sasl = security_protocol.endswith("SSL"), security_protocol.startswith("SASL")
    if isinstance(error, IllegalSaslStateError):
        plain = "SSL" if tls else "PLAINTEXT"
        return f"the listener wants no SASL: set kafka.security_protocol to {plain}, or use the port of a SASL listener"
    if isinstance(error, SaslAuthenticationFailed):
        return f"the broker refuses kafka.sasl_username or kafka.sasl_password (mechanism {sasl_mechanism})"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"the listener does not offer {sasl_mechanism}: set kafka.sasl_mechanism to one that it offers"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _of_certificate(cause)
    if isinstance(cause, ssl.SSLError):
        return _of_tls(cause)
    if tls and isinstance(cause, ConnectionError | EOFError):
        without = "SASL_PLAINTEXT" if sasl else "PLAINTEXT"
        return (
            "the listener broke off the TLS handshake: there is no broker behind it yet (it starts, or this is a "
            f"proxy), or it speaks no TLS: set kafka.security_protocol to {without}, or use the port of a TLS listener"
        )
    if isinstance(cause, IncompleteReadError):
        return _of_answer(cause, tls=tls, sasl=sasl)
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(cause, gaierror):
        return "this host name cannot be resolved"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return str(error) if isinstance(error, KafkaError) else type(error).__name__


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message.rstrip(".")
    if said.lower().startswith(OF_NAMES):
        return (
            f"the broker's certificate is for another name ({said}): use a name of the certificate in broker_url, and "
            "in the broker's advertised.listeners; kafka.ssl_check_hostname=false gives the check up"
        )
    return (
        f"the broker's certificate is not trusted ({said}): kafka.ssl_cafile must hold the certificate of the "
        "authority that signed it; without it the system's authorities are used"
    )


def _of_tls(error: ssl.SSLError) -> str:
    reason = getattr(error, "reason", None) or type(error).__name__
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return f"the broker does not accept this client's certificate ({reason}): see kafka.ssl_certfile, ssl_keyfile"
    return f"the TLS handshake failed ({reason}): is this the port of a TLS listener?"


def _of_answer(error: IncompleteReadError, *, tls: bool, sasl: bool) -> str:
    began = (error.expected or 0).to_bytes(4, "big", signed=False)
    if began.startswith(TLS_ALERT):
        wanted = "SASL_SSL" if sasl else "SSL"
        return f"the listener speaks TLS: set kafka.security_protocol to {wanted} (and kafka.ssl_cafile)"
    if began == HTTP:
        return "this is a web server, not a Kafka broker"
    if not sasl:
        wanted = "SASL_SSL" if tls else "SASL_PLAINTEXT"
        return (
            "the listener closed the connection at the first request: there is no broker behind it yet (it starts, or "
            f"this is a proxy), or it wants SASL: set kafka.security_protocol to {wanted} then, and "
            "kafka.sasl_mechanism, sasl_username and sasl_password"
        )
    return "the broker closed the connection"
