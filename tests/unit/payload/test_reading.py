"""Steps that a message may lack, that wait, and that go wrong, in both directions."""

from __future__ import annotations

import gzip
import traceback
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadPipeline
from fastapi_athomic.messages import Headers
from fastapi_athomic.payload.encryption import AesGcm
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import BytesStep, Incoming, Later, Outgoing, Received, Serializer, header
from tests.support.payloads import Depot, Sealed, Words, arrived, settled
from tests.support.payloads import message as received

SECRET = "s3cret"


class Order(BaseModel):
    number: int


class Gzip(BytesStep):
    name = "gzip"
    kind = "compression"
    required = False

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return gzip.compress(data) if len(data) > 20 else data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return gzip.decompress(data)

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(b"\x1f\x8b")


async def written(pipeline: PayloadPipeline, value: Any, outgoing: Outgoing) -> bytes | None:
    data = pipeline.write(value, outgoing)
    return await data if isinstance(data, Later) else data


async def there_and_back(pipeline: PayloadPipeline, value: Any, target: Any, headers: Headers = ()) -> Any:
    outgoing = Outgoing("t", b"k", headers)
    return await pipeline.read(arrived(await written(pipeline, value, outgoing), outgoing), target)


@pytest.mark.parametrize(
    "steps", [[], [Json()], [Words()], [Gzip(), Sealed(), Depot()], [Words(), Gzip(), Sealed(), Depot(above=50)]]
)
@pytest.mark.parametrize("number", [1, 10**60])
@pytest.mark.parametrize("headers", [(), (("source", b"shop"),)])
async def test_what_is_written_is_read(steps: list[Any], number: int, headers: Headers) -> None:
    order = Order(number=number)
    assert await there_and_back(PayloadPipeline(steps), order, Order, headers) == order
    assert await there_and_back(PayloadPipeline(steps), None, Order | None, headers) is None


@pytest.mark.parametrize(
    ("steps", "value", "said"),
    [
        ([], 1, {}),
        ([Words()], 1, {"content-type": b"application/x-words"}),
        ([Sealed()], 1, {"content-encoding": b"sealed", "content-type": b"application/json"}),
        ([Gzip(), Sealed()], "x" * 21, {"content-encoding": b"gzip, sealed", "content-type": b"application/json"}),
        ([Gzip(), Sealed()], "x", {"content-encoding": b"sealed", "content-type": b"application/json"}),
        ([Gzip()], "x", {"content-encoding": b"identity", "content-type": b"application/json"}),
        ([Gzip(), Depot(above=30)], "x" * 99, {"content-encoding": b"gzip", "content-type": b"application/json"}),
        ([Depot(above=30)], "x" * 99, {"content-encoding": b"depot", "content-type": b"application/json"}),
        (
            [Sealed(required=False, writes=False)],
            1,
            {"content-encoding": b"identity", "content-type": b"application/json"},
        ),
        ([Sealed()], None, {}),
    ],
)
async def test_headers_say_what_was_done_and_nothing_else(steps: list[Any], value: Any, said: dict[str, bytes]) -> None:
    pipeline = PayloadPipeline(steps)
    for given in ((), (("a", b"b"),)):
        outgoing = Outgoing("t", b"k", given)
        await written(pipeline, value, outgoing)
        assert outgoing.headers[: len(given)] == given
        assert dict(outgoing.headers[len(given) :]) == said


async def test_a_payload_that_looks_compressed_and_was_left_as_it_is_stays_so() -> None:
    small = gzip.compress(b"")[:12]
    assert await there_and_back(PayloadPipeline([Gzip()]), small, bytes) == small


async def test_what_looks_as_if_a_step_made_it_that_is_only_read_stays_so() -> None:
    read_only = Gzip()
    read_only.writes = False
    packed = gzip.compress(b"raw")
    assert await there_and_back(PayloadPipeline([read_only]), packed, bytes) == packed
    sealed = Sealed(required=False, writes=False)
    assert await there_and_back(PayloadPipeline([sealed]), b"sealed, says the text", bytes) == b"sealed, says the text"


@pytest.mark.parametrize(
    ("given", "value", "said"),
    [
        (b"gzip, sealed", "x", b"identity"),
        (b"gzip", "x" * 21, b"gzip, sealed"),
        (b"identity", "x" * 21, b"gzip, sealed"),
        (None, "x" * 21, b"gzip, sealed"),
        (b"br", "x" * 21, b"gzip, sealed"),
        (b"br", b"x" * 21, b"br, gzip, sealed"),
        (b"br, GZIP", b"x", b"br"),
    ],
)
async def test_a_header_of_another_message_does_not_make_this_one_unreadable(
    given: bytes | None, value: str | bytes, said: bytes
) -> None:
    """Somebody passes on a message with all of its headers."""
    seal = len(value) > 20
    pipeline = PayloadPipeline([Gzip(), Sealed(required=False, writes=seal)])
    outgoing = Outgoing("t", b"k", (("content-encoding", given),))
    data = await written(pipeline, value, outgoing)
    assert header(arrived(data, outgoing), "content-encoding") == said
    assert await settled(pipeline.decoder(type(value))(arrived(data, outgoing))) == value


async def test_headers_of_the_caller_come_first() -> None:
    outgoing = Outgoing("t", None, (("content-type", b"mine"),))
    PayloadPipeline([Words()]).write(1, outgoing)
    assert outgoing.headers == (("content-type", b"mine"),)


@pytest.mark.parametrize("said", [b"application/x-words", b"Application/X-Words; a=b"])
def test_headers_of_the_message_that_was_handled_are_not_those_of_the_one_that_is_published(said: bytes) -> None:
    handled = (("a", b"b"), ("content-type", said), ("content-encoding", b"gzip"))
    pipeline = PayloadPipeline([Json(), Gzip()], reads=[Words()])
    outgoing = Outgoing("t", None, handled)
    data = pipeline.write(Order(number=1), outgoing)
    assert isinstance(data, bytes)
    assert outgoing.headers == (("a", b"b"), ("content-encoding", b"identity"), ("content-type", b"application/json"))
    assert pipeline.decoder(Order)(arrived(data, outgoing)) == Order(number=1)
    passed_on = Outgoing("t", None, handled)
    PayloadPipeline([Json()], reads=[Words()]).write(b"as it came", passed_on)
    assert passed_on.headers == handled


@pytest.mark.parametrize(
    ("header", "decoded"),
    [(None, True), (b"sealed", True), (b"GZIP,SEALED", True), (b"identity", False), (b"gzip", False)],
)
def test_a_header_decides_whether_an_optional_step_was_done(header: bytes | None, decoded: bool) -> None:
    sealed = Sealed(required=False)
    value = sealed.encode(b"{}", Outgoing("t"))
    headers: Headers = () if header is None else (("content-encoding", header),)
    read = PayloadPipeline([sealed]).decoder(bytes)(received(value, headers=headers))
    assert (read == b"{}") is decoded


@pytest.mark.parametrize("spelled", ["content-encoding", "Content-Encoding", "CONTENT-ENCODING"])
def test_it_decides_however_it_is_spelled(spelled: str) -> None:
    read = PayloadPipeline([Sealed(required=False)]).decoder(bytes)
    assert read(received(b"sealed, says the text", headers=((spelled, b"identity"),))) == b"sealed, says the text"


@pytest.mark.parametrize("headers", [(), (("content-encoding", b"identity"),), (("content-encoding", None),)])
def test_no_header_makes_a_required_step_be_skipped(headers: Headers) -> None:
    with pytest.raises(PayloadDecodeError, match="step sealed"):
        PayloadPipeline([Sealed()]).decoder(bytes)(received(b"{}", headers=headers))


def test_each_message_is_read_by_the_format_that_it_is_in() -> None:
    pipeline = PayloadPipeline([Words()], reads=[Json()])
    read = pipeline.decoder(Order)
    outgoing = Outgoing("t")
    data = pipeline.write(Order(number=1), outgoing)
    assert isinstance(data, bytes)
    assert read(arrived(data, outgoing)) == Order(number=1)
    assert read(received(b'{"number": 1}')) == Order(number=1)
    assert read(received(b'{"number": 1}', headers=(("content-type", b"application/json; a=b"),))) == Order(number=1)
    with pytest.raises(PayloadDecodeError, match="step words"):
        read(received(b"\0\0\0\0\1", headers=(("content-type", b"application/else"),)))


# --- errors


class Wrong(BytesStep):
    name = "wrong"

    def __init__(self, gives: Any, *, later: bool) -> None:
        self._gives, self.waits = gives, later

    def encode(self, data: bytes, outgoing: Outgoing) -> Any:
        return Later(self._later) if self.waits else self._now()

    decode = encode  # type: ignore[assignment]

    async def _later(self) -> Any:
        return self._now()

    def _now(self) -> Any:
        if isinstance(self._gives, Exception):
            raise self._gives
        return self._gives


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("gives", "said"),
    [(ValueError(SECRET), "ValueError in "), (SECRET, "to bytes, and gave str"), (None, "to bytes, and gave NoneType")],
)
async def test_an_error_of_a_step_names_the_step_and_never_a_value(gives: Any, said: str, later: bool) -> None:
    pipeline = PayloadPipeline([Wrong(gives, later=later)])
    with pytest.raises(PayloadEncodeError, match=f"step wrong .*{said}") as written_error:
        await written(pipeline, SECRET, Outgoing("t"))
    with pytest.raises(PayloadDecodeError, match=f"step wrong .*{said}") as read_error:
        await pipeline.read(received(b"{}"), str)
    for error in (written_error.value, read_error.value):
        assert error.step == "wrong"
        assert SECRET not in "".join(traceback.format_exception(error)).replace(f'"{SECRET}"', "")


@pytest.mark.parametrize("gives", [bytearray(b"x"), memoryview(b"x")])
async def test_other_kinds_of_bytes_are_taken(gives: Any) -> None:
    pipeline = PayloadPipeline([Wrong(gives, later=False), Sealed()])
    assert await there_and_back(pipeline, "y", bytes) == b"x"


class Broken(Serializer):
    name = "broken"

    def __init__(self, *, later: bool) -> None:
        self.waits = later

    def encode(self, message: Any, outgoing: Outgoing) -> Any:
        return Later(self._fail) if self.waits else self._now()

    def decoder(self, target_type: Any, part: Any = "value") -> Any:
        def decode(message: Received) -> Any:
            return Later(self._fail) if self.waits else self._now()

        return decode

    async def _fail(self) -> Any:
        self._now()

    def _now(self) -> None:
        raise LookupError(SECRET)


@pytest.mark.parametrize("later", [False, True])
async def test_an_error_of_a_serializer_names_it_and_never_a_value(later: bool) -> None:
    pipeline = PayloadPipeline([Broken(later=later)], key=Broken(later=later))
    with pytest.raises(PayloadEncodeError, match="step broken could not encode the payload: LookupError in ") as caught:
        await written(pipeline, 1, Outgoing("t"))
    assert SECRET not in str(caught.value)
    with pytest.raises(PayloadDecodeError, match="step broken could not decode the payload: LookupError in ") as found:
        await pipeline.read(received(b"{}"), int)
    assert SECRET not in str(found.value)
    with pytest.raises(PayloadEncodeError, match="the key: step broken could not encode"):
        await pipeline.write_key(1, Outgoing("t", part="key"))  # type: ignore[misc]
    with pytest.raises(PayloadDecodeError, match="the key: step broken could not decode"):
        await pipeline.key_decoder(int)(received(None, key=b"1"))


async def test_a_failed_read_names_encodings_that_the_pipeline_does_not_have() -> None:
    headers = (("content-encoding", b"zstd, s3cret, gzip"),)
    with pytest.raises(PayloadDecodeError, match="names zstd, which the payload pipeline does not have") as caught:
        await PayloadPipeline([Gzip()]).read(received(gzip.compress(b"("), headers=headers), Order)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "value", "said"),
    [
        ([], b"\0\0\0\0\7" + SECRET.encode(), "begins with 0x00, as Avro, Protobuf and JSON Schema"),
        ([], b"\x28\xb5\x2f\xfd" + SECRET.encode(), "begins like zstd, which the payload pipeline does not have"),
        ([Gzip()], b"\xffAG\1" + SECRET.encode(), "begins like aes-gcm, which the payload pipeline does not have"),
        ([MessagePack()], b'{"number": 1, "s3cret": 1}', "; the payload begins like JSON"),
        ([AesGcm(bytes(32))], b'{"number": 1, "s3cret": 1}', "; the payload begins like JSON"),
        ([], b'{"number": "s3cret"}', ""),
        ([], b"s3cret", ""),
        ([Gzip()], b"\x1f\x8bs3cret", ""),
    ],
)
async def test_a_failed_read_says_if_the_message_looks_as_if_another_pipeline_had_written_it(
    steps: list[Any], value: bytes, said: str
) -> None:
    with pytest.raises(PayloadDecodeError) as caught:
        await PayloadPipeline(steps).read(received(value), Order)
    assert SECRET not in str(caught.value)
    if said:
        assert said in str(caught.value)
    else:
        assert "begins" not in str(caught.value)


class Unfit(Serializer):
    """Sees with the first message that an option does not fit."""

    name = "unfit"

    def __init__(self, later: bool) -> None:
        self.waits = later

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | Later[bytes | None] | None:
        return Later(self._later) if self.waits else self._at_once()

    def decoder(self, target_type: Any, part: str = "value") -> Any:
        return lambda message: Later(self._later) if self.waits else self._at_once()

    def _at_once(self) -> bytes:
        raise ConfigurationError("use framing='prefix'")

    async def _later(self) -> bytes:
        return self._at_once()


@pytest.mark.parametrize("later", [False, True])
async def test_what_is_wrong_with_an_option_is_said_with_the_first_message(later: bool) -> None:
    pipeline = PayloadPipeline([Unfit(later)])
    with pytest.raises(ConfigurationError, match="use framing='prefix'"):
        await written(pipeline, 1, Outgoing("t"))
    with pytest.raises(PayloadDecodeError, match="step unfit could not decode the payload: use framing='prefix'"):
        await pipeline.read(received(b"{}"), int)


# --- waiting


async def test_a_pipeline_that_waits_says_so_where_nobody_can_wait() -> None:
    pipeline = PayloadPipeline([Depot()])
    assert pipeline.waits
    with pytest.raises(ConfigurationError, match="waits for something"):
        pipeline.encode(1)
    assert not PayloadPipeline([Words(), Sealed()]).waits


async def test_what_waits_can_be_tried_again() -> None:
    depot = Depot()
    pipeline = PayloadPipeline([Words(), Sealed(), depot])
    outgoing = Outgoing("t", b"k")
    depot.away = True
    writing = pipeline.write(1, outgoing)
    assert isinstance(writing, Later)
    with pytest.raises(Exception, match="the depot is away"):
        await writing
    depot.away = False
    data = await writing
    reading = pipeline.decoder(int)(arrived(data, outgoing))
    depot.away = True
    with pytest.raises(Exception, match="the depot is away"):
        await reading
    depot.away = False
    assert await reading == 1
    assert await reading == 1
    assert [name for name, _ in outgoing.headers] == ["content-encoding", "content-type"]


class AsyncStep:
    """As a user writes one."""

    name = "async"

    async def encode(self, data: bytes) -> bytes:
        return data[::-1]

    async def decode(self, data: bytes) -> bytes:
        return data[::-1]


async def test_a_users_step_may_be_async() -> None:
    assert await there_and_back(PayloadPipeline([AsyncStep()]), {"a": 1}, dict) == {"a": 1}


class Odd(BytesStep):
    """Raises an error wherever it can."""

    name = "odd"

    def __init__(self, error: BaseException, where: str, *, later: bool) -> None:
        self.error, self.where, self.waits = error, where, later
        self.required = self.writes = where != "recognizes"

    def encode(self, data: bytes, outgoing: Outgoing) -> Any:
        return self._done("encode", data)

    def decode(self, data: bytes, incoming: Incoming) -> Any:
        return self._done("decode", data)

    def recognizes(self, data: bytes) -> bool:
        raise self.error

    def _done(self, where: str, data: bytes) -> Any:
        if where != self.where:
            return data
        if self.waits:
            return Later(self._raised)
        raise self.error

    async def _raised(self) -> bytes:
        raise self.error


class Panic(BaseException):
    """As extensions in Rust raise it."""


ODD = [ValueError(SECRET), StopIteration(SECRET), Panic(SECRET), SystemExit(SECRET)]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("where", "later"),
    [("encode", False), ("encode", True), ("decode", False), ("decode", True), ("recognizes", False)],
)
async def test_whatever_a_step_raises_is_its_error_without_the_text(
    error: BaseException, where: str, later: bool
) -> None:
    kind = PayloadEncodeError if where == "encode" else PayloadDecodeError

    async def there_and_back_without_headers() -> Any:
        pipeline = PayloadPipeline([Odd(error, where, later=later)])
        data = await written(pipeline, Order(number=1), Outgoing("t"))
        return await settled(pipeline.decoder(Order)(received(data)))

    with pytest.raises(kind, match=rf"^step odd could not {kind.__name__[7:13].lower()} the payload") as caught:
        await there_and_back_without_headers()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("later", [False, True])
async def test_what_a_configuration_error_says_reaches_the_caller(later: bool) -> None:
    error = ConfigurationError("give the registry a URL")
    with pytest.raises(ConfigurationError, match=r"(?m)^give the registry a URL$"):
        await written(PayloadPipeline([Odd(error, "encode", later=later)]), 1, Outgoing("t"))
    with pytest.raises(PayloadDecodeError, match=r"^step odd could not decode the payload: give the registry a URL$"):
        await there_and_back(PayloadPipeline([Odd(error, "decode", later=later)]), 1, int)


@dataclass
class Idle(BytesStep):
    """A step that has no hash, as dataclasses have none."""

    name: str = "idle"
    required: bool = False

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return data


async def test_steps_need_no_hash() -> None:
    outgoing = Outgoing("t")
    assert await written(PayloadPipeline([Idle()]), 1, outgoing) == b"1"
    assert dict(outgoing.headers)["content-encoding"] == b"identity"
