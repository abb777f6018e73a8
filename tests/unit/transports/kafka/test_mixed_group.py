"""Two assignments as one. What it is for, tests/integration/test_mixed_groups.py tells."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberAssignment

from fastapi_athomic.transports.kafka.mixed_group import together


def test_two_assignments_are_one() -> None:
    sources = ConsumerProtocolMemberAssignment(0, [("t", [0, 2])], b"").encode()
    others = ConsumerProtocolMemberAssignment(0, [("t.retry", [1]), ("t.redrive", [3])], b"").encode()
    both = ConsumerProtocol.ASSIGNMENT.decode(together(sources, others))
    assert both.partitions() == [
        TopicPartition("t", 0),
        TopicPartition("t", 2),
        TopicPartition("t.retry", 1),
        TopicPartition("t.redrive", 3),
    ]
