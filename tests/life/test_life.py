"""A short ordinary life: a few events of each kind, always the same. `scripts/life` runs longer ones."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.support.kafka_broker import KafkaBroker
from tests.support.redis_server import RedisServer

from .life import Biography, Chronicle, life, live

pytestmark = pytest.mark.timeout(600)

PLAN = (
    "birth",
    "quiet_beside_an_open_transaction",
    "compressed",
    "topic_grows",
    "topic_vanishes",
    "own_topic_deleted",
    "poison",
    "twin",
    "deploy",
)
SEED = 20


def test_p18_p19_p20_p21_p22_nothing_is_lost_stuck_or_forgotten_in_ordinary_life(
    impatient_kafka: KafkaBroker, mortal_redis: RedisServer, tmp_path: Path
) -> None:
    biography, told = Biography(), Chronicle(print)
    with life(impatient_kafka, tmp_path, "life", told, mortal_redis.url) as world:
        live(world, PLAN, Random(SEED), biography)
        biography.add(world)
    print(biography)  # noqa: T201 - the figures are what the harness is for
    assert [str(finding) for finding in biography.findings] == []
    assert biography.events == dict.fromkeys(PLAN, 1)
