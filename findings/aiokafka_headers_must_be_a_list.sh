#!/usr/bin/env bash
# aiokafka's `send` takes headers in a tuple as well where it runs in pure Python, and nothing but a list where its C
# extension was built, as in every wheel: TypeError out of `send`. Code that was tested with AIOKAFKA_NO_EXTENSIONS=1, or
# on a platform without a wheel, fails elsewhere.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
cat >"$folder/send.py" <<'PY'
import asyncio

import aiokafka
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from confluent_kafka import Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]


async def main():
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    try:
        await producer.send_and_wait("orders", b"1", headers=(("source", b"shop"),))
        return "sent"
    except TypeError as error:
        return f"TypeError: {error}"
    finally:
        await producer.stop()


print(aiokafka.__version__, DefaultRecordBatchBuilder.__module__, asyncio.run(main()))
PY
with="$("$folder/venv/bin/python" "$folder/send.py")"
without="$(AIOKAFKA_NO_EXTENSIONS=1 "$folder/venv/bin/python" "$folder/send.py")"
echo "headers as a tuple, with the extension:    $with"
echo "headers as a tuple, without the extension: $without"
[[ "$with" == *"TypeError: Expected list, got tuple" && "$without" == *" sent" ]]
