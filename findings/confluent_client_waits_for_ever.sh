#!/usr/bin/env bash
# The schema registry client of confluent-kafka 2.16.1 has no time-out unless it is given one: "timeout" left out becomes
# None, and httpx2 takes None for "wait for ever", while an httpx2 client that is given nothing waits 5 s. With a registry
# that accepts connections and does not answer (behind a firewall, frozen), a deserializer stands still, without a log line.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "confluent-kafka[schemaregistry]==2.16.1" httpx2==2.16.2
"$folder/venv/bin/python" - <<'PY'
import socket
import threading
import time
from importlib.metadata import version

import httpx2
from confluent_kafka.schema_registry import SchemaRegistryClient

listener = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
url = f"http://127.0.0.1:{listener.getsockname()[1]}"


def seconds_until_it_gives_up(ask, limit):
    began, ended = time.monotonic(), threading.Event()

    def run():
        try:
            ask()
        except Exception:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    return round(time.monotonic() - began) if ended.wait(limit) else None


bare = seconds_until_it_gives_up(lambda: httpx2.get(url), 30)
theirs = seconds_until_it_gives_up(lambda: SchemaRegistryClient({"url": url, "max.retries": 0}).get_schema(1), 30)
print("confluent-kafka", version("confluent-kafka"), "httpx2", version("httpx2"))
print("httpx2 gives up after:", bare, "s")
print("the client of confluent-kafka gives up after:", theirs if theirs is not None else "not within 30", "s")
assert bare == 5 and theirs is None, "it behaves otherwise now"
PY
