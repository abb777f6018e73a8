"""A broker, a service of several processes, those who write messages, and those who watch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import httpx
from aiokafka.errors import KafkaError
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.chaos.harness import ROOT, Worker
from tests.support.kafka_broker import KafkaBroker

from . import timers
from .door import Door
from .handlers import MANY, PARTITIONS, TOPICS, Options, group_of, handlers_of
from .ledger import Ledger
from .letters import read_letters
from .members import ANSWER_SECONDS, Member, Prober
from .offsets import Place, committed
from .writers import Load, Writer, until

BACK_SECONDS = 25.0
"""How soon after an event everything must be handled, healthy and without lag."""
ADMIN_SECONDS = 2.0
SHARED_DLQ = "errors"
EARLIEST, LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]


class World:
    """Everything that one life needs, until `close`. `say` is called with what happens."""

    def __init__(
        self,
        broker: KafkaBroker,
        directory: Path,
        name: str,
        say: Callable[[str], None],
        redis_url: str | None,
        without: Collection[str] = (),
    ) -> None:
        self.broker = broker
        self.door = Door(broker.port)
        self.prefix = name
        self.say = say
        self.options = Options()
        self.dlq_names: set[str] = {""}  # all that `retrying` has had
        self.retry_delays: set[float] = set(self.options.retry_topics)
        self.without = set(without) if redis_url is not None else {*without, "ordered"}
        self.handlers = [handler for handler in TOPICS if handler not in self.without]
        self.directory = directory
        self.flags = directory / "flags"
        self.flags.mkdir(parents=True)
        self.ledger = Ledger(directory / "record", self.handlers)
        self.members: list[Member] = []
        self.many: dict[str, int] = {}  # existing topics that match the pattern, with their partitions
        self.everything: set[str] = set()  # all topics that ever existed, without their prefix
        self.partitions = dict(PARTITIONS)
        self.violence = 0  # how many events may have repeated messages, since the last check
        self.numbers = iter(range(10**9))
        self._admin: AdminClient
        self._admin_used_at = float("-inf")
        self._writers: dict[str, Writer] = {}
        self._lock = threading.Lock()  # the load asks for writers, too
        self._epoch = 0
        self._processes = 0
        self._redis_url = redis_url
        self.prober = Prober(lambda: list(self.members))
        self.load = Load(lambda: self.writer("none"), self._loaded())

    def _loaded(self) -> list[str]:
        return ["main", "main", "main", "tries", "orders", *(["sequence"] if self._redis_url else [])]

    # --- life

    def open(self, members: int = 2) -> None:
        self.door.start()
        for topic, partitions in self.partitions.items():
            self.make_topic(topic, partitions)
        self.appear()
        for number in range(members):
            # one of them with static membership
            self.members.append(self._new_member(f"{self.prefix}-static" if number == 0 else None))
        self.start(self.members)
        self.prober.start()
        self.load.start()

    def close(self) -> None:
        self.load.stop()
        self.prober.stop()
        for member in self.members:
            member.worker.process.thaw()
            member.worker.process.kill()
        self.door.stop()

    def _new_member(self, instance_id: str | None) -> Member:
        self._processes += 1
        environment = self.environment()
        if instance_id is not None:
            environment["ATHOMIC_KAFKA__GROUP_INSTANCE_ID"] = instance_id
        worker = Worker(self._processes, self.directory, environment, "tests.life.service")
        return Member(worker, instance_id)

    def environment(self) -> dict[str, str]:
        environment = timers.SETTINGS | {
            "ATHOMIC_BROKER_URL": f"kafka://{self.door.address}",
            "ATHOMIC_ISOLATION": self.options.isolation,
            "LIFE_PREFIX": self.prefix,
            "LIFE_OPTIONS": self.options.to_json(),
            "LIFE_RECORD": str(self.directory / "record"),
            "LIFE_FLAGS": str(self.flags),
        }
        for number, handler in enumerate(
            self.without & (TOPICS.keys() - {"ordered"} if self._redis_url is None else TOPICS.keys())
        ):
            environment[f"ATHOMIC_TUNING__{number}__HANDLER"] = handler
            environment[f"ATHOMIC_TUNING__{number}__ENABLED"] = "false"
        return environment | ({"ATHOMIC_STATE_STORE_URL": self._redis_url} if self._redis_url else {})

    # --- processes

    def start(self, members: Collection[Member]) -> None:
        for member in members:
            member.grown.clear()
            member.worker.start()
        for member in members:
            member.worker.wait_until_ready()
            member.up = True

    def stop(self, member: Member) -> None:
        member.up = False
        began = time.monotonic()
        member.worker.process.stop()
        seconds = time.monotonic() - began
        assert "killed" not in member.worker.process.ending, f"a stop did not end within {seconds:.0f} s"

    def restart(self, member: Member) -> None:
        self.stop(member)
        self.start([member])

    def stop_all(self) -> None:
        """Stops all processes at once, as a deploy does that never runs old and new side by side."""
        self.load.pause()
        for member in self.members:
            member.up = False
            member.worker.process.signal(signal.SIGTERM)
        for member in self.members:
            self.stop(member)

    def deploy(self, options: Options, *, rolling: bool) -> None:
        """Restarts all processes with other options: one after the other, or all at once."""
        self.options = options
        self.dlq_names.add(options.dlq_name)
        self.retry_delays.update(options.retry_topics)
        if not rolling:
            self.stop_all()
        old, self.members = self.members, []
        for member in old:
            self.stop(member)
            self.members.append(self._new_member(member.instance_id))
            if rolling:
                self.start(self.members[-1:])
        if not rolling:
            self.start(self.members)

    def join_twin(self, of: Member) -> Member:
        """Starts one more process, with the same id."""
        twin = self._new_member(of.instance_id)
        self.members.append(twin)
        twin.worker.start()
        return twin

    def leave(self, member: Member) -> None:
        member.up = False
        member.worker.process.stop()
        self.members.remove(member)

    # --- the broker

    def interrupt(self, seconds: float, *, elsewhere: bool = False) -> None:
        """Stops the broker for so long. `elsewhere`: it comes back at an address to which only the door leads."""
        if elsewhere:
            self._renew_writers()
            self.load.pause()
        self.broker.stop()
        assert not self.broker.process.is_running
        self.violence += 1
        time.sleep(seconds)
        if elsewhere:
            self._writers.clear()
            self.broker.move()
            self._admin_used_at = float("-inf")
            self.door.port = self.broker.port
        self.broker.start()
        self.load.go_on()

    def change_on_disk(self, topic: str, old: bytes, new: bytes) -> None:
        """Replaces bytes in the broker's log files; `old` and `new` must be equally long."""
        changed = 0
        for path in self.broker.data.glob(f"{self.prefix}.{topic}-*/*.log"):
            at = path.read_bytes().find(old)
            if at >= 0:
                with path.open("r+b") as file:
                    file.seek(at)
                    file.write(new)
                changed += 1
        assert changed == 1, f"found {changed} times in the logs of {topic}"

    # --- topics; all names without the prefix

    @property
    def admin(self) -> AdminClient:
        """Renewed after a while, as librdkafka 2.16 may wait forever on an idle connection that the broker closed."""
        now = time.monotonic()
        if now > self._admin_used_at + ADMIN_SECONDS:
            self._admin = AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        self._admin_used_at = now
        return self._admin

    def topics(self) -> set[str]:
        """All topics of this life that exist, with prefix."""
        return {topic for topic in self.admin.list_topics(timeout=10).topics if topic.startswith(self.prefix)}

    def make_topic(self, topic: str, partitions: int) -> None:
        name = f"{self.prefix}.{topic}"
        self.admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
        until(lambda: name in self.topics(), 10, f"{topic} is there")
        if topic in self.everything:
            self._renew_writers()  # librdkafka says "unknown topic" long after it has come back
        self.everything.add(topic)

    def delete_topic(self, topic: str) -> bool:
        """Returns whether there was such a topic. It may be one that the service made."""
        name = f"{self.prefix}.{topic}"
        if name not in self.topics():
            return False
        self.admin.delete_topics([name])[name].result(30)
        until(lambda: name not in self.topics(), 10, f"{topic} is gone")
        return True

    def appear(self) -> str:
        """Makes a topic that matches the pattern; returns its name."""
        topic, partitions = f"{MANY}.{next(self.numbers)}", 2
        self.make_topic(topic, partitions)
        self.many[topic] = partitions
        return topic

    def grow(self, topic: str) -> int:
        """Adds a partition; returns its number."""
        name, partitions = f"{self.prefix}.{topic}", self.partitions[topic]
        self.load.pause()
        self.admin.create_partitions([NewPartitions(name, partitions + 1)])[name].result(30)
        self.partitions[topic] = partitions + 1
        self._renew_writers()  # keys move to other partitions, so they keep no order with what was before
        return partitions

    def _renew_writers(self) -> None:
        """Replaces the writers by others, with other keys."""
        self.load.pause()
        for writer in self._writers.values():
            writer.flush()
        self._writers.clear()
        self._epoch += 1
        self.load.go_on()

    def ends(self, topic: str, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> dict[int, int]:
        """The end offset of each partition. Waits for a topic that was just made, and a broker that just came up."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return self._ends(f"{self.prefix}.{topic}", isolation)
            except KafkaException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _ends(self, name: str, isolation: IsolationLevel) -> dict[int, int]:
        count = len(self.admin.list_topics(name, timeout=10).topics[name].partitions)
        asked = {TopicPartition(name, number): LATEST for number in range(count)}
        found = self.admin.list_offsets(asked, isolation_level=isolation, request_timeout=10)
        return {place.partition: result.result().offset for place, result in found.items()}

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Deletes the records of a topic before these offsets, by partition."""
        name = f"{self.prefix}.{topic}"
        places = [TopicPartition(name, number, offset) for number, offset in before.items()]
        for result in self.admin.delete_records(places).values():
            result.result(30)

    def dlq_of(self, handler: str, topic: str | None = None) -> str:
        """The DLQ topic of a handler, without the prefix."""
        if handler in ("billing", "shipping"):
            return SHARED_DLQ
        if handler == "retrying" and self.options.dlq_name:
            return self.options.dlq_name
        return f"{topic or TOPICS[handler]}.{group_of(self.prefix, handler)}.dlq"

    def own(self, handler: str, kind: str, topic: str | None = None) -> str:
        """A retry or redrive topic, without the prefix."""
        return f"{topic or TOPICS[handler]}.{group_of(self.prefix, handler)}.{kind}"

    def expected_topics(self) -> set[str]:
        """All topics that may exist, those that the service makes included; with prefix."""
        found = {*self.everything, SHARED_DLQ, *(name for name in self.dlq_names if name)}
        kinds = ["dlq", "redrive", *(f"retry.{delay:g}s" for delay in self.retry_delays)]
        for topic in self.everything:
            found |= {self.own(handler, kind, topic) for handler in handlers_of(topic) for kind in kinds}
        return {f"{self.prefix}.{topic}" for topic in found}

    # --- writing, sending back

    def writer(self, codec: str) -> Writer:
        with self._lock:
            name = f"{codec}{self._epoch}"
            if name not in self._writers:
                config = {"compression.type": codec, "linger.ms": 20}
                self._writers[name] = Writer(self.broker.bootstrap, self.prefix, self.ledger, name, **config)
            return self._writers[name]

    def read_letters(self) -> int:
        names = {f"{self.prefix}.{name}" for name in (SHARED_DLQ, *self.dlq_names) if name}
        letters = [topic for topic in self.topics() if topic.endswith(".dlq") or topic in names]
        return read_letters(self.broker.bootstrap, self.prefix, letters, self.ledger)

    def redrive(self, handler: str, source: str | None = None) -> dict[str, int]:
        """Redrives through a route of the running service."""
        member = next(member for member in self.members if member.up)
        query = {"source": f"{self.prefix}.{source}"} if source else {}
        address = f"{member.worker.url}/redrive/{handler}"
        response = httpx.post(address, params=query, timeout=30)
        assert response.is_success, f"redrive of {handler}: {response.text[:300]}"
        report: dict[str, int] = response.json()
        return report

    def redrive_by_command(self, handler: str) -> dict[str, Any]:
        """Redrives by the command line, as an operator would, whether the service runs or not."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = [sys.executable, "-m", "fastapi_athomic", "dlq", "redrive", handler]
        done = subprocess.run(
            [*command, "--app", "tests.life.service:app", "--all", "--yes", "--json"],
            env=inherited | self.environment() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"redrive of {handler}: {done.stderr[-500:]}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    # --- looking

    def statuses(self) -> dict[int, dict[str, Any]]:
        """The status of each consumer by its handler, for each process that is up by its pid."""
        return {
            member.worker.process.pid: {status["id"]: status for status in member.worker.fetch("/consumers")}
            for member in self.members
            if member.up
        }

    def reasons(self) -> list[str]:
        """What keeps consumers from being healthy."""
        return [
            f"{handler} is {status['health']['status']}: "
            + "; ".join(reason["message"] for reason in status["health"]["reasons"])
            for consumers in self.statuses().values()
            for handler, status in consumers.items()
            if status["health"]["status"] != "healthy"
        ]

    def lags(self) -> list[str]:
        """Where consumers themselves report lag."""
        return [
            f"{handler} lags by {place['lag']} in {place['topic']}[{place['partition']}]"
            for consumers in self.statuses().values()
            for handler, status in consumers.items()
            for place in status["assignment"]
            if place["lag"]
        ]

    def lags_outside(self) -> list[str]:
        """Where an autoscaler sees lag: from the committed offset of each group to the end."""
        groups = {handler: group_of(self.prefix, handler) for handler in self.handlers}
        try:
            ends, starts = self._all_offsets(LATEST), self._all_offsets(EARLIEST)
            found = committed(self.broker.bootstrap, groups.values())
        except (KafkaException, KafkaError, FutureTimeoutError) as error:
            return [f"the broker does not tell: {type(error).__name__} {error}".rstrip()]
        return [
            f"{handler} has committed {found[group].get(place)} of {end} in {place[0]}[{place[1]}]"
            for handler, group in groups.items()
            for place, end in ends.items()
            if place[0] in self._sources(handler) and end > starts[place] and found[group].get(place) != end
        ]

    def _sources(self, handler: str) -> set[str]:
        """The topics of a handler, with prefix."""
        topics = self.many if TOPICS[handler] == MANY else [TOPICS[handler]]
        return {f"{self.prefix}.{topic}" for topic in topics}

    def _all_offsets(self, spec: OffsetSpec) -> dict[Place, int]:
        """The first or last offset of each partition of all source topics."""
        counts = {**self.partitions, **self.many}
        asked = [TopicPartition(f"{self.prefix}.{topic}", n) for topic, count in counts.items() for n in range(count)]
        found = self.admin.list_offsets(dict.fromkeys(asked, spec), request_timeout=20)
        return {(place.topic, place.partition): result.result().offset for place, result in found.items()}

    def outputs(self) -> str:
        """The output of all processes, of those that ended too."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("worker-*.log")))
