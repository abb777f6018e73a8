"""docs/tutorial.md, typed in from top to bottom: every file, every command, and what the page says they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.walkthrough import ROOT, Walkthrough


@pytest.mark.timeout(300)
def test_it_works_as_typed_in(apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path) -> None:
    Walkthrough(ROOT / "docs" / "tutorial.md", tmp_path, {"localhost:9092": apache_kafka.bootstrap}).run()
