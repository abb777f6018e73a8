"""What a failed attempt to connect means; tests/integration/test_first_contact.py has what a broker makes of it."""

from __future__ import annotations

import ssl
from asyncio import IncompleteReadError
from socket import gaierror

import pytest
from aiokafka.errors import KafkaConnectionError

from fastapi_athomic.transports.kafka.hints import connection_hint


def broken_off(expected: int) -> KafkaConnectionError:
    error = KafkaConnectionError("closed")
    error.__cause__ = IncompleteReadError(b"", expected)
    return error


@pytest.mark.parametrize(
    ("error", "protocol", "hint"),
    [
        (broken_off(0x15030300), "PLAINTEXT", "the listener speaks TLS: set kafka.security_protocol to SSL "),
        (broken_off(0x15030300), "SASL_PLAINTEXT", "set kafka.security_protocol to SASL_SSL"),
        (broken_off(0x48545450), "PLAINTEXT", "this is a web server, not a Kafka broker"),
        (broken_off(4), "PLAINTEXT", "wants SASL: set kafka.security_protocol to SASL_PLAINTEXT"),
        (broken_off(4), "PLAINTEXT", "no broker behind it yet"),
        (broken_off(4), "SSL", "no broker behind it yet"),
        (broken_off(4), "SASL_PLAINTEXT", "the broker closed the connection"),
        (broken_off(4), "SSL", "speaks no TLS: set kafka.security_protocol to PLAINTEXT"),
        (ConnectionResetError(), "SASL_SSL", "speaks no TLS: set kafka.security_protocol to SASL_PLAINTEXT"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "SSL", "is this the port of a TLS listener?"),
        (ConnectionRefusedError(), "PLAINTEXT", "nothing listens there"),
        (gaierror(), "PLAINTEXT", "cannot be resolved"),
        (TimeoutError(), "PLAINTEXT", "no answer in time"),
        (OSError("card 4111"), "PLAINTEXT", "OSError"),
    ],
)
def test_the_setting_to_look_at_is_named(error: BaseException, protocol: str, hint: str) -> None:
    assert hint in connection_hint(error, protocol, "PLAIN")
    assert "4111" not in connection_hint(error, protocol, "PLAIN")
