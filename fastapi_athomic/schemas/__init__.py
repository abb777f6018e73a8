"""Serializers whose messages follow schemas in a registry: Avro, Protobuf and JSON Schema.

Takes values, and schemas from a registry that speaks Confluent's REST API; gives bytes in one of Confluent's two wire
formats, and reads both. Libraries are extras, imported when a serializer is made.

Words:
    subject  the name under which a registry keeps the versions of one schema
    framing  where a message says its schema's id: in front of the bytes, or in a header
    backend  a registry itself, behind what is kept of its answers
"""
