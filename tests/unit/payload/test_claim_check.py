from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer
from pydantic import BaseModel, SecretStr

from fastapi_athomic import (
    ConfigurationError,
    PayloadDecodeError,
    PayloadEncodeError,
    PayloadPipeline,
    PayloadUnavailableError,
)
from fastapi_athomic.payload.claim_check import MAGIC, S3, ClaimCheck, Folder, ObjectStore, Reference, new_name
from fastapi_athomic.payload.object_stores import is_safe
from fastapi_athomic.payload.steps import Later, Outgoing
from tests.support.payloads import arrived
from tests.support.payloads import message as received

LARGE = bytes(range(256)) * 20_000  # 5 MB


class Order(BaseModel):
    number: int
    note: str = ""


class Shelf:
    """An object store in memory, which fails with `error` if it is set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.gets = 0

    async def put(self, name: str, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.objects[name] = data

    async def get(self, name: str, size: int) -> bytes:
        self.gets += 1
        if self.error is not None:
            raise self.error
        if name not in self.objects:
            raise FileNotFoundError
        return self.objects[name]


async def awaited(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


async def written(step: ClaimCheck, message: Any, topic: str = "orders") -> Any:
    sent = Outgoing(topic)
    return arrived(await awaited(PayloadPipeline([step]).write(message, sent)), sent)


async def read(step: ClaimCheck, message: Any, target: Any = bytes) -> Any:
    return await awaited(PayloadPipeline([step]).decoder(target)(message))


async def refusal(step: ClaimCheck, message: Any) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        await read(step, message)
    assert caught.value.step == "claim-check"
    return str(caught.value)


# --- the stores


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(endpoint: str) -> Any:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def s3(endpoint: str, bucket: str = "payloads", **options: Any) -> S3:
    return S3(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="key",
        secret_access_key=SecretStr("secret"),
        timeout=5,
        **options,
    )


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return Folder(tmp_path)
    endpoint = request.getfixturevalue("s3_server")
    client(endpoint).create_bucket(Bucket="payloads")
    return s3(endpoint, prefix="shop/orders")


async def test_what_is_large_goes_through_the_store_and_what_is_small_through_the_message(store: ObjectStore) -> None:
    step = ClaimCheck(store, threshold=100)
    large, small = await written(step, LARGE), await written(step, b"small")
    assert len(large.value) < 200
    assert dict(small.headers)["content-encoding"] == b"identity"
    assert (large.headers, small.value) == (
        (("content-encoding", b"claim-check"), ("content-type", b"application/json")),
        b"small",
    )
    assert await read(step, large) == LARGE
    assert await read(step, small) == b"small"
    assert await read(step, large) == LARGE, "reading takes nothing away"


async def test_the_reference_has_the_documented_form(store: ObjectStore) -> None:
    message = await written(ClaimCheck(store, threshold=0), b"data", "shop.orders")
    assert message.value[:8] == b"\xc1claim\x01\n"
    assert int.from_bytes(message.value[8:16], "big") == 4
    assert message.value[16:48] == sha256(b"data").digest()
    assert re.fullmatch(r"shop\.orders/\d{4}-\d\d-\d\d/[0-9a-f]{48}", message.value[48:].decode())
    assert await store.get(message.value[48:].decode(), 4) == b"data"


async def test_a_lost_object_is_the_messages_fault(store: ObjectStore) -> None:
    lost = Reference("orders/2026-01-01/abc", 10, bytes(32)).frame()
    words = "step claim-check: the object that the message refers to is not in the store"
    assert await refusal(ClaimCheck(store), received(lost)) == words


async def test_an_object_of_another_size_is_not_loaded_whole(store: ObjectStore) -> None:
    await store.put("a/large", b"1" * 1_000_000)
    assert len(await store.get("a/large", 10)) != 10
    assert len(await store.get("a/large", 10)) <= 11


async def test_stores_serve_several_event_loops(store: ObjectStore) -> None:
    step = ClaimCheck(store, threshold=0)
    message = await written(step, b"data")
    found = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(read(step, message))) for _ in range(3)))
    assert found == [b"data"] * 3


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_folder_has_whole_files_only(tmp_path: Path) -> None:
    await written(ClaimCheck(Folder(tmp_path), threshold=0), b"data")
    assert [file.read_bytes() for file in files(tmp_path)] == [b"data"]


async def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(PayloadUnavailableError, match="the object store does not answer: OSError"):
        await written(ClaimCheck(Folder(tmp_path), threshold=0), b"data")
    assert files(tmp_path) == []


async def test_a_folder_that_is_not_mounted_is_away(tmp_path: Path) -> None:
    step = ClaimCheck(Folder(tmp_path / "missing"), threshold=0)
    with pytest.raises(PayloadUnavailableError, match="the folder of the claim check is not there"):
        await written(step, b"data")
    with pytest.raises(PayloadUnavailableError):
        await read(step, received(Reference("a/b", 1, bytes(32)).frame()))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
async def test_a_folder_that_fails_is_away_and_has_lost_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ClaimCheck(Folder(tmp_path), threshold=0)
    message = await written(step, b"data")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "it fails")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        patch.setattr(Folder, "_path", lambda _, name: tmp_path / name)
        with pytest.raises(PayloadUnavailableError):
            await read(step, message)
    assert await read(step, message) == b"data"


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 200 + "a", "file/x", "folder"])
async def test_a_name_that_no_object_can_have_is_the_messages_fault(name: str, tmp_path: Path) -> None:
    """The message would wait for ever, and with it its partition."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    step = ClaimCheck(Folder(tmp_path), threshold=0)
    with pytest.raises(PayloadDecodeError, match="is not in the store"):
        await read(step, received(Reference(name, 1, bytes(32)).frame()))


async def test_objects_of_s3_lie_below_the_prefix(s3_server: str) -> None:
    client(s3_server).create_bucket(Bucket="other-bucket")
    await s3(s3_server, "other-bucket", prefix="a/b/").put("orders/x", b"data")
    assert [item["Key"] for item in client(s3_server).list_objects_v2(Bucket="other-bucket")["Contents"]] == [
        "a/b/orders/x"
    ]


async def test_a_missing_bucket_is_away(s3_server: str) -> None:
    step = ClaimCheck(s3(s3_server, "no-such-bucket"), threshold=0)
    with pytest.raises(PayloadUnavailableError, match="the bucket no-such-bucket of the claim check does not exist"):
        await written(step, b"data")
    with pytest.raises(PayloadUnavailableError, match="the bucket no-such-bucket of the claim check does not exist"):
        await read(step, received(Reference("a/b", 1, bytes(32)).frame()))


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """A web server that answers everything with one status; gives its URL."""
    servers = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            do_PUT = do_GET  # noqa: N815 - the name that the server looks for

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "refuses the credentials"),
        (401, "refuses the credentials"),
        (500, "does not answer"),
        (404, "does not exist"),
    ],
)
async def test_a_store_that_refuses_or_fails_is_away(answering: Callable[[int], str], status: int, reason: str) -> None:
    step = ClaimCheck(s3(answering(status)), threshold=0)
    with pytest.raises(PayloadUnavailableError, match=reason):
        await written(step, b"data")
    with pytest.raises(PayloadUnavailableError, match=reason):
        await read(step, received(Reference("a/b", 1, bytes(32)).frame()))


async def test_a_store_that_nobody_listens_for_is_away() -> None:
    with pytest.raises(PayloadUnavailableError, match="does not answer"):
        await written(ClaimCheck(s3("http://127.0.0.1:1"), threshold=0), b"data")


# --- references that nobody has written


NAMES = [
    "",
    "/etc/hostname",
    "../outside",
    "a/../../outside",
    "a/./b",
    "a//b",
    "a/",
    ".hidden",
    "a/.hidden",
    "a\\..\\b",
    "a%2f..%2fb",
    "a?b",
    "a b",
    "a\x00b",
    "a\nb",
    "größe",
    "a" * 501,
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_reference_never_leads_out_of_the_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"data")
    (tmp_path / "inside").mkdir()
    frame = Reference(name, 4, sha256(b"data").digest()).frame()
    assert await refusal(ClaimCheck(Folder(tmp_path / "inside")), received(frame)) == (
        "step claim-check: the reference is damaged"
    )
    with pytest.raises(FileNotFoundError):  # the store looks for itself
        await Folder(tmp_path / "inside").get(name, 4)
    assert not is_safe(name)


async def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"data")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    frame = Reference("link", 4, sha256(b"data").digest()).frame()
    assert "is not in the store" in await refusal(ClaimCheck(Folder(tmp_path / "inside")), received(frame))


@pytest.mark.parametrize("topic", ["orders", "shop.orders-v1_x", ".", "..", "../../x", "", "grüße/x", "a" * 300])
def test_names_are_safe_whatever_the_topic_is_called_and_cannot_be_guessed(topic: str) -> None:
    assert is_safe(new_name(topic))
    assert new_name(topic) != new_name(topic)
    assert len(new_name(topic).rpartition("/")[2]) == 48  # 192 random bits


async def test_flipped_and_missing_bytes_are_found() -> None:
    shelf = Shelf()
    step = ClaimCheck(shelf, threshold=0)
    message = await written(step, b"data", "t")
    frame: bytes = message.value
    for number in range(len(MAGIC), len(frame)):
        broken = bytearray(frame)
        broken[number] ^= 1
        await refusal(step, received(bytes(broken), headers=message.headers))
    for length in range(len(MAGIC), len(frame)):
        await refusal(step, received(frame[:length], headers=message.headers))
    name = frame[48:].decode()
    for changed in (b"", b"dat", b"date", b"data "):
        shelf.objects[name] = changed
        assert "is not the one that was stored" in await refusal(step, message)


async def test_what_is_too_large_is_not_fetched_and_not_stored() -> None:
    shelf = Shelf()
    step = ClaimCheck(shelf, threshold=10, max_size=100)
    for size in (101, 2**64 - 1):
        frame = Reference("a/b", size, bytes(32)).frame()
        assert await refusal(step, received(frame)) == "step claim-check: the object has more than 100 bytes (max_size)"
    assert shelf.gets == 0
    with pytest.raises(PayloadEncodeError, match="the payload has 101 bytes, and max_size is 100"):
        await written(step, b"1" * 101)
    assert await read(step, await written(step, b"1" * 100)) == b"1" * 100


async def test_a_payload_that_looks_like_a_reference_is_not_taken_for_one() -> None:
    for step in (ClaimCheck(Shelf(), threshold=1_000), ClaimCheck(Shelf(), threshold=1_000, required=True)):
        for data in (MAGIC, Reference("a/b", 1, bytes(32)).frame()):
            message = await written(step, data)
            assert await read(step, message) == data
            assert await read(step, received(message.value)) == data  # also if the headers got lost


# --- the step


async def test_objects_are_stored_before_the_message_and_a_repeated_attempt_overwrites_its_object() -> None:
    shelf = Shelf()
    shelf.error = OSError("secret")
    later = PayloadPipeline([ClaimCheck(shelf, threshold=0)]).write(b"data", Outgoing("t"))
    assert isinstance(later, Later)
    with pytest.raises(PayloadUnavailableError) as caught:
        await later
    assert str(caught.value) == "the object store does not answer: OSError"
    shelf.error = None
    assert await later == await later
    assert list(shelf.objects.values()) == [b"data"]


async def test_a_store_that_is_away_is_no_fault_of_the_message() -> None:
    shelf = Shelf()
    step = ClaimCheck(shelf, threshold=0)
    message = await written(step, b"data")
    for error in (OSError(), TimeoutError(), ValueError(), PayloadUnavailableError("away")):
        shelf.error = error
        with pytest.raises(PayloadUnavailableError):
            await read(step, message)
    shelf.error = None
    assert await read(step, message) == b"data"


async def test_what_others_have_stored_can_be_read_before_anything_is_stored() -> None:
    shelf = Shelf()
    first = ClaimCheck(shelf, threshold=0, writes=False)
    assert (await written(first, b"data")).value == b"data"
    message = await written(ClaimCheck(shelf, threshold=0), b"data")
    assert await read(first, message) == b"data"
    bare = received(message.value)  # no header says it
    assert await read(first, bare) == b"data"
    assert await read(first, received(b"plain")) == b"plain"


async def test_a_header_cannot_talk_a_required_claim_check_away() -> None:
    shelf = Shelf()
    message = await written(ClaimCheck(shelf, threshold=0), b"data")
    lying = received(message.value, headers=(("content-encoding", b"identity"),))
    assert await read(ClaimCheck(shelf, required=True), lying) == b"data"
    assert await read(ClaimCheck(shelf), lying) == message.value


async def test_tombstones_are_not_stored() -> None:
    shelf = Shelf()
    message = await written(ClaimCheck(shelf, threshold=0), None)
    assert (message.value, shelf.objects) == (None, {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClaimCheck(Shelf(), threshold=-1),
        lambda: ClaimCheck(Shelf(), threshold=2, max_size=1),
        lambda: S3("bucket", prefix="../x"),
        lambda: S3("bucket", access_key_id="key"),
        lambda: S3("bucket", endpoint="https://user:secret@minio:9000"),
        lambda: S3("bucket", endpoint="https://minio:9000/?token=secret"),
        lambda: S3("bucket", secret_access_key=SecretStr("secret")),
    ],
)
def test_wrong_options_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_s3_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(ConfigurationError, match=r"a claim check in S3 needs fastapi-athomic\[s3\]"):
        S3("bucket")


def test_secrets_are_not_shown() -> None:
    made = s3("http://127.0.0.1:1")
    assert "secret" not in repr(made) + repr(vars(made)).replace("secret_access_key", "")


@pytest.mark.parametrize("given", ["/payloads", Path("/payloads"), Folder, None])
def test_what_is_no_store_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a store, Folder\(path\) or S3\(bucket\), and was given"):
        ClaimCheck(given)
