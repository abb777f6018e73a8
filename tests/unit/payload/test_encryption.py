"""AES-256-GCM and Fernet: with `cryptography` itself in both directions, damaged, swapped, with keys that change."""

from __future__ import annotations

import threading
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet as TheirFernet
from cryptography.fernet import MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadPipeline
from fastapi_athomic.messages import Headers
from fastapi_athomic.payload import encryption as encryption_module
from fastapi_athomic.payload import keys as keys_module
from fastapi_athomic.payload.encryption import KEY_ADDED, AesGcm, Fernet
from fastapi_athomic.payload.keys import KeyFile
from fastapi_athomic.payload.steps import Incoming, Later, Outgoing
from tests.support.payloads import arrived, message

A, B, C = (bytes([number]) * 31 + bytes([7]) for number in (1, 2, 3))
SECRET = b'{"card": "4111 1111 1111 1111"}'
Step = AesGcm | Fernet
STEPS: dict[str, Callable[..., Step]] = {"aes-gcm": AesGcm, "fernet": Fernet}


def encrypted(step: Step, data: bytes = SECRET, topic: str = "orders", key: bytes | None = b"k") -> bytes:
    found = step.encode(data, Outgoing(topic, key))
    assert isinstance(found, bytes)
    return found


async def decrypted(
    step: Step, data: bytes, topic: str = "orders", key: bytes | None = b"k", headers: Headers = ()
) -> bytes:
    found = step.decode(data, Incoming(topic, key, data, headers))
    return await found if isinstance(found, Later) else found


async def refused(step: Step, data: bytes, **place: Any) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        await decrypted(step, data, **place)
    error = caught.value
    assert error.step == step.name
    assert str(error).startswith(f"step {step.name}: the payload ")
    assert error.__cause__ is None
    assert error.__context__ is None
    return str(error)


# --- with others


async def test_the_frame_is_as_documented() -> None:
    """docs/encryption.md, put together with `cryptography` alone."""
    nonce = bytes(range(12))
    head = b"\xffAG" + b"\x01" + b"\x01" + b"\x07" + b"2026-01" + nonce
    bound = b"\0" + b"\0\x06orders" + b"\0\0\0\x01k"
    frame = head + AESGCM(A).encrypt(nonce, SECRET, head + bound)
    assert await decrypted(AesGcm({"2026-01": A}), frame) == SECRET
    unbound = b"\xffAG\x01\0\x07" + b"2026-01" + nonce
    frame = unbound + AESGCM(A).encrypt(nonce, SECRET, unbound + b"\0\0\x06orders")
    assert await decrypted(AesGcm({"2026-01": A}), frame, key=b"another") == SECRET
    ours = encrypted(AesGcm({"2026-01": A}))
    assert ours[:13] == head[:13]
    assert AESGCM(A).decrypt(ours[13:25], ours[25:], ours[:25] + bound) == SECRET


async def test_fernet_is_that_of_cryptography() -> None:
    keys = [TheirFernet.generate_key() for _ in range(3)]
    theirs, ours = MultiFernet([TheirFernet(key) for key in keys]), Fernet(keys)
    assert await decrypted(ours, theirs.encrypt(SECRET)) == SECRET
    assert theirs.decrypt(encrypted(ours)) == SECRET
    assert TheirFernet(keys[0]).decrypt(encrypted(ours)) == SECRET, "the first key encrypts"
    for key in keys:
        assert await decrypted(ours, TheirFernet(key).encrypt(SECRET)) == SECRET
    one = Fernet(keys[1].decode())
    assert await decrypted(one, TheirFernet(keys[1]).encrypt(SECRET)) == SECRET


async def test_a_token_of_fernet_may_expire() -> None:
    key = TheirFernet.generate_key()
    old = TheirFernet(key).encrypt_at_time(SECRET, 1_600_000_000)
    assert await decrypted(Fernet(key), old) == SECRET
    assert "or it is older than 60 s (ttl)" in await refused(Fernet(key, ttl=60), old)
    assert await decrypted(Fernet(key, ttl=60), TheirFernet(key).encrypt(SECRET)) == SECRET


@pytest.mark.parametrize("name", STEPS)
@given(data=st.binary(max_size=1_000))
async def test_any_bytes_come_back(name: str, data: bytes) -> None:
    step = STEPS[name](A)
    assert await decrypted(step, encrypted(step, data)) == data


# --- what is refused


def damages(data: bytes) -> Iterator[bytes]:
    """A bit flipped at every position, cut off everywhere, something behind it, something else."""
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            yield bytes(damaged)
        yield data[:position]
    yield from (data + b"x", b"", SECRET)


async def test_aes_gcm_refuses_whatever_is_damaged() -> None:
    step = AesGcm({"a": A, "b": B})
    for damaged in damages(encrypted(step)):
        assert "4111" not in await refused(step, damaged)


async def test_fernet_never_gives_something_else_for_what_is_damaged() -> None:
    """Its base64 has bits that mean nothing, and what stands behind its end is ignored."""
    step, accepted = Fernet([A, B]), 0
    for damaged in damages(encrypted(step)):
        try:
            found = await decrypted(step, damaged)
        except PayloadDecodeError:
            continue
        assert found == SECRET
        accepted += 1
    assert accepted < 10


async def test_messages_of_other_topics_and_keys_are_refused() -> None:
    step = AesGcm({"a": A})
    data = encrypted(step)
    assert await refused(step, data, topic="payments") == (
        "step aes-gcm: the payload cannot be decrypted: it was changed, published to another topic than payments, or "
        "with another key"
    )
    for key in (b"other", b"", None):
        await refused(step, data, key=key)
    await refused(step, encrypted(step, key=None), key=b"")
    assert await decrypted(step, encrypted(step, key=None), key=None) == SECRET
    # the border between topic and key is part of what is bound
    await refused(step, encrypted(step, topic="ab", key=b"c"), topic="a", key=b"bc")
    loose = AesGcm({"a": A}, bind_key=False)
    assert await decrypted(step, encrypted(loose), key=b"other") == SECRET
    await refused(step, encrypted(loose), topic="payments")


async def test_a_key_that_a_compacted_topic_has_added_is_not_the_messages() -> None:
    step = AesGcm({"a": A})
    added: Headers = ((KEY_ADDED, b"1"),)
    assert await decrypted(step, encrypted(step, key=None), key=b"id of the letter", headers=added) == SECRET
    await refused(step, encrypted(step, key=b"k"), key=b"other", headers=added)
    await refused(step, encrypted(step, key=None), key=b"other")


async def test_a_fixed_name_stands_for_the_topic() -> None:
    here, there = AesGcm({"a": A}), AesGcm({"a": A}, topic="orders")
    assert await decrypted(there, encrypted(here, topic="orders"), topic="dc1.orders") == SECRET
    assert await decrypted(here, encrypted(there, topic="dc1.orders"), topic="orders") == SECRET
    await refused(here, encrypted(here, topic="orders"), topic="dc1.orders")


async def test_swapped_keys_are_refused() -> None:
    data = encrypted(AesGcm({"a": A}))
    assert "it was changed" in await refused(AesGcm({"a": B}), data)
    said = await refused(AesGcm({"b": B, "c": C}), data)
    assert said == "step aes-gcm: the payload is encrypted with the key a, which is not among the keys: b, c"
    assert "none of the 2 keys fits" in await refused(Fernet([B, C]), encrypted(Fernet(A)))
    assert "the key does not fit" in await refused(Fernet(B), encrypted(Fernet(A)))
    demanded = ", and must be: the step has required=True"
    said = f"step aes-gcm: the payload is not encrypted with AES-GCM{demanded}"
    assert await refused(AesGcm(A), encrypted(Fernet(A))) == said
    assert await refused(Fernet(A), data) == f"step fernet: the payload is not encrypted with Fernet{demanded}"
    said = "step aes-gcm: the payload is not encrypted with AES-GCM"
    assert await refused(AesGcm(A, required=False), encrypted(Fernet(A))) == said


async def test_an_id_that_is_no_text_is_not_shown() -> None:
    data = b"\xffAG\x01\x00\x04\n\x1b[2" + bytes(60)
    assert "with the key of a name that is no text, which" in await refused(AesGcm({"a": A}), data)
    assert "is in version 2 of our frame" in await refused(AesGcm({"a": A}), b"\xffAG\x02" + data[4:])


# --- keys that change


@pytest.mark.parametrize("name", STEPS)
async def test_all_keys_decrypt_and_the_first_encrypts(name: str) -> None:
    old, both, new = STEPS[name]({"a": A}), STEPS[name]({"b": B, "a": A}), STEPS[name]({"b": B})
    assert await decrypted(both, encrypted(old)) == SECRET
    assert await decrypted(new, encrypted(both)) == SECRET
    await refused(old, encrypted(both))


@pytest.mark.parametrize("name", STEPS)
async def test_a_new_key_in_the_file_is_found_by_the_first_message_that_needs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "SOON_SECONDS", 0.01)
    path = tmp_path / "keys"
    path.write_text(f"a:{urlsafe_b64encode(A).decode()}")
    step = STEPS[name](KeyFile(path))
    assert step.waits
    path.write_text(f"b:{urlsafe_b64encode(B).decode()}")
    assert await decrypted(step, encrypted(STEPS[name]({"b": B}))) == SECRET
    assert await decrypted(STEPS[name]({"b": B}), encrypted(step)) == SECRET
    assert await decrypted(step, encrypted(STEPS[name]({"a": A}))) == SECRET, "for some seconds"
    step._ring._look()
    await refused(step, encrypted(STEPS[name]({"a": A})))


async def test_what_no_key_can_help_does_not_have_the_file_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a:{urlsafe_b64encode(A).decode()}")
    for name, step in (("aes-gcm", AesGcm(KeyFile(path))), ("fernet", Fernet(KeyFile(path)))):
        damaged = bytearray(encrypted(step))
        damaged[-1] ^= 1
        for data in (SECRET, *([bytes(damaged)] if name == "aes-gcm" else [])):
            with pytest.raises(PayloadDecodeError):
                step.decode(data, Incoming("orders", b"k", data, ()))


# --- in pipelines


@pytest.mark.parametrize("name", STEPS)
def test_no_header_makes_a_required_step_be_skipped(name: str) -> None:
    read = PayloadPipeline([STEPS[name](A)]).decoder(str)
    for value in (b"identity", b"", b"gzip"):
        with pytest.raises(PayloadDecodeError, match=f"step {name}: the payload is not encrypted"):
            read(message(SECRET, headers=(("content-encoding", value),)))


@pytest.mark.parametrize("name", STEPS)
def test_messages_with_and_without_it_are_read_while_it_is_introduced(name: str) -> None:
    before, first = PayloadPipeline(), PayloadPipeline([STEPS[name](A, required=False, writes=False)])
    second, after = PayloadPipeline([STEPS[name](A, required=False)]), PayloadPipeline([STEPS[name](A)])
    for writer, readers in (
        (before, (first, second)),
        (first, (before, first, second)),
        (second, (first, second, after)),
        (after, (first, second, after)),
    ):
        outgoing = Outgoing("orders", b"k")
        data = writer.write("secret", outgoing)
        assert isinstance(data, bytes)
        assert (data == b"secret") == (writer in (before, first))
        for reader in readers:
            assert reader.decoder(str)(arrived(data, outgoing)) == "secret"


@pytest.mark.parametrize("name", STEPS)
def test_what_it_writes_is_recognized(name: str) -> None:
    step = STEPS[name](A)
    assert step.recognizes(encrypted(step, b""))
    assert not any(map(step.recognizes, (b"", b"{}", b"gAAAA", b'{"token": "gAAAAA"}')))


@pytest.mark.parametrize("name", STEPS)
async def test_large_payloads_are_worked_on_in_a_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, threads = STEPS[name](A, off_loop_above=1_000), list[str]()
    for method in ("_encrypt", "_decrypt"):
        original = getattr(step, method)

        def noted(*given: Any, original: Any = original) -> Any:
            threads.append(threading.current_thread().name)
            return original(*given)

        monkeypatch.setattr(step, method, noted)
    await step.open()
    later = step.encode(bytes(5_000), Outgoing("orders", b"k"))
    assert isinstance(later, Later)
    data = await later
    assert await decrypted(step, data) == bytes(5_000)
    assert len(threads) == 2
    assert all(thread.startswith("athomic-payload") for thread in threads)
    await refused(step, data[:-1])
    await step.close()
    assert not STEPS[name](A, off_loop_above=None).waits


# --- people


@pytest.mark.parametrize("name", STEPS)
async def test_neither_keys_nor_payloads_are_shown(name: str) -> None:
    step = STEPS[name]({"a": A})
    damaged = encrypted(step)[:-1]
    with pytest.raises(PayloadDecodeError) as caught:
        await decrypted(step, damaged)
    shown = "".join(traceback.format_exception(caught.value)) + repr(step) + str(vars(step))
    for secret in (repr(A), urlsafe_b64encode(A).decode(), "4111", "\\x01\\x01\\x01"):
        assert secret not in shown


def test_the_ids_of_keys_are_shown() -> None:
    assert repr(AesGcm({"b": B, "a": A})) == "AesGcm(<keys b, a>, required=True)"
    assert repr(Fernet([A, B], required=False)) == "Fernet(<2 keys>, required=False)"


def test_too_many_messages_with_one_key_are_an_error_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encryption_module, "MESSAGES_OF_ONE_KEY", 3)
    step = AesGcm({"a": A})
    for _ in range(5):
        encrypted(step)
    (record,) = caplog.records
    assert "time for a new one" in record.message


@pytest.mark.parametrize(
    ("step", "given", "said"),
    [
        (AesGcm, {"keys": []}, "AesGcm: there must be at least one key"),
        (Fernet, {"keys": "short"}, "Fernet: the key "),
        (AesGcm, {"keys": A, "topic": ""}, "AesGcm: topic must be"),
        (AesGcm, {"keys": A, "bind_key": 1}, "AesGcm: bind_key must be"),
        (Fernet, {"keys": A, "ttl": 0}, "Fernet: ttl must be"),
        (Fernet, {"keys": A, "required": None}, "Fernet: required must be"),
        (AesGcm, {"keys": A, "off_loop_above": 0}, "AesGcm: off_loop_above must be"),
        (AesGcm, {"keys": KeyFile("/nowhere/keys")}, "AesGcm: /nowhere/keys: it cannot be read: No such file"),
    ],
)
def test_a_wrong_argument_is_a_sentence(step: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        step(**given)
    assert str(caught.value).startswith(said)


def test_nonces_differ() -> None:
    step = AesGcm({"a": A})
    assert len({encrypted(step)[7:19] for _ in range(1_000)}) == 1_000
