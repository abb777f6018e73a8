"""Apache Kafka for tests: an address from the environment, or one node run from Kafka's jars, which Maven fetches."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient

from .processes import Process, die_with_parent, free_port

VERSION = os.environ.get("ATHOMIC_TEST_KAFKA_VERSION", "4.3.0")
ADDRESS_VARIABLE = "ATHOMIC_TEST_KAFKA_BOOTSTRAP"
START_SECONDS = 90.0

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{version}</version></dependency></dependencies></project>
"""

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
num.partitions=3
log.cleaner.dedupe.buffer.size=2000000
"""

IMPATIENT = {"connections_max_idle_ms": "5000"}
"""Properties of a broker that closes idle connections after seconds instead of the default ten minutes."""


class KafkaUnavailableError(Exception):
    """Kafka cannot be provided here; the text says why."""


class ExternalKafka:
    """A broker that someone else runs."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.description = f"Apache Kafka at {ADDRESS_VARIABLE}"

    def stop(self) -> None:
        """Does nothing: whoever started it stops it."""


class KafkaBroker:
    """One node of Apache Kafka (KRaft). It can be killed and started again with the same data."""

    def __init__(self, directory: Path, *, heap: str = "400m", **more: str) -> None:
        """`more`: further properties, with `_` for `.`."""
        self._more = "".join(f"{name.replace('_', '.')}={value}\n" for name, value in more.items())
        self._controller = free_port()
        self.description = f"Apache Kafka {VERSION}, started by the tests"
        self.data = directory / "data"
        directory.mkdir(parents=True)
        self._properties = directory / "server.properties"
        self.move()
        java = [_java(), f"-Xmx{heap}", "-XX:+UseSerialGC", "-cp", f"{jars()}/*"]
        _format(java, self._properties)
        self.process = Process([*java, "kafka.Kafka", str(self._properties)], directory / "server.log")

    def move(self) -> None:
        """Gives it another address, from its next start on."""
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        common = PROPERTIES.format(port=self.port, controller=self._controller, data=self.data)
        self._properties.write_text(common + self._more)

    def start(self) -> None:
        self.process.start()
        self.wait()

    async def start_beside(self) -> None:
        """As `start`, but the event loop goes on: an app that runs in it would tell for 30 s that it was blocked."""
        self.process.start()
        await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        """Returns when the broker answers."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        self.process.wait_until(lambda: admin.list_topics(timeout=2), START_SECONDS)

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()


def start_kafka(directory: Path) -> KafkaBroker | ExternalKafka:
    """Raises `KafkaUnavailableError` if there is no address and no way to run one."""
    if address := os.environ.get(ADDRESS_VARIABLE):
        return ExternalKafka(address)
    broker = KafkaBroker(directory)
    broker.start()
    return broker


def jars() -> Path:
    """The broker's jars, fetched once and kept outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-athomic"
    complete = cache / f"kafka-{VERSION}"
    if not complete.is_dir():
        _resolve(cache, complete)
    return complete


def _resolve(cache: Path, complete: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError(f"Kafka needs Maven (mvn) or an address in {ADDRESS_VARIABLE}")
    partial = cache / f"partial-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    pom = partial / "pom.xml"
    pom.write_text(POM.format(version=VERSION))
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={partial / 'jars'}"]
    command = [maven, "-B", "-q", "-f", str(pom), *goal]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise KafkaUnavailableError(f"Maven could not resolve Kafka {VERSION}: {done.stdout[-900:]}")
    if not complete.is_dir():  # otherwise another run was faster
        (partial / "jars").rename(complete)
    shutil.rmtree(partial, ignore_errors=True)


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise KafkaUnavailableError(f"Kafka needs Java 17 or an address in {ADDRESS_VARIABLE}")
    return java


def _format(java: list[str], properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "A")
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=die_with_parent)
    if done.returncode:
        raise KafkaUnavailableError(f"Kafka could not format its storage: {done.stdout[-900:]}")


if __name__ == "__main__":  # before the tests, of which several processes would fetch it
    try:
        jars()
    except KafkaUnavailableError as unavailable:
        sys.exit(str(unavailable))
