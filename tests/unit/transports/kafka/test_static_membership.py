"""Ids of static members; what becomes of two with the same one, tests/integration/test_twins.py tells."""

from __future__ import annotations

from fastapi_athomic import AthomicSettings, KafkaSettings
from fastapi_athomic.transports.base import ConsumerConfig
from fastapi_athomic.transports.kafka.static_membership import group_instance_id

SETTINGS = AthomicSettings(broker_url="kafka://host:9092", kafka=KafkaSettings(group_instance_id="{hostname}-{pid}"))


def config(handler_id: str, topic: str = "t", group_id: str = "g") -> ConsumerConfig:
    return ConsumerConfig(group_id=group_id, client_id="c", topics=(topic,), handler_id=handler_id)


def test_p21_fault_09_handlers_of_one_app_never_share_an_id() -> None:
    """Also where they consume the same topics in the same group."""
    ids = {group_instance_id(SETTINGS, config(name)) for name in ("a", "b")}
    assert len(ids) == 2
    assert None not in ids


def test_fault_09_a_handler_keeps_its_id_when_its_topics_change() -> None:
    assert group_instance_id(SETTINGS, config("a", "t")) == group_instance_id(SETTINGS, config("a", "another"))
    assert group_instance_id(SETTINGS, config("a")) != group_instance_id(SETTINGS, config("a", group_id="another"))
