#!/usr/bin/env bash
# confluent-kafka 2.16.1 keeps schemas by subject and id, and not by the format that was asked for: after get_schema(1,
# "orders-value"), get_schema(1, "orders-value", fmt="serialized") gives the text of the .proto file and does not ask the
# registry. Its own Protobuf deserializer asks for that format: it reads no message of a schema that somebody has looked
# at with the same client.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "confluent-kafka[protobuf,schemaregistry]==2.16.1" \
    protobuf==7.36.2
"$folder/venv/bin/python" - <<'PY'
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TEXT = 'syntax = "proto3";\npackage shop;\nmessage Order { int32 id = 1; }\n'
file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
file.message_type.add(name="Order").field.add(name="id", number=1, type=5, label=1)
COMPILED = base64.b64encode(file.SerializeToString()).decode()
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Order = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
asked = []


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        text = COMPILED if "format=serialized" in self.path else TEXT
        is_schema = self.path.startswith("/schemas/ids/1")
        answer = {"schemaType": "PROTOBUF", "schema": text} if is_schema else {"error_code": 404, "message": "no"}
        data = json.dumps(answer).encode()
        self.send_response(200 if is_schema else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


server = HTTPServer(("127.0.0.1", 0), Registry)
threading.Thread(target=server.serve_forever, daemon=True).start()


def client():
    return SchemaRegistryClient({"url": f"http://127.0.0.1:{server.server_port}"})


def read(registry):
    deserializer = ProtobufDeserializer(Order, schema_registry_client=registry)
    message = b"\0\0\0\0\1\0" + Order(id=7).SerializeToString()
    try:
        return str(deserializer(message, SerializationContext("orders", MessageField.VALUE))).strip()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}"


fresh = read(client())
asked.clear()
looked_at = client()
first = looked_at.get_schema(1, "orders-value").schema_str
second = looked_at.get_schema(1, "orders-value", fmt="serialized").schema_str
print("confluent-kafka", version("confluent-kafka"))
print("a new client reads:", fresh)
print("asked for the compiled schema after its text, it gives:", second.splitlines()[0])
print("the registry was asked for:", asked)
after = read(looked_at)
print("and then reads:", after)
assert fresh == "id: 7" and first == second == TEXT and "Error" in after, "it behaves otherwise now"
PY
