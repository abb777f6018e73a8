"""One of two services of a trace; told by its environment which one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from fastapi_athomic import ExecutionContext, include_athomic, set_context

DIRECTORY, NAME, TOPIC = Path(os.environ["TRACED_DIRECTORY"]), os.environ["TRACED_NAME"], os.environ["TRACED_TOPIC"]

spans = (DIRECTORY / f"{NAME}.spans").open("a", buffering=1)
provider = TracerProvider(resource=Resource.create({"service.name": NAME}))
provider.add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\n"))
)
trace.set_tracer_provider(provider)

app = FastAPI()
athomic = include_athomic(app)


def note(context: ExecutionContext, body: object) -> None:
    with (DIRECTORY / f"{NAME}.handled").open("a") as file:
        file.write(json.dumps([context.tenant_id, context.request_id, body]) + "\n")


if NAME == "a":

    @app.post("/start")
    async def start() -> None:
        set_context(tenant_id="acme")
        await athomic.publish(TOPIC, {"step": 1})

    @athomic.subscribe_to(TOPIC, group_id=TOPIC)
    async def first(message: dict[str, int], context: ExecutionContext) -> None:
        await athomic.publish(f"{TOPIC}.next", {"step": message["step"] + 1})
        note(context, message)

else:

    @athomic.subscribe_to(f"{TOPIC}.next", group_id=f"{TOPIC}.b")
    async def second(message: dict[str, int], context: ExecutionContext) -> None:
        note(context, message)
