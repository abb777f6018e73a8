"""What type checkers must tell a user: each line that is marked, and no other (test_typing.py)."""

from fastapi import FastAPI

from fastapi_athomic import Athomic, Key, PayloadPipeline, RetryPolicy, include_athomic, ordered_consumer, subscribe_to
from fastapi_athomic.payload.json_format import Json

app = FastAPI()
athomic = include_athomic(app)
app.include_athomic()  # wrong: this form is for the interpreter only


@app.post("/async")
async def lost(athomic: Athomic) -> None:
    athomic.publish("t", 1)  # wrong: not awaited


@app.post("/sync")
def lost_too(athomic: Athomic) -> None:
    athomic.publish_many("t", [1])  # wrong: not awaited


async def published(athomic: Athomic) -> None:
    print((await athomic.publish("t", 1)).nothing)  # wrong: no such attribute
    await athomic.publish(1, "t")  # wrong: the topic comes first
    await athomic.publish("t", 1, payload="json")  # wrong: no pipeline
    await athomic.publish_many("t", [1], payload=Json())  # wrong: a serializer alone


athomic.publisher("t", int, key=lambda number: number.nothing)  # wrong: no such attribute
numbers = athomic.publisher("t", int, key=lambda number: number.bit_length())


async def declared() -> None:
    await numbers.publish("1")  # wrong: text
    await numbers.publish_many([1, "2"])  # wrong: text
    numbers.publish_sync(1, topic="t")  # wrong: the topic is declared
    numbers.publish(1)  # wrong: not awaited


def handle(order: dict[str, int], key: Key[int]) -> str:
    return key  # wrong: it is an int


subscribe_to("t", group_id="g", concurency=3)  # wrong: misspelt
subscribe_to("t", group_id="g", concurrency="4")  # wrong: text
subscribe_to("t", group_id="g", ordering="keys")  # wrong: no such order
subscribe_to("t", group_id="g", retry=3)  # wrong: no policy
subscribe_to("t", group_id="g", payload=Json())  # wrong: a serializer alone
subscribe_to("t", group_id="g", dlq=1)  # wrong: neither a truth value nor a name
subscribe_to("t", group_id="g", auto_offset_reset="erliest")  # wrong: misspelt
subscribe_to("t")  # wrong: no group
subscribe_to("t", "g")  # wrong: the group by position
PayloadPipeline(["gzip"])  # wrong: a name
PayloadPipeline(reads=["json"])  # wrong: a name
PayloadPipeline(key=str)  # wrong: no serializer
include_athomic(app, payload=Json(), name="a")  # wrong: a serializer alone
include_athomic(app, topic_payloads={"t": Json()}, name="b")  # wrong: a serializer alone
RetryPolicy(delay="1")  # wrong: text
RetryPolicy(retry_topics=[10])  # wrong: a list
ordered_consumer("t", group_id="g", aggregate_key_field="a")  # wrong: no sequence_id_field
ordered_consumer("t", group_id="g", aggregate_key_field="a", sequence_id_field="n", batch_size=5)  # wrong: no batches
ordered_consumer("t", group_id="g", aggregate_key_field="a", sequence_id_field="n", on_gap="panic")  # wrong: value
athomic.subscribe_to("t", group_id="g", concurency=3)  # wrong: misspelt
athomic.subscribe_to("t", group_id="g", timeout="5")  # wrong: text
athomic.ordered_consumer("t", group_id="g", aggregate_key_field="a", sequence_id_field="n", gap=1)  # wrong: unknown
