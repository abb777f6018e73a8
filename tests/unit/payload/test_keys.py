"""Keys: from text, bytes and files, exchanged while they are used, and never shown."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from fastapi_athomic import ConfigurationError
from fastapi_athomic.payload import keys as keys_module
from fastapi_athomic.payload.keys import PATIENCE, Key, KeyFile, KeyRing, keys_of
from fastapi_athomic.payload.off_loop import threads
from tests.support.clock import set_clock

A, B = (bytes([number]) * 31 + bytes([7]) for number in (1, 2))


def text(key: bytes) -> str:
    return b64encode(key).decode()


def ids(keys: Sequence[Key]) -> str:
    return " ".join(key.id for key in keys)


def in_place(path: Path, content: str) -> None:
    """As Kubernetes exchanges a mounted secret: a link to a folder is replaced."""
    number = len(list(path.parent.iterdir()))
    folder = path.parent / f"version-{number}"
    folder.mkdir()
    (folder / "keys").write_text(content)
    link = path.parent / f"link-{number}"
    link.symlink_to(folder.name)
    os.replace(link, path.parent / "current")
    if not path.is_symlink():
        path.symlink_to("current/keys")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.mark.parametrize(
    "given",
    [
        {"a": A, "b": text(B)},
        {"a": SecretStr(text(A)), "b": urlsafe_b64encode(B).decode().rstrip("=")},
        [f"a:{text(A)}", SecretStr(f"b:{text(B)}")],
        SecretStr(f"a:{text(A)}\nb: {text(B)}"),
        f"# keys\n\na:{text(A)}\n b:{text(B)} \n",
        json.dumps({"a": text(A), "b": text(B)}),
        json.dumps([f"a:{text(A)}", f"b:{text(B)}"]).encode(),
    ],
)
def test_keys_are_read_from_all_that_may_hold_them(given: Any) -> None:
    assert [(key.id, key.secret) for key in keys_of(given)] == [("a", A), ("b", B)]


@pytest.mark.parametrize("given", [A, text(A), SecretStr(text(A)), text(A).encode(), [A]])
def test_a_key_without_an_id_gets_one_of_its_own(given: Any) -> None:
    (key,) = keys_of(given)
    assert key.secret == A
    assert (key.id,) != (keys_of(B)[0].id,)
    assert key.id == keys_of(A)[0].id
    assert len(key.id) == 8


def test_keys_of_fernet_are_read() -> None:
    (key,) = keys_of(made := Fernet.generate_key())
    assert urlsafe_b64encode(key.secret) == made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "there must be at least one key"),
        ({}, "there must be at least one key"),
        ("", "there is no key in it"),
        ("# nothing", "there must be at least one key"),
        ({"a": A[:16]}, "key 1 has 16 bytes, it must have 32"),
        ([text(A), text(B[:24])], "key 2 has 24 bytes, it must have 32"),
        ("not base64!", "the key is no base64"),
        ("/run/secrets/keys", "the key is no base64; if it is in a file: KeyFile(path)"),
        ({"a": A, "b": A}, "the keys a and b are the same"),
        ([f"a:{text(A)}", f"a:{text(B)}"], "the key id a stands there twice"),
        (f'{{"a": "{text(A)}", "a": "{text(B)}"}}', "the key id a stands there twice"),
        ({text(A): "2026"}, "the id of a key must be"),
        ({"a b": A}, "the id of a key must be"),
        ({"a": 7}, "key 1 must be text or bytes, not int"),
        (7, "keys must be text, bytes, a list, a mapping or a KeyFile, not int"),
        ('{"a": ', "it begins like JSON and is none"),
        (b"\xff" * 50, "key"),
    ],
)
def test_what_is_no_key_is_a_sentence(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{text(A)[:43]: "2026"}, f"{text(A)}:2026", {"a": text(A)[:-4]}, f"x {text(A)}"])
def test_errors_never_show_a_key(given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(given)
    error: BaseException | None = caught.value
    assert text(A)[:20] not in str(error)
    assert error is not None
    assert error.__cause__ is None
    assert error.__context__ is None


def test_keys_are_not_shown(path: Path) -> None:
    path.write_text(text(A))
    shown = f"{keys_of({'a': A})} {KeyFile(path)} {KeyRing(KeyFile(path), ids, 'Test')}"
    assert "[Key('a')] KeyFile(" in shown
    assert text(A)[:10] not in shown
    assert repr(A) not in shown


# --- files


class Looks:
    """A ring of keys in a file, and the clock that says when it is looked at. Work for threads is done at once."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.submitted = 100.0, 0
        set_clock(monkeypatch, lambda: self.now, "payload.keys")
        monkeypatch.setattr(threads, "submit", self._submit)
        self.path = path
        self.ring = KeyRing(KeyFile(path), ids, "Test")

    def _submit(self, work: Callable[[], None]) -> Future[None]:
        self.submitted += 1
        done: Future[None] = Future()
        work()
        done.set_result(None)
        return done

    def later(self, seconds: float) -> str:
        """The keys after so many seconds, as the first and the second user see them."""
        self.now += seconds
        self.ring.current()
        return self.ring.current()


@pytest.fixture
def looks(path: Path, monkeypatch: pytest.MonkeyPatch) -> Looks:
    in_place(path, f"a:{text(A)}")
    return Looks(path, monkeypatch)


def test_a_file_that_was_exchanged_is_read_again(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    in_place(looks.path, f"b:{text(B)}\na:{text(A)}")
    assert looks.later(4.9) == "a"
    assert looks.submitted == 0
    assert looks.later(0.2) == "b a"
    assert looks.later(1) == "b a"
    assert looks.submitted == 1, "every few seconds at most"
    assert [record.message for record in caplog.records] == [f"fastapi_athomic: Test: {looks.path}: the keys are new"]
    assert text(B)[:10] not in caplog.text


@pytest.mark.parametrize("content", ["", "b:nonsense", f"b:{text(B)[:20]}", "{", f"b:{text(A)}\na:{text(A)}"])
def test_a_file_that_cannot_be_used_changes_nothing(
    looks: Looks, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    in_place(looks.path, content)
    assert looks.later(6) == "a"
    assert f"Test: {looks.path}: " in caplog.text
    assert "the keys from before stay in use" in caplog.text
    assert text(B)[:10] not in caplog.text
    in_place(looks.path, f"b:{text(B)}\na:{text(A)}")
    assert looks.later(6) == "b a"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000])
def test_a_file_that_is_nested_too_deeply_is_read_again_when_it_is_mended(looks: Looks, content: str) -> None:
    with pytest.raises(ConfigurationError, match="it begins like JSON and is none"):
        keys_of(content)
    in_place(looks.path, content)
    assert looks.later(6) == "a"
    in_place(looks.path, f"b:{text(B)}\na:{text(A)}")
    assert looks.later(6) == "b a"


def test_a_surprise_while_a_file_is_read_does_not_end_the_looking(
    looks: Looks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place(looks.path, f"b:{text(B)}\na:{text(A)}")
    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "_in_text", lambda _: 1 / 0)
        assert looks.later(6) == "a"
    assert "it cannot be read: ZeroDivisionError; the keys from before stay in use" in caplog.text
    assert looks.later(6) == "b a"


async def test_a_key_that_is_missing_is_used_until_the_file_has_been_so_for_a_while(looks: Looks) -> None:
    """A file that is written in place is half written for a moment."""
    looks.path.resolve().write_text(f"b:{text(B)}\n")
    looks.now += 1
    both = await looks.ring.newer(looks.ring.current())
    assert both == "b a"
    looks.now += 1
    assert await looks.ring.newer(both) is None, "who asks does not make it final"
    looks.path.resolve().write_text(f"b:{text(B)}\na:{text(A)}\n")
    assert looks.later(6) == "b a"
    looks.path.resolve().write_text(f"b:{text(B)}\n")
    assert looks.later(6) == "b a"
    assert looks.later(4) == "b a"
    assert looks.later(2) == "b"


def test_a_file_that_is_gone_changes_nothing(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    looks.path.unlink()
    assert looks.later(6) == "a"
    assert "it cannot be read: No such file or directory; the keys from before stay in use" in caplog.text


async def test_a_message_with_an_unknown_key_has_the_file_read_at_once(looks: Looks) -> None:
    known = looks.ring.current()
    in_place(looks.path, f"b:{text(B)}")
    looks.now += 1
    assert await looks.ring.newer(known) == "b a"
    assert await looks.ring.newer(known) == "b a", "somebody else has found it"
    assert looks.submitted == 1
    assert await looks.ring.newer(looks.ring.current()) is None


async def test_few_of_them_do(looks: Looks) -> None:
    """Anybody may write messages with unknown keys."""
    known = looks.ring.current()
    for _ in range(3 * PATIENCE):
        looks.now += 0.3
        assert await looks.ring.newer(known) is None or looks.submitted == PATIENCE
        if looks.now > 104:
            break
    assert looks.submitted == PATIENCE
    in_place(looks.path, f"b:{text(B)}")
    assert await looks.ring.newer(known) is None
    assert looks.later(6) == "b a"


async def test_all_that_wait_for_one_look_get_what_it_finds(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """More messages at once than may have the file read."""

    async def sleep(seconds: float) -> None:
        await no_pause(0)

    no_pause = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", sleep)
    known = looks.ring.current()
    in_place(looks.path, f"b:{text(B)}\na:{text(A)}")
    waiting = [asyncio.ensure_future(looks.ring.newer(known)) for _ in range(3 * PATIENCE)]
    await no_pause(0)
    looks.now += 0.3
    assert await asyncio.gather(*waiting) == ["b a"] * len(waiting)


async def test_they_wait_for_their_turn(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        in_place(looks.path, f"b:{text(B)}")
        looks.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    looks.now += 0.05
    assert await looks.ring.newer(looks.ring.current()) == "b a"
    assert pauses == [pytest.approx(0.2)]


def test_a_file_that_is_missing_or_wrong_at_the_start_is_a_sentence(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"(?m)^Test: .*keys: it cannot be read: No such file or directory$"):
        KeyRing(KeyFile(path), ids, "Test")
    path.write_text("# none yet")
    with pytest.raises(ConfigurationError, match=r"(?m)^Test: .*keys: there must be at least one key$"):
        KeyRing(KeyFile(path), ids, "Test")


async def test_real_threads_look_at_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "SOON_SECONDS", 0.01)
    in_place(path, f"a:{text(A)}")
    ring = KeyRing(KeyFile(path), ids, "Test")
    known = ring.current()
    in_place(path, f"b:{text(B)}")
    assert await asyncio.gather(*(ring.newer(known) for _ in range(5))) == ["b a"] * 5


def test_a_forked_process_looks_at_the_file(path: Path) -> None:
    """Also if a thread of its parent was looking in that moment."""
    in_place(path, f"a:{text(A)}")
    ring, forking = KeyRing(KeyFile(path), ids, "Test"), get_context("fork")
    in_place(path, f"b:{text(B)}\na:{text(A)}")
    answers = forking.SimpleQueue()
    ring._due = float("inf")

    def look() -> None:
        due = ring._due
        ring._look()
        answers.put((due, ring.current()))

    child = forking.Process(target=look, daemon=True)
    with ring._lock:
        child.start()
    child.join(30)
    assert child.exitcode == 0
    assert answers.get() == (ring._looked + keys_module.LOOK_SECONDS, "b a")
