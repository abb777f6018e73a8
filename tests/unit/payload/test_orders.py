"""What makes no sense is refused when a pipeline is made, with one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import ConfigurationError, PayloadPipeline
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import BytesStep, Incoming, Kind, Outgoing
from tests.support.payloads import Words


class Step(BytesStep):
    def __init__(self, name: str, kind: Kind = "other", *, required: bool = True, writes: bool = True) -> None:
        self.name, self.kind, self.required, self.writes = name, kind, required, writes

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return data


class Plain:
    name = "plain"

    def encode(self, data: bytes) -> bytes:
        return data

    def decode(self, data: bytes) -> bytes:
        return data


GZIP, LZ4 = Step("gzip", "compression"), Step("lz4", "compression")
AES, FERNET = Step("aes", "encryption"), Step("fernet", "encryption")
STORE, SUM = Step("store", "storage"), Step("sum")
WORDS = Words()


@pytest.mark.parametrize(
    ("steps", "options", "said"),
    [
        ([GZIP, Json()], {}, "the serializer json must be the first step of its pipeline"),
        ([Words(), Json()], {}, "writes with one serializer, and words and json are two: .* reads="),
        ([AES, GZIP], {}, "aes stands before gzip: what is encrypted cannot be compressed; turn them round"),
        ([AES, SUM, GZIP], {}, "aes stands before gzip"),
        ([STORE, GZIP], {}, "only the reference would be compressed"),
        ([STORE, AES], {}, "the payload lie open in the store"),
        ([STORE, SUM], {}, "store stands before sum, which would get the reference"),
        ([GZIP, LZ4], {}, "gzip and lz4 are both steps for compression: one must have writes=False"),
        ([AES, FERNET], {}, "aes and fernet are both steps for encryption"),
        ([SUM, SUM], {}, "the step sum stands twice"),
        ([SUM, Step("SUM")], {}, "the step sum stands twice"),
        ([Step("my step")], {}, "stands in the header content-encoding.* Step has 'my step'"),
        ([Step("")], {}, "Step has ''"),
        ([Step("new", writes=False)], {}, "is required and not written .*: set required=False, too"),
        ([Plain], {}, r"the class Plain is not a payload step: give an object, Plain\(\)"),
        ([Json], {}, r"give an object, Json\(\)"),
        ([object()], {}, "object is not a payload step: it needs name, encode and decode"),
        (Plain(), {}, r"must be a list, not an object of Plain: PayloadPipeline\(\[...\]\)"),
        ("json", {}, "must be a list, not an object of str"),
        ([WORDS], {"reads": [WORDS]}, "`reads` names words, which the pipeline reads anyway"),
        ([], {"reads": [Json()]}, "`reads` names json, which the pipeline reads anyway"),
        ([], {"reads": [WORDS, WORDS]}, "`reads` names words twice"),
        ([], {"reads": [GZIP]}, "`reads` holds serializers, such as .*, and an object of Step is none"),
        ([], {"reads": [Words]}, "the class Words is none"),
        ([], {"reads": WORDS}, "`reads` must be a list"),
        ([], {"key": GZIP}, "key must be a serializer, .* not an object of Step"),
        ([], {"key": CloudEvents("/shop")}, r"key=CloudEvents\(...\) is for values only: give another"),
        ([], {"key": str}, "key must be a serializer, .* not the class str"),
    ],
)
def test_it_is_refused(steps: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        PayloadPipeline(steps, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        [Json(), SUM, GZIP, AES, STORE],
        [GZIP, SUM, AES],
        [Step("lz4", "compression", required=False, writes=False), GZIP, AES],
        [Step("fernet", "encryption", required=False, writes=False), AES],
        [Plain(), GZIP],
    ],
)
def test_what_makes_sense_is_taken(steps: Any) -> None:
    PayloadPipeline(steps, reads=[WORDS], key=WORDS)
