"""Reading .proto files, compared with what protoc makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from google.protobuf.descriptor_pool import DescriptorPool

from fastapi_athomic.compatibility import is_repeated
from fastapi_athomic.schemas.protobuf_text import parse_proto
from fastapi_athomic.schemas.protobuf_tokens import ProtoSyntaxError
from tests.support.protoc import GOOGLE, descriptor_set
from tests.support.shop_proto import COMMON, SHOP

PACKAGES = Path(str(confluent_kafka.__file__)).parents[1]

PROTO2 = r"""
// A comment; "with quotes"
syntax = 'proto2';
/* another
   one */ package t.two;
import "google/protobuf/descriptor.proto";
import public "google/protobuf/any.proto";
option java_package = "a" 'b';
extend google.protobuf.FieldOptions {
  optional Opt my_opt2 = 50003;
  optional Opt my_opt = 50001;
  repeated string many = 50002;
}
message Opt { optional int32 a = 1; optional string s = 2; }
message Old {
  option (t.two.message_option) = { a: 1 s: "}" };
  option deprecated = true;
  required int32 id = 1 [default = -0x1F, deprecated=true];
  optional string name = 2 [default = "a\"b\n\x41\101\u00fc", (my_opt) = {a: 1 s: "]"}, (my_opt2).a = 5];
  optional bytes raw = 3 [default = "\x00\xff'a"];
  optional float f = 4 [default = -inf];
  optional double d = 5 [default = 1.5e3];
  optional bool yes = 6 [default = true];
  optional Color color = 7 [default = GREEN];
  repeated int32 packed = 8 [packed = true];
  repeated group Result = 9 { required string url = 10; optional group Inner = 11 { optional int32 x = 1; } }
  oneof pick { string a = 12; group Grp = 13 { optional int32 y = 1; } }
  map<string, t.two.Old> children = 14;
  map<int32, Color> colors_by_id = 15;
  enum Color { option allow_alias = true; RED = 0; GREEN = 1; GRUEN = 1; NEG = -5; reserved 100 to max; reserved "X"; }
  extensions 100 to 199, 500, 1000 to max;
  reserved 20, 30 to 40; reserved "foo", 'bar';
  extend Old { optional int32 ext_in = 120; }
  message Nested {
    optional Old parent = 1; optional .t.two.Old.Color c = 2; optional Nested message = 3; optional string option = 4;
    optional int32 max = 5; optional string optional = 6; optional string reserved = 7; optional string oneof = 8;
    optional string map = 9; optional string extend = 10; optional group Group = 11 {}
  }
  optional int64 oct = 60 [default = 017];
  optional float nan = 61 [default = nan];
  optional double dd = 62 [default = 3];
  optional string with_braces = 63 [default = "{ \\ }"];
  ;
}
extend google.protobuf.MessageOptions { optional Opt message_option = 50001; }
extend Old { optional group Ext = 130 { optional int32 k = 1; } }
service S {
  rpc A (Old) returns (stream Old) { option deprecated = true; }
  rpc B (stream Opt) returns (Opt);
}
"""
PROTO3 = """
syntax = "proto3";
package t.three;
import "two.proto"; import weak "google/protobuf/timestamp.proto";
message message { int32 x = 1; }
message M {
  optional string note = 1; optional int32 _note = 2; int32 X_note = 3;
  .t.three.message field = 4; M.enum e = 5; repeated int32 p = 6; repeated int32 u = 7 [packed = false];
  enum enum { A = 0; B = 1; optional = 2; reserved_ = 3; }
  oneof o { string s = 8; M m = 9; google.protobuf.Timestamp t = 10; M.enum en = 17; }
  optional M rec = 11; string json = 12 [json_name = "jSoN!x"]; string snake_case_9_name = 13; string __x = 14;
  map<bool, google.protobuf.Any> any_map = 15; map<sint64, bytes> _weird__name = 16;
  t.two.Old old = 18; two.Opt opt = 19;
  reserved 100 to max;
}
"""
CPP_FEATURES = "google/protobuf/cpp_features.proto"
"""Comes with newer ones of grpcio-tools."""
CORD = "[pb.cpp] { string_type: CORD }"
EDITION = """
edition = "2023";
package t.four;
import "google/protobuf/cpp_features.proto";
option features.field_presence = IMPLICIT;
option features.enum_type = CLOSED;
option features.repeated_field_encoding = EXPANDED;
message E {
  string implicit = 1;
  string explicit = 2 [features.field_presence = EXPLICIT, default = "x"];
  string req = 3 [features.field_presence = LEGACY_REQUIRED];
  repeated int32 e = 4; repeated int32 p = 5 [features.repeated_field_encoding = PACKED];
  E del = 6 [features.message_encoding = DELIMITED];
  K k = 7 [features.field_presence = EXPLICIT];
  message In { int32 a = 1; map<string, E> m = 2; oneof z { int32 zz = 3; } }
  message Agg {
    int32 a = 1 [features = { field_presence: EXPLICIT }];
    string c = 2 [features = {field_presence: EXPLICIT [pb.cpp] { string_type: CORD } }];
    repeated C cs = 3;
  }
  reserved foo, bar; reserved 50 to max;
}
enum K { option features.enum_type = OPEN; Z = 0; }
enum C { Q = 1; }
"""
NO_SYNTAX = "message M { optional int32 a = 1; required M b = 2; }"


def layout(message: Any) -> Iterator[Any]:
    """All that says how a message is laid out."""
    yield message.full_name, [oneof.name for oneof in message.oneofs], message.GetOptions().map_entry
    yield list(message.extension_ranges)
    for field in (*message.fields, *message.extensions):
        yield (field.name, field.full_name, field.number, field.type, field.json_name)
        yield (is_repeated(field), getattr(field, "is_required", None), field.is_packed, field.has_presence)
        yield (field.has_default_value, repr(field.default_value))
        yield [each and each.full_name for each in (field.message_type, field.enum_type)]
        yield field.containing_oneof and field.containing_oneof.name
    for enum in message.enum_types:
        yield from enum_layout(enum)
    for nested in message.nested_types:
        yield from layout(nested)


def enum_layout(enum: Any) -> Iterator[Any]:
    yield enum.full_name, enum.is_closed, [(value.name, value.number) for value in enum.values]


def file_layout(file: Any) -> Iterator[Any]:
    yield list(file.message_types_by_name)
    for message in file.message_types_by_name.values():
        yield from layout(message)
    for enum in file.enum_types_by_name.values():
        yield from enum_layout(enum)
    yield sorted((each.full_name, each.number, each.type) for each in file.extensions_by_name.values())


def assert_as_protoc_has_it(compiled: Any, texts: dict[str, str]) -> None:
    theirs, ours = DescriptorPool(), DescriptorPool()
    for file in compiled.file:
        theirs.AddSerializedFile(file.SerializeToString())
        parsed = parse_proto(texts[file.name])
        parsed.name = file.name
        ours.AddSerializedFile(parsed.SerializeToString())
        assert list(file_layout(ours.FindFileByName(file.name))) == list(file_layout(theirs.FindFileByName(file.name)))


def google_files() -> dict[str, Path]:
    """All .proto files of protobuf and googleapis-common-protos, with the folder that each is in."""
    return {
        str(path.relative_to(folder)): folder
        for folder in (GOOGLE, PACKAGES)
        for path in folder.glob("google/**/*.proto")
    }


def test_the_files_that_google_ships() -> None:
    files = google_files()
    assert len(files) > 60

    compiled = descriptor_set({}, also=files)

    texts = {name: (folder / name).read_text() for name, folder in files.items()}
    assert_as_protoc_has_it(compiled, texts)


def test_all_that_the_language_has() -> None:
    edition = EDITION
    if CPP_FEATURES not in google_files():
        edition = edition.replace(f'import "{CPP_FEATURES}";', "").replace(CORD, "")
    texts = {"two.proto": PROTO2, "three.proto": PROTO3, "four.proto": edition, "five.proto": NO_SYNTAX}
    compiled = descriptor_set(texts)

    texts |= {name: (GOOGLE / name).read_text() for name in google_files() if (GOOGLE / name).exists()}
    assert_as_protoc_has_it(compiled, texts)


@pytest.mark.parametrize("text", [PROTO2, PROTO3, EDITION, SHOP, COMMON], ids=["2", "3", "edition", "shop", "common"])
def test_a_file_that_ends_too_early_is_refused_or_says_less(text: str) -> None:
    """Never anything but the one error."""
    whole = parse_proto(text)
    for end in range(0, len(text) - 1, 3):
        try:
            assert parse_proto(text[:end]).ByteSize() <= whole.ByteSize()
        except ProtoSyntaxError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "message",
        "message {}",
        "message M { int32 a; }",
        "message M { int32 a = x; }",
        "message M { int32 a = 99999999999; }",
        "message M { int32 a = 1.5; }",
        "message M { int32 a = 1 [default = 1.5]; }",
        "message M { map<string int32> a = 1; }",
        "message M { oneof o { repeated } }",
        "message M { extensions x; }",
        'syntax = "proto4";',
        'edition = "1066";',
        'syntax = "proto3"',
        "import x;",
        'import "\\xff";',
        'import "\\q";',
        'import "\\UFFFFFFFF";',
        'import "a;',
        "option features.field_presence = SOMETIMES;",
        "option features = { field_presence: SOMETIMES };",
        "option features = { field_presence",
        "option x = {",
        "option x = ;",
        "service S { rpc",
        "enum E { A = ; }",
        "enum E { A }",
        "/* no end",
        "\0",
        "message M {" * 200,
    ],
)
def test_what_is_no_proto_file(text: str) -> None:
    with pytest.raises(ProtoSyntaxError):
        parse_proto(text)


def test_the_line_of_an_error_is_told() -> None:
    with pytest.raises(ProtoSyntaxError, match="line 4"):
        parse_proto('syntax = "proto3";\n\nmessage M {\n  int32 = 1;\n}\n')
