"""The messages of a shop, in Protobuf: with everything that its language has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Any

from pydantic import BaseModel, Field

from fastapi_athomic.schemas.registered import RegisteredSchema, SchemaSource
from tests.support.protoc import generated

COMMON = """
syntax = "proto3";
package athomic.common;

message Address {
  string street = 1;
  string city = 2;
}
"""

SHOP = """
syntax = "proto3";
package athomic.shop;

import "athomic_common.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

enum Status {
  STATUS_UNSPECIFIED = 0;
  STATUS_OPEN = 1;
  STATUS_PAID = 2;
}

message Order {
  string id = 1;
  int64 number = 2;
  Status status = 3;
  google.protobuf.Timestamp placed_at = 4;
  repeated Line lines = 5;
  optional string note = 6;
  map<string, int32> counts = 7;
  oneof payment {
    Card card = 8;
    Cash cash = 9;
  }
  athomic.common.Address address = 10;
}

message Line {
  string sku = 1;
  int32 quantity = 2;
  double price = 3;

  message Discount {
    double percent = 1;
  }

  Discount discount = 4;
}

message Card {
  string reference = 1;
}

message Cash {
  string reference = 1;
}

message Everything {
  double a_double = 1;
  float a_float = 2;
  int32 an_int32 = 3;
  int64 an_int64 = 4;
  uint32 a_uint32 = 5;
  uint64 a_uint64 = 6;
  sint32 a_sint32 = 7;
  sint64 a_sint64 = 8;
  fixed32 a_fixed32 = 9;
  fixed64 a_fixed64 = 10;
  sfixed32 a_sfixed32 = 11;
  sfixed64 a_sfixed64 = 12;
  bool a_bool = 13;
  string a_string = 14;
  bytes some_bytes = 15;
  Status status = 16;
  optional int32 maybe = 17;
  repeated int64 numbers = 18;
  repeated Status statuses = 19;
  map<int32, string> names = 20;
  map<string, Line> lines = 21;
  google.protobuf.Timestamp at = 22;
  google.protobuf.Duration took = 23;
  google.protobuf.Int64Value wrapped = 24;
  google.protobuf.StringValue wrapped_text = 25;
  google.protobuf.Struct struct = 26;
  google.protobuf.Value value = 27;
  google.protobuf.ListValue list = 28;
  google.protobuf.FieldMask mask = 29;
  google.protobuf.Empty empty = 30;
  google.protobuf.Any any = 31;
  Everything inner = 32;
  oneof choice {
    int64 by_number = 33;
    string by_name = 34;
    Card by_card = 35;
  }
  repeated google.protobuf.Timestamp times = 36;
  map<string, google.protobuf.Duration> durations = 37;
  string from = 38;
  optional Status maybe_status = 39;
}

message Other {
  string id = 1;
}
"""

common_pb2 = generated("athomic_common.proto", COMMON)
shop_pb2 = generated("athomic_shop.proto", SHOP)


class Status(Enum):
    OPEN = "open"
    PAID = "paid"


class Numbered(IntEnum):
    UNSPECIFIED = 0
    OPEN = 1
    PAID = 2


class Address(BaseModel):
    street: str
    city: str


class Line(BaseModel):
    sku: str
    quantity: int
    price: float


class Card(BaseModel):
    reference: str


class Cash(BaseModel):
    reference: str


class Order(BaseModel):
    id: str
    number: int
    status: Status | None = None
    placed_at: datetime | None = None
    lines: list[Line] = []
    note: str | None = None
    counts: dict[str, int] = {}
    payment: Card | Cash | None = None
    address: Address | None = None


@dataclass
class OrderLine:
    sku: str
    quantity: int
    price: float


class Everything(BaseModel):
    a_double: float = 0.0
    a_float: float = 0.0
    an_int32: int = 0
    an_int64: int = 0
    a_uint32: int = 0
    a_uint64: int = 0
    a_sint32: int = 0
    a_sint64: int = 0
    a_fixed32: int = 0
    a_fixed64: int = 0
    a_sfixed32: int = 0
    a_sfixed64: int = 0
    a_bool: bool = False
    a_string: str = ""
    some_bytes: bytes = b""
    status: Numbered = Numbered.UNSPECIFIED
    maybe: int | None = None
    numbers: list[int] = []
    statuses: list[Numbered] = []
    names: dict[int, str] = {}
    lines: dict[str, Line] = {}
    at: datetime | None = None
    took: timedelta | None = None
    wrapped: int | None = None
    wrapped_text: str | None = None
    struct: dict[str, Any] | None = None
    value: Any = None
    list_: list[Any] | None = Field(default=None, alias="list")
    mask: list[str] | None = None
    empty: dict[str, Any] | None = None
    any: Any = None
    inner: Everything | None = None
    choice: int | str | Card | None = None
    times: list[datetime] = []
    durations: dict[str, timedelta] = {}
    from_: str = Field(default="", alias="from")
    maybe_status: Numbered | None = None


async def register_shop(registry: SchemaSource, subject: str) -> RegisteredSchema:
    """Registers the shop's schema, as text, with the file that it imports."""
    from fastapi_athomic.schemas.registered import Reference

    common = await registry.register("athomic_common.proto", "PROTOBUF", COMMON)
    reference = Reference("athomic_common.proto", "athomic_common.proto", common.version or 1)
    return await registry.register(subject, "PROTOBUF", SHOP, [reference])
