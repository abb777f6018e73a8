"""The mock broker inside librdkafka, which speaks the Kafka protocol."""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from pathlib import Path

import confluent_kafka

PRODUCER = 0  # rd_kafka_type_t


class MockCluster:
    """One broker, for as long as the object lives. Topics are created when they are first used.

    It uses librdkafka's C interface (rdkafka_mock.h), because only that can tell groups not to wait three seconds for
    further members.
    """

    description = "librdkafka's mock cluster"

    def __init__(self) -> None:
        library = _librdkafka()
        config = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(config, b"log_level", b"0", None, 0)
        client = library.rd_kafka_new(PRODUCER, config, None, 0)
        cluster = library.rd_kafka_mock_cluster_new(client, 1)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
        self.bootstrap = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        self._end = weakref.finalize(self, _destroy, cluster, client)


def _destroy(cluster: int, client: int) -> None:
    library = _librdkafka()
    library.rd_kafka_mock_cluster_destroy(cluster)
    library.rd_kafka_destroy(client)


@cache
def _librdkafka() -> ctypes.CDLL:
    """The library that comes with confluent_kafka's wheel."""
    package = Path(confluent_kafka.__file__).parent
    places = (package.with_name("confluent_kafka.libs"), package / ".dylibs")  # on Linux, on macOS
    found = [path for place in places for path in place.glob("librdkafka*")]
    if not found:
        raise RuntimeError(
            f"confluent-kafka has no librdkafka of its own in {' or '.join(place.name for place in places)}: install "
            "it from a wheel (pip install --only-binary :all: confluent-kafka)"
        )
    library = ctypes.CDLL(str(found[0]))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    pointers = ctypes.c_void_p
    library.rd_kafka_conf_set.argtypes = [pointers, ctypes.c_char_p, ctypes.c_char_p, pointers, ctypes.c_size_t]
    library.rd_kafka_new.argtypes = [ctypes.c_int, pointers, pointers, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.argtypes = [pointers, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointers]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointers, ctypes.c_int32]
    for name in ("rd_kafka_mock_cluster_destroy", "rd_kafka_destroy"):
        getattr(library, name).argtypes = [pointers]
        getattr(library, name).restype = None
    return library
