"""An Apache Kafka that asks who somebody is, and what they may do: SASL and TLS listeners, and an authorizer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from fastapi_athomic import KafkaSettings
from fastapi_athomic.rights import Right

from .certificates import Authority
from .kafka_broker import KafkaBroker
from .processes import free_port

PASSWORD = "pl4nted-s3cret"
JAAS = "org.apache.kafka.common.security"


class SecureKafka(KafkaBroker):
    """Its plain listener is for the tests' administrator, who may do everything."""

    def __init__(self, directory: Path) -> None:
        self._sasl, self._tls, self._users = free_port(), free_port(), count(1)
        authority = Authority()
        parts = directory.parent
        self.cafile = str(authority.write(parts / "ca.pem"))
        self.other_cafile = str(Authority("other").write(parts / "other.pem"))
        authority.issue("broker", parts / "broker.crt", parts / "broker.key")
        keystore = parts / "broker.pem"
        keystore.write_bytes((parts / "broker.key").read_bytes() + (parts / "broker.crt").read_bytes())
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.sasl.plain.sasl.jaas.config": f"{JAAS}.plain.PlainLoginModule required user_ann={PASSWORD};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{JAAS}.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
        }
        super().__init__(directory, heap="300m", **properties)

    def move(self) -> None:
        super().move()
        own = {"PLAINTEXT": self.port, "SASL": self._sasl, "TLS": self._tls}
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in own.items())
        with self._properties.open("a") as properties:  # the last of two equal names counts
            properties.write(f"listeners={listeners},CONTROLLER://127.0.0.1:{self._controller}\n")
            properties.write(f"advertised.listeners={listeners}\n")
            kinds = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL"
            properties.write(f"listener.security.protocol.map={kinds}\n")

    def start(self) -> None:
        super().start()
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    @property
    def sasl(self) -> str:
        """The address of the listener that wants a user name and a password, without TLS."""
        return f"127.0.0.1:{self._sasl}"

    @property
    def tls(self) -> str:
        """The address of the listener that wants TLS, and no user. Its certificate is for 127.0.0.1 only."""
        return f"127.0.0.1:{self._tls}"

    # --- what the administrator does

    def user(self) -> KafkaSettings:
        """A new user without any right, as the settings of an app."""
        name = f"user-{next(self._users)}"
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        change = UserScramCredentialUpsertion(name, info, PASSWORD.encode())
        for done in self.admin.alter_user_scram_credentials([change]).values():
            done.result(30)
        return KafkaSettings(
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="SCRAM-SHA-256",
            sasl_username=name,
            sasl_password=SecretStr(PASSWORD),
            session_timeout=6,
            heartbeat_interval=1,
        )

    def allow(self, user: KafkaSettings, rights: Iterable[Right]) -> None:
        """Gives the user these rights; they hold at once."""
        bindings = [binding for right in rights for binding in _bindings(user, right)]
        for done in self.admin.create_acls(bindings).values():
            done.result(30)

    def take(self, user: KafkaSettings, kind: str, name: str, operation: str) -> None:
        """Takes one right from the user."""
        resource = ResourceType[kind.upper()], name, ResourcePatternType.LITERAL
        what = AclOperation[operation.upper()], AclPermissionType.ALLOW
        filtered = AclBindingFilter(*resource, f"User:{user.sasl_username}", "*", *what)
        for done in self.admin.delete_acls([filtered]).values():
            assert done.result(30), f"the user had no right to {operation} {name}"

    def make(self, *topics: str, partitions: int = 1) -> None:
        """Creates topics."""
        for done in self.admin.create_topics([NewTopic(topic, partitions) for topic in topics]).values():
            done.result(30)

    def write(self, topic: str, text: str) -> None:
        """Writes a message with this text."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        producer.produce(topic, text.encode())
        assert producer.flush(30) == 0

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=30).topics)


def _bindings(user: KafkaSettings, right: Right) -> list[AclBinding]:
    kind = ResourceType["BROKER" if right.resource_type == "Cluster" else right.resource_type.upper()]
    pattern = ResourcePatternType[right.pattern_type.upper()]
    names = {"IdempotentWrite": "IDEMPOTENT_WRITE"}
    return [
        AclBinding(
            kind,
            right.name,
            pattern,
            f"User:{user.sasl_username}",
            "*",
            AclOperation[names.get(operation, operation.upper())],
            AclPermissionType.ALLOW,
        )
        for operation in right.operations
    ]
