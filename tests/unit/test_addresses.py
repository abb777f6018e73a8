from __future__ import annotations

import pytest

from fastapi_athomic.addresses import checked_broker_url, checked_store_url, shown_store_url


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("memory://", "memory://"),
        ("memory://shop", "memory://shop"),
        ("kafka://a:9092", "kafka://a:9092"),
        ("kafka://a:9092/", "kafka://a:9092/"),
        (" kafka://a:9092, b:9092\n", "kafka://a:9092,b:9092"),
        ("kafka://[::1]:9092,[fe80::1]:9093", "kafka://[::1]:9092,[fe80::1]:9093"),
    ],
)
def test_brokers(url: str, checked: str) -> None:
    assert checked_broker_url(url) == checked


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must be memory://, memory://name or kafka://host:port"),
        ("localhost:9092", r"did you mean kafka://localhost:9092\?"),
        ("a:9092,b:9092", r"did you mean kafka://a:9092,b:9092\?"),
        ("kafak://a:9092", r"did you mean kafka://a:9092\?"),
        ("redis://a:6379", "redis:// is the address of a state store: that is state_store_url"),
        ("SASL_SSL://a:9092", "kafka.security_protocol says SASL_SSL, the URL begins with kafka:// in any case"),
        ("http://a:9092", r"kafka://host:port\[,host:port\]$"),
        ("kafka:a:9092", "must be memory://"),
        ("kafka://", "kafka:// needs host:port"),
        ("kafka://a:9092,,b:9092", "kafka:// needs host:port"),
        ("kafka://a", "must be host:port; separate several by commas"),
        ("kafka://a:9092/topic", "must be host:port"),
        ("kafka://a:9092;b:9092", "must be host:port"),
        ("kafka://a:0", "a port is from 1 to 65535"),
        ("kafka://a:99999", "a port is from 1 to 65535"),
        ("kafka://ann:s3cret@a:9092", "credentials do not belong in the URL"),
        ("ann:s3cret@a:9092", r"kafka://host:port\[,host:port\]$"),
    ],
)
def test_wrong_brokers(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        checked_broker_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("redis://a:6379/0", "redis://a:6379/0"),
        ("rediss://ann:s3cret@a:6379/1?ssl_cert_reqs=none&password=s3cret", "rediss://a:6379/1"),
        ("redis://:s3cret%40@a", "redis://a"),
        ("unix://ann:s3cret@/run/redis.sock?db=1", "unix:// (a socket)"),
    ],
)
def test_stores_are_shown_without_credentials(url: str, shown: str) -> None:
    assert checked_store_url(f" {url}\n") == url
    assert shown_store_url(url) == shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("a:6379", "must begin with one of memory://, redis://"),
        ("kafka://a:9092", "kafka:// is a broker: that is broker_url"),
        ("redis://a:port", "host:port/number"),
        ("redis://a:6379/shop", "host:port/number"),
        ("redis://ann:s3#cret@a:6379/0", "in a password write / as %2F, # as %23"),
        ("redis://ann:12#cret@a:6379/0", "in a password write / as %2F, # as %23"),
        ("redis://ann:s3/cret@a:6379/0", "in a password write / as %2F, # as %23"),
    ],
)
def test_wrong_stores(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        checked_store_url(url)
    assert "cret" not in str(caught.value)
