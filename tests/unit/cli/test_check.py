from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import fastapi_athomic
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.unit.cli.conftest import Command, Write

APP = """
from fastapi import FastAPI
from pydantic import BaseModel
from fastapi_athomic import include_athomic, ordered_consumer, subscribe_to

class Order(BaseModel):
    number: int

app = FastAPI()
include_athomic(app)
"""
GOOD = """
@subscribe_to("orders", group_id="billing", handler_id="bill")
async def bill(order: Order) -> None: ...
"""
BROKEN = """
@subscribe_to("orders", group_id="shipping", handler_id="ship")
async def ship(order: Order, address: str) -> None: ...

@subscribe_to("orders", group_id="mail", handler_id="mail")
async def mail(order) -> None: ...
"""


def test_an_app_that_would_start(write: Write, command: Command) -> None:
    write(fine1=APP + GOOD)
    answer = command("check", "--app", "fine1", "--strict")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("1 handler would start: bill\n")
    assert "The broker is memory:// here. Set the variables of production" in answer.out


def test_all_problems_are_told_not_only_the_first(write: Write, command: Command) -> None:
    write(broken1=APP + GOOD + BROKEN)
    answer = command("check", "--app", "broken1")
    assert answer.status == 1
    ship, mail = answer.err.splitlines()
    assert ship.startswith("error: handler ship: nothing provides parameter address")
    assert mail.startswith("error: handler mail: annotate order with the type of the message")
    assert answer.out == ""


def test_a_tuning_that_fits_no_handler_is_one_more_problem(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHOMIC_TUNING__0__HANDLER", "bil")
    write(broken2=APP + GOOD + BROKEN)
    problems = command("check", "--app", "broken2", "--json").json["problems"]
    assert [problem.split(":")[0] for problem in problems] == [
        "tuning for unknown handler bil (ATHOMIC_TUNING__0__HANDLER)",
        "handler ship",
        "handler mail",
    ]


def test_what_only_kafka_needs_is_checked_without_asking_it(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHOMIC_BROKER_URL", "kafka://127.0.0.1:1")
    write(
        kafka1=APP + GOOD,
        kafka2=APP
        + """
@ordered_consumer("o", group_id="g", handler_id="seq", aggregate_key_field="number", sequence_id_field="number")
async def handle(order: Order) -> None: ...
""",
    )
    answer = command("check", "--app", "kafka1")
    assert (answer.status, answer.out) == (0, "1 handler would start: bill\n")
    assert "ATHOMIC_STATE_STORE_URL" in command("check", "--app", "kafka2").err


def test_what_a_start_would_warn_of_is_told(write: Write, command: Command) -> None:
    write(warned1=APP + GOOD + "\n@app.get('/consumers')\ndef consumers() -> None: ...\n")
    answer = command("check", "--app", "warned1")
    assert answer.status == 0
    assert answer.err.startswith("warning: routes: /consumers (warned1.consumers) gets no request")
    assert answer.err.count("warned1.consumers") == 1
    assert command("check", "--app", "warned1", "--strict").status == 1


def test_a_broker_that_others_cannot_see_is_warned_of(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHOMIC_STATE_STORE_URL", "redis://localhost")
    write(warned4=APP + GOOD)
    answer = command("check", "--app", "warned4", "--strict")
    assert answer.status == 1
    assert "warning: " in answer.err
    assert "memory://" in answer.err


def test_an_app_without_handlers_is_warned_of(write: Write, command: Command) -> None:
    write(warned2=APP)
    answer = command("check", "--app", "warned2")
    assert "warning: no handlers were found; decorate one with subscribe_to" in answer.err
    assert "0 handlers would start: none" in answer.out


def test_the_packages_logging_is_as_it_was_afterwards(write: Write, command: Command) -> None:
    logger = logging.getLogger("fastapi_athomic")
    logger.propagate = True
    before = list(logger.handlers)
    write(fine2=APP + GOOD)
    command("check", "--app", "fine2")
    assert logger.propagate
    assert logger.handlers == before


LOGGING = """
import logging.config
logging.config.dictConfig({"version": 1, "loggers": {"fastapi_athomic": {"level": "ERROR", "handlers": []}}})
"""


def test_an_app_that_configures_logging_hides_no_warning(write: Write) -> None:
    write(warned3=LOGGING + APP)
    program = [sys.executable, "-m", "fastapi_athomic", "check", "--app", "warned3", "--app-dir", str(Path.cwd())]
    root = Path(fastapi_athomic.__file__).parents[1]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, check=True)  # its logging is for good
    assert "warning: no handlers were found" in done.stderr


def test_an_error_that_is_not_ours_is_told_with_its_line(write: Write, command: Command) -> None:
    write(broken4=APP + "\nfrom broken4_model import handle\n", broken4_model=BROKEN_TYPE)
    answer = command("check", "--app", "broken4")
    assert answer.status == 1
    assert answer.err.startswith("error: ")
    assert "broken4_model.py, line 6: raise OSError('gone')" in answer.err


BROKEN_TYPE = """
from fastapi_athomic import subscribe_to

class Model:
    def __get_pydantic_core_schema__(source, handler):
        raise OSError('gone')

@subscribe_to("t", group_id="g")
async def handle(message: Model) -> None: ...
"""


def test_json(write: Write, command: Command) -> None:
    write(fine3=APP + GOOD, broken5=APP + GOOD + BROKEN)
    assert command("check", "--app", "fine3", "--json").json == {
        "ok": True,
        "handlers": ["bill"],
        "schemas": 0,
        "problems": [],
        "warnings": [],
    }
    answer = command("check", "--app", "broken5", "--json")
    assert answer.status == 1
    assert not answer.json["ok"]
    assert len(answer.json["problems"]) == 2
    assert "there is no module" in command("check", "--app", "nothing_there", "--json").json["problems"][0]


SCHEMAS = """
import json
from fastapi import FastAPI
from pydantic import BaseModel
from fastapi_athomic import PayloadPipeline, include_athomic, subscribe_to
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.registry import SchemaRegistry

class Order(BaseModel):
    number: int
    customer: str

registry = SchemaRegistry("memory://NAME")
app = FastAPI()
include_athomic(app, payload=PayloadPipeline([SERIALIZER]))

@subscribe_to("orders", group_id="billing", handler_id="bill")
async def bill(order: Order) -> None: ...
"""
LONG = {"name": "number", "type": "long"}
TEXT = {"name": "customer", "type": "string"}


def with_schemas(name: str, serializer: str = "Avro(registry)") -> str:
    return SCHEMAS.replace("NAME", name).replace("SERIALIZER", serializer)


def record(*fields: dict[str, str]) -> str:
    return json.dumps({"type": "record", "name": "Order", "fields": fields})


async def register(name: str, text: str) -> None:
    await SchemaRegistry(f"memory://{name}").register("orders-value", "AVRO", text)


def test_types_that_go_with_the_registry(write: Write, command: Command) -> None:
    asyncio.run(register("goes", record(LONG, TEXT)))
    write(schemas1=with_schemas("goes"))
    answer = command("check", "--app", "schemas1", "--strict")
    assert (answer.status, answer.err) == (0, "")
    assert "1 schema compared with the schema registry" in answer.out
    assert command("check", "--app", "schemas1", "--json").json["schemas"] == 1


def test_a_type_that_cannot_read_what_the_registry_has(write: Write, command: Command) -> None:
    asyncio.run(register("misfit", record(LONG)))
    write(schemas2=with_schemas("misfit"))
    answer = command("check", "--app", "schemas2")
    assert answer.status == 1
    assert answer.err.startswith("error: handler bill: topic orders: ")
    assert "customer" in answer.err


def test_a_schema_that_the_registry_would_refuse(write: Write, command: Command) -> None:
    asyncio.run(register("refuses", record(LONG)))
    write(schemas3=with_schemas("refuses", "Avro(registry, auto_register=True)"))
    answer = command("check", "--app", "schemas3")
    assert answer.status == 1
    assert "the registry would not take it as the next version of orders-value: " in answer.err


def test_a_version_that_the_registry_has_need_not_be_the_next_one(write: Write, command: Command) -> None:
    older = record(LONG, TEXT)
    for text in (older, record(LONG)):
        asyncio.run(register("older", text))
    write(schemas7=with_schemas("older", f"Avro(registry, auto_register=True, schema={older!r})"))
    answer = command("check", "--app", "schemas7", "--strict")
    assert (answer.status, answer.err) == (0, "")


def test_a_json_schema_that_only_describes_what_is_read_need_not_be_the_next_version(
    write: Write, command: Command
) -> None:
    text = json.dumps({"properties": {"number": {"enum": [1, 2]}, "customer": {}}})
    asyncio.run(SchemaRegistry("memory://describes").register("orders-value", "JSON", text))
    reads, registers = "JsonSchema(registry)", "JsonSchema(registry, auto_register=True)"
    write(schemas8=with_schemas("describes", reads), schemas9=with_schemas("describes", registers))
    answer = command("check", "--app", "schemas8")
    assert answer.status == 0
    assert answer.err.startswith("warning: handler bill: topic orders: the registry would not take it")
    assert command("check", "--app", "schemas8", "--strict").status == 1
    assert command("check", "--app", "schemas9").status == 1


@pytest.mark.parametrize("serializer", ["Avro", "JsonSchema", "Protobuf"])
def test_handlers_of_subjects_by_record_may_take_whatever_there_is(
    write: Write, command: Command, serializer: str
) -> None:
    name = f"by_record_{serializer.lower()}"
    code = with_schemas("nothing", f'{serializer}(registry, subject="record")').replace("order: Order", "order: dict")
    write(**{name: "from fastapi_athomic.schemas.protobuf import Protobuf" + code})
    answer = command("check", "--app", name, "--strict")
    assert (answer.status, answer.err) == (0, "")


def test_a_subject_that_is_unknown_is_a_warning_unless_it_would_be_registered(write: Write, command: Command) -> None:
    write(schemas4=with_schemas("none"), schemas5=with_schemas("none", "Avro(registry, auto_register=True)"))
    answer = command("check", "--app", "schemas4")
    assert answer.status == 0
    assert answer.err.startswith("warning: handler bill: topic orders: ")
    assert "orders-value" in answer.err
    assert command("check", "--app", "schemas4", "--strict").status == 1
    assert command("check", "--app", "schemas5", "--strict").err == ""


WITHOUT_GUIDS = """
from dataclasses import replace

class WithoutGuids(SchemaRegistry):
    async def latest(self, subject):
        return replace(await super().latest(subject), guid=None)

registry = WithoutGuids("""


@pytest.mark.parametrize("serializer", ["Avro", "JsonSchema"])
@pytest.mark.parametrize("framing", ["prefix", "header"])
def test_a_registry_without_guids_is_a_warning_where_they_are_written(
    write: Write, command: Command, serializer: str, framing: str
) -> None:
    name = f"guids_{serializer.lower()}_{framing}"
    kind, text = ("AVRO", record(LONG, TEXT)) if serializer == "Avro" else ("JSON", "{}")
    asyncio.run(SchemaRegistry(f"memory://{name}").register("orders-value", kind, text))  # type: ignore[arg-type]
    code = with_schemas(name, f'{serializer}(registry, framing="{framing}")')
    write(**{name: code, f"{name}_missing": code.replace("registry = SchemaRegistry(", WITHOUT_GUIDS)})
    says = "handler bill: topic orders: the registry gives orders-value no GUID, which framing='header' needs"
    assert says not in command("check", "--app", name).err
    assert (f"warning: {says}" in command("check", "--app", f"{name}_missing").err) is (framing == "header")


def test_a_registry_that_is_away_is_one_warning(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHOMIC_PAYLOAD__SERIALIZER", "json_schema")
    monkeypatch.setenv("ATHOMIC_PAYLOAD__REGISTRY__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ATHOMIC_PAYLOAD__REGISTRY__USERNAME", "ann")
    monkeypatch.setenv("ATHOMIC_PAYLOAD__REGISTRY__PASSWORD", "s3cret")
    more = GOOD.replace("bill", "mail").replace("billing", "mail")
    write(schemas6=APP + GOOD + more)
    answer = command("check", "--app", "schemas6")
    assert answer.status == 0
    (warning,) = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: schemas were not compared: the schema registry http://127.0.0.1:1")
    assert "s3cret" not in answer.err + answer.out
