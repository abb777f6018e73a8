"""Dead letters that have lost a part, are doubled, of somebody else, or of an earlier version. On `memory://`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import BaseModel

from fastapi_athomic import (
    MessageHeaders,
    RawMessage,
    TransportError,
    subscribe_to,
)
from fastapi_athomic.failures.markers import encode_offsets
from fastapi_athomic.failures.settling import GONE, NOT_FOLLOWED
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.transport import MemoryTransport
from tests.support.apps import running
from tests.unit.failures.letter_shop import LARGE, ONCE, REASON, UNPACKED, Shop

# --- fault 5: letters that have lost a part


async def test_p20_fault_05_a_redrive_fetches_what_was_left_out() -> None:
    shop = Shop()
    shop.put("t", LARGE, b"key", (("own", b"1"),))
    async with running(shop.app()) as athomic:
        await athomic.drain()
    shop.broken, shop.settings = False, shop.settings.model_copy(update={"memory": UNPACKED})
    async with running(shop.app()) as athomic:
        report = await athomic.dead_letters("h").redrive(dry_run=True)
        assert (report.settled, report.refused) == (1, {})
        report = await athomic.dead_letters("h").redrive()
        await athomic.drain()
        assert (report.settled, await athomic.dead_letters("h").count()) == (1, 0)
    _, message = shop.record.seen[-1]
    assert (message.value, message.key, message.headers[0]) == (LARGE, b"key", ("own", b"1"))
    assert message.topic == "t.g.redrive"
    said = MessageHeaders(message.headers)
    assert (said.text("athomic-original-offset"), said.text("athomic-value-omitted")) == ("0", None)


@pytest.mark.parametrize("gone", ["another message", "the topic"])
async def test_p20_fault_05_what_is_gone_for_good_is_not_sent_back_empty(gone: str) -> None:
    shop = Shop()
    shop.put("t", LARGE)
    shop.put("t", b"small")
    async with running(shop.app()) as athomic:
        await athomic.drain()
    shop.broken = False
    del shop.broker._topics["t"]
    if gone == "another message":
        shop.put("t", LARGE[::-1])
    async with running(shop.app()) as athomic:
        await athomic.drain()
        letters = athomic.dead_letters("h")
        report = await letters.redrive()
        await athomic.drain()
        assert (report.selected, report.settled, report.refused) == (2, 1, {GONE: 1})
        (letter,) = await letters.browse()
        assert letter.omitted == ("value",)
    assert [message.value for _, message in shop.record.seen if message.topic == "t.g.redrive"] == [b"small"]


# --- fault 11: whose letters they are


async def test_p20_fault_11_two_handlers_share_a_dlq() -> None:
    shop = Shop()
    handlers = [
        shop.handler("t", "billing", "billing", dlq="errors"),
        shop.handler("t", "shipping", "shipping", dlq="errors"),
        shop.handler("u", "shipping", "returns", dlq="errors"),
    ]
    shop.put("t", b"order")
    shop.put("u", b"parcel")
    async with running(shop.app(*handlers)) as athomic:
        await shop.record.count(3)
        await athomic.drain()
        for handler_id, value in (("billing", b"order"), ("shipping", b"order"), ("returns", b"parcel")):
            letters = athomic.dead_letters(handler_id)
            found = await letters.browse()
            assert [(letter.handler_id, letter.value) for letter in found] == [(handler_id, value)]
            assert await letters.count() == 1
        shop.broken = False
        assert (await athomic.dead_letters("shipping").redrive()).topics == {"errors": 1}
        assert (await athomic.dead_letters("billing").discard(reason="paid")).settled == 1
        await shop.record.count(4)
        await athomic.drain()
        handler_id, message = shop.record.seen[-1]
        assert (handler_id, message.topic) == ("shipping", "t.shipping.redrive")
        assert await athomic.dead_letters("returns").count() == 1, "nobody has settled it"
        assert (await athomic.dead_letters("returns").redrive()).settled == 1
        await shop.record.count(5)
        await athomic.drain()
    handler_id, message = shop.record.seen[-1]
    assert (handler_id, message.topic) == ("returns", "u.shipping.redrive")


async def test_p20_fault_11_sources_that_share_a_dlq_get_back_what_is_theirs() -> None:
    shop = Shop()
    shop.put("a", b"of a")
    shop.put("b", b"of b")

    @subscribe_to(["a", "b"], group_id="g", handler_id="h", dlq="errors", retry=ONCE)
    async def handle(message: RawMessage) -> None:
        shop.record.note((message.topic, message.value))
        if shop.broken:
            raise RuntimeError

    async with running(shop.app(handle)) as athomic:
        await athomic.drain()
        shop.broken = False
        letters = athomic.dead_letters("h")
        assert [letter.value for letter in await letters.browse(source="a")] == [b"of a"]
        assert (await letters.redrive()).settled == 2
        await athomic.drain()
    assert sorted(shop.record.seen[2:]) == [("a.g.redrive", b"of a"), ("b.g.redrive", b"of b")]


@pytest.mark.parametrize("dlq", [True, "errors"])
async def test_p20_fault_11_a_handler_that_a_deploy_renames_keeps_its_letters(dlq: bool | str) -> None:
    shop = Shop()
    shop.put("t", b"x")
    shop.put("u", b"y")
    before = [shop.handler("t", "g", "old", dlq=dlq), shop.handler("u", "g", "other", dlq=dlq)]
    async with running(shop.app(*before)) as athomic:
        await athomic.drain()
    after = [shop.handler("t", "g", "new", dlq=dlq), shop.handler("u", "g", "other", dlq=dlq)]
    shop.broken = False
    async with running(shop.app(*after)) as athomic:
        assert [letter.handler_id for letter in await athomic.dead_letters("other").browse()] == ["other"]
        assert (await athomic.dead_letters("new").redrive()).settled == 1
        await athomic.drain()
    assert [name for name, message in shop.record.seen if message.topic == "t.g.redrive"] == ["new"]


async def test_p20_fault_11_another_dlq_name_hides_no_letters() -> None:
    shop = Shop()
    shop.put("t", b"x")
    async with running(shop.app()) as athomic:
        await athomic.drain()
    for dlq in ("errors", False):
        async with running(shop.app(shop.handler(dlq=dlq))) as athomic:
            assert await athomic.dead_letters("h").count() == 1


async def test_p20_fault_11_letters_of_a_source_that_nobody_consumes_any_more_stay() -> None:
    shop = Shop()
    shop.put("t", b"x")
    async with running(shop.app(shop.handler(dlq="errors"))) as athomic:
        await athomic.drain()
    async with running(shop.app(shop.handler("u", dlq="errors"))) as athomic:
        report = await athomic.dead_letters("h").redrive()
        assert (report.selected, report.settled, report.refused) == (1, 0, {NOT_FOLLOWED: 1})
        assert await athomic.dead_letters("h").count() == 1


def old_letter(number: int, **more: bytes) -> OutgoingMessage:
    """As an earlier version wrote it."""
    headers = {
        "original-topic": b"t",
        "original-partition": b"0",
        "original-offset": b"%d" % number,
        "original-timestamp": b"1000",
        "consumer-group": b"g",
        "handler": b"h",
        "error-type": b"builtins.RuntimeError",
        "attempts": b"1",
    }
    ours = tuple((f"athomic-{name}", value) for name, value in headers.items())
    return OutgoingMessage("t.g.dlq", None, b"old %d" % number, ours, 0, 2_000)


def old_redriven(number: int, timestamp: int, redrives: bytes = b"1") -> OutgoingMessage:
    """As an earlier version sent it back."""
    kept = tuple(header for header in old_letter(number).headers if "original" in header[0])
    added = (("athomic-redrives", redrives), ("athomic-dead-letter", b"t.g.dlq/0/%d" % number))
    return OutgoingMessage("t.g.redrive", None, b"old %d" % number, (*kept, *added), 0, timestamp)


def old_marker(*offsets: int) -> OutgoingMessage:
    headers = (("athomic-resolution", b"redriven"), ("athomic-resolved-offsets", encode_offsets(offsets).encode()))
    return OutgoingMessage("t.g.dlq", None, b"", headers, 0)


async def test_p20_fault_11_letters_of_earlier_versions_are_settled_as_before() -> None:
    shop = Shop()
    shop.broken = False
    shop.broker.create_topics({"t": 1, "t.g.dlq": 1, "t.g.redrive": 1})
    shop.broker.append([*map(old_letter, range(4)), old_marker(0)], UNPACKED)
    shop.broker.append([old_redriven(1, 3_000), old_redriven(2, 1_999), old_redriven(3, 3_000, b"2")], UNPACKED)
    async with running(shop.app()) as athomic:
        await shop.record.count(3)
        letters = athomic.dead_letters("h")
        assert [letter.id for letter in await letters.browse()] == [f"t.g.dlq/0/{n}@2000" for n in (1, 2, 3)]
        report = await letters.redrive()
        assert (report.settled, report.resumed) == (3, 1), "what came before the letter, or after another, is another's"
        await athomic.drain()
        assert await letters.count() == 0
    assert [message.value for _, message in shop.record.seen[3:]] == [b"old 2", b"old 3"]


async def test_p20_fault_11_earlier_versions_see_what_this_one_has_settled() -> None:
    shop = Shop()
    for value in (b"1", b"2", b"3"):
        shop.put("t", value)
    async with running(shop.app()) as athomic:
        await athomic.drain()
        await athomic.dead_letters("h").discard(reason="r", limit=2)
        ids = [letter.id for letter in await athomic.dead_letters("h").browse()]
        shop.broken = False
        await athomic.dead_letters("h").redrive()
        await athomic.drain()
    first, second = [MessageHeaders(message.headers) for message in shop.read("t.g.dlq")][3:]
    assert (first.text("athomic-resolved-offsets"), second.text("athomic-resolved-offsets")) == ("0-1", "2")
    (sent,) = [MessageHeaders(message.headers) for message in shop.read("t.g.redrive")]
    assert (sent.text("athomic-letter-id"), sent.text("athomic-dead-letter")) == (ids[0], "t.g.dlq/0/2")


async def test_a_discard_that_cannot_be_noted_says_that_the_letters_stay_open() -> None:
    shop = Shop()
    shop.put("t", b"x")
    async with running(shop.app()) as athomic:
        await athomic.drain()
        shop.broker.refuse("t.g.dlq")
        with pytest.raises(TransportError, match="dead letters stay open, because that they are discarded could not"):
            await athomic.dead_letters("h").discard(reason="r")
        assert await athomic.dead_letters("h").count() == 1


async def test_a_letter_is_a_line_for_people() -> None:
    shop = Shop()
    shop.put("t", b"x", key=b"o-17")
    async with running(shop.app()) as athomic:
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    line = str(letter)
    assert line.startswith("t.g.dlq  0/0  20")
    assert line.endswith(f"+00:00  handler  key=o-17  builtins.RuntimeError  {REASON[:117]}...")
    for key, shown in ((None, "no key"), (b"\xff", "key=base64:/w==")):
        assert f"  {shown}  builtins.RuntimeError" in str(replace(letter, key=key))
    forged = str(replace(letter, error_message="a\nb\x1b[31m", error_type="x\r", error_stage=None, failed_at=None))
    assert forged == "t.g.dlq  0/0  ?  ?  key=o-17  x  a b [31m", "anybody can write to these topics"


async def test_p20_fault_11_what_was_purged_from_the_redrive_topic_is_sent_again() -> None:
    shop = Shop()
    shop.put("t", b"x")
    async with running(shop.app()) as athomic:
        await athomic.drain()
        shop.broken = False
        shop.broker.refuse("t.g.dlq")  # sent, but not marked
        with pytest.raises(TransportError, match="were sent back, but that could not be noted in"):
            await athomic.dead_letters("h").redrive()
        shop.broker.allow("t.g.dlq")
        await athomic.drain()
        redrive = shop.read("t.g.redrive")
        assert len(redrive) == 1
        assert (await athomic.dead_letters("h").redrive(dry_run=True)).resumed == 1
        del redrive[:]
        report = await athomic.dead_letters("h").redrive()
        assert (report.resumed, report.settled) == (0, 1)
        assert len(shop.read("t.g.redrive")) == 1


async def test_p20_fault_11_a_message_that_looks_like_a_marker_settles_nothing() -> None:
    shop = Shop()
    shop.put("t", b"x")
    shop.put("t", b"y", None, (("athomic-resolution", b"redriven"), ("athomic-resolved-offsets", b"0-9")))
    async with running(shop.app()) as athomic:
        await athomic.drain()
        assert [letter.value for letter in await athomic.dead_letters("h").browse()] == [b"x", b"y"]


# --- fault 12: letters that were written twice


async def test_p20_fault_12_a_letter_that_was_written_twice_is_one() -> None:
    shop = Shop()
    shop.put("t", b"x")
    async with running(shop.app()) as athomic:
        await athomic.drain()
        letters = athomic.dead_letters("h")
        (message,) = shop.read("t.g.dlq")
        copy = OutgoingMessage("t.g.dlq", message.key, message.value, message.headers, 0)
        shop.broker.append([copy, copy], UNPACKED)
        assert (await letters.count(), len(await letters.browse())) == (1, 1)
        shop.broken = False
        assert (await letters.redrive()).settled == 1
        shop.broker.append([copy], UNPACKED)  # its acknowledgement had timed out: it comes behind the marker
        assert (await letters.count(), (await letters.redrive()).selected) == (0, 0)
        await athomic.drain()
    assert len(shop.read("t.g.redrive")) == 1


async def test_p20_fault_12_copies_in_several_partitions_are_sent_back_once() -> None:
    """Of an earlier version, which sent messages without a key to any partition."""
    shop = Shop()
    shop.broken = False
    shop.broker.create_topics({"t": 1, "t.g.dlq": 2, "t.g.redrive": 1})
    letter = old_letter(0)._replace(headers=(*old_letter(0).headers, ("athomic-letter-id", b"one")))
    shop.broker.append([letter, letter._replace(partition=1)], UNPACKED)
    async with running(shop.app()) as athomic:
        report = await athomic.dead_letters("h").redrive()
        assert (report.settled, report.resumed) == (2, 1)
        await athomic.drain()
        assert await athomic.dead_letters("h").count() == 0
    assert [message.value for _, message in shop.record.seen] == [b"old 0"]


async def test_markers_fit_as_letters_do() -> None:
    """100 ids in one marker are too many for a topic of small messages: there are several markers then."""
    shop = Shop()
    shop.settings = shop.settings.model_copy(update={"memory": MemorySettings(max_message_bytes=1_000)})
    for number in range(50):
        shop.put("t", b"%d" % number)
    async with running(shop.app()) as athomic:
        await athomic.drain()
        assert (await athomic.dead_letters("h").discard(reason="many")).settled == 50
        assert await athomic.dead_letters("h").count() == 0
    assert 50 + 1 < len(shop.read("t.g.dlq")) < 50 + 10


async def test_reading_goes_on_behind_what_retention_took() -> None:
    shop = Shop()
    for number in range(3):
        shop.put("t", b"%d" % number)
    place = TopicPartition("t", 0)
    log = shop.broker.log(place)
    assert log is not None
    del log.messages[:2]
    log.first = 2
    transport = MemoryTransport(shop.settings)
    assert [message.value for message in await transport.read(place, 0, 1)] == [b"2"]
    assert await transport.read(place, 3, 1) == []


# --- lines for people


class OrderWithALongName(BaseModel):
    number_with_a_long_name: int


async def test_a_line_about_a_letter_shows_what_to_do_at_the_end_of_its_error() -> None:
    shop = Shop()

    @subscribe_to("t", group_id="g", handler_id="h", retry=ONCE)
    async def handle(order: dict[str, list[OrderWithALongName]]) -> None: ...

    shop.put("t", b"\0\0\0\0\1\2", headers=(("content-type", b"application/avro"),))
    async with running(shop.app(handle)) as athomic:
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    told, hint = str(letter), "its header content-type says application/avro, which the payload pipeline does not read"
    assert "not a valid dict[str, list[OrderWithALongName]]: " in told
    assert told.endswith(f"; {hint}: see `reads`")
    assert len(str(replace(letter, error_message=5_000 * "x", key=5_000 * b"x"))) < 1_200
