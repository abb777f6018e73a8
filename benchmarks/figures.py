"""The figures: who is measured, how, and with which goals."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.builds import HERE, OURS, Build, origin, with_twins
from benchmarks.contenders import HAND, IN_A_THREAD, Kind
from benchmarks.deploys import Deploys
from benchmarks.everyday import CONNECTED, IDLE, START, TRICKLE
from benchmarks.http_apps import APPS, MATRIX_SIZE
from benchmarks.http_beside import ANYWHERE, NUMPY, RATE, WARM_UP_SECONDS, HttpRun, core_of_its_own
from benchmarks.ordered import NAMES as ORDERED
from benchmarks.ordered import ROUND_TRIPS, running_redis
from benchmarks.payload_cases import AS_MODEL, BARE, CONFLUENT, OVERHEAD, STEPS, WAYS
from benchmarks.payload_cases import OURS as PIPELINE
from benchmarks.report import FORMATS, Goal, Measured, NoFigureError, Table, figure, versions
from benchmarks.runs import (
    BrokerName,
    Options,
    at_most,
    checked,
    goal,
    interleave,
    no_worse,
    of,
    python,
    running_broker,
)
from benchmarks.workload import PARTITIONS, UNIFORM_KEYS, ZIPF_KEYS, Keys, fill, steady

MOCK_SHARE: Mapping[Keys, float] = {"uniform": 0.14, "zipf": 0.08}
"""Share of the messages on the mock cluster: it keeps 5 MB per partition, and Zipf's keys fill some of them sooner."""
WARM_UP = 10_000
MORE = 4_000
"""Messages after those that are measured. Without them, batches at the end would wait to fill up."""
KEY_SETTINGS: Mapping[Keys, str] = {
    "uniform": f"{UNIFORM_KEYS:,} keys in turn",
    "zipf": f"{ZIPF_KEYS:,} keys by Zipf's law",
}


def measure(
    kind: Kind, name: str, against: Build | None, bootstrap: str, topic: str, warm_up: int, count: int
) -> Measured:
    contender, build = origin(name, against)
    arguments = (kind, contender, bootstrap, topic, str(warm_up), str(count))
    return checked(python("-m", "benchmarks.contenders", *arguments, build=build))


# --- F1 to F4: messages per second


@dataclass(frozen=True)
class Throughput:
    """Contenders, and how many messages each handles: enough for seconds, but not too many for the slow ones."""

    title: str
    counts: Mapping[str, int]
    goals: Sequence[Goal]
    unordered: Mapping[str, str] = field(default_factory=dict)  # those without order, and what they promise
    zipf: float = 1.0  # share of the messages that are used with keys by Zipf's law

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        for keys in options.keys:
            yield self._table(name, keys, options)

    def _table(self, name: str, keys: Keys, options: Options) -> Table:
        factor = options.scale * (1 if options.broker == "kafka" else MOCK_SHARE[keys])
        factor *= self.zipf if keys == "zipf" else 1
        names = with_twins(self.counts, options.against)
        counts = {name: int(self.counts[origin(name, options.against)[0]] * factor) for name in names}
        with running_broker(options.broker) as broker:
            fill(
                broker.bootstrap,
                "orders",
                keys,
                WARM_UP + max(counts.values()) + MORE,
                create=options.broker == "kafka",
            )
            setting = (
                f"{broker.description}, {PARTITIONS} partitions, {KEY_SETTINGS[keys]}; each run in a process of its "
                f"own, after {WARM_UP:,} messages of warm-up; medians of {options.rounds} interleaved rounds. "
                f"Messages measured: {_list(counts)}."
            )
            columns = ["messages/s", "CPU per message"]
            title = f"{self.title}, {keys} keys, {options.broker}"
            goals = [*self.goals, *no_worse(counts, options.against, "messages/s")]
            table = Table(f"{name}-{keys}-{options.broker}", title, setting, columns, goals, self.unordered)
            table.runs = {contender: [] for contender in counts}

            def run(contender: str) -> Measured:
                kind: Kind = "unordered" if contender in self.unordered else "rate"
                warm_up = min(WARM_UP, counts[contender])
                return measure(kind, contender, options.against, broker.bootstrap, "orders", warm_up, counts[contender])

            interleave(table, options.rounds, run)
        return table


def _list(counts: Mapping[str, int]) -> str:
    by_count: dict[int, list[str]] = {}
    for name, count in counts.items():
        by_count.setdefault(count, []).append(name)
    return "; ".join(f"{count:,} ({', '.join(names)})" for count, names in by_count.items())


# --- F5: HTTP beside a backlog


@dataclass(frozen=True)
class Http:
    goals: Sequence[Goal]

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        with core_of_its_own() as cores, running_broker(options.broker) as broker:
            run = HttpRun(
                broker.bootstrap,
                options.seconds,
                mock=options.broker == "mock",
                cores=cores,
                against=options.against,
            )
            fill(broker.bootstrap, "orders", "uniform", run.backlog, create=options.broker == "kafka")
            setting = (
                f"{broker.description}, a backlog of {run.backlog:,} messages, a handler that computes for 0.1 ms, "
                f"one uvicorn process, `GET /ping` at {RATE:g} requests/s on a schedule (open loop: latency counts "
                f"from when a request was due) for {run.seconds:g} s after {WARM_UP_SECONDS:g} s of warm-up; "
                f"{'' if cores is None else 'each app on one core, broker and load kept from it; '}"
                f"medians of {options.rounds} interleaved rounds."
            )
            columns = ["p99", "p50", "p99.9", "longest", "consumed/s"]
            table = Table(f"{name}-{options.broker}", f"F5: HTTP beside a backlog, {options.broker}", setting, columns)
            anywhere = [] if cores is None else [IN_A_THREAD + ANYWHERE]
            apps = with_twins([*APPS, *anywhere], options.against)
            table.goals = [*self.goals, *no_worse(apps, options.against, "p99", "consumed/s")]
            table.runs = {app: [] for app in apps}
            interleave(table, options.rounds, run.measure)
        yield table


# --- F6: ordered consumers on Redis


@dataclass(frozen=True)
class Ordered:
    goals: Sequence[Goal]

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        for keys in options.keys:
            yield self._table(name, keys, options)

    def _table(self, name: str, keys: Keys, options: Options) -> Table:
        count = int(FAST // 2 * options.scale * (1 if options.broker == "kafka" else MOCK_SHARE[keys]))
        with running_broker(options.broker) as broker, running_redis() as url:
            fill(broker.bootstrap, "orders", keys, WARM_UP + count, create=options.broker == "kafka")
            setting = (
                f"{broker.description}, {PARTITIONS} partitions, {KEY_SETTINGS[keys]}, each an aggregate; Redis with "
                f"an append-only file; one process, the rest as shipped; {count:,} messages after {WARM_UP:,} of "
                f"warm-up; medians of {options.rounds} interleaved rounds."
            )
            title = f"F6: ordered consumer on Redis, {keys} keys, {options.broker}"
            columns = ["messages/s", "CPU per message", ROUND_TRIPS]
            names = with_twins(ORDERED, options.against)
            goals = [*self.goals, *no_worse(names, options.against, "messages/s", ROUND_TRIPS)]
            table = Table(f"{name}-{keys}-{options.broker}", title, setting, columns, goals)
            table.runs = {contender: [] for contender in names}

            def run(name: str) -> Measured:
                contender, build = origin(name, options.against)
                arguments = (broker.bootstrap, "orders", url, str(WARM_UP), str(count), ORDERED[contender])
                return checked(python("-m", "benchmarks.ordered", *arguments, build=build))

            interleave(table, options.rounds, run)
        return table


# --- F7: from publish to handler


@dataclass(frozen=True)
class Latency:
    contenders: Sequence[str]
    goals: Sequence[Goal]

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        warm_up, count = 1_000, int(3_000 * options.scale)
        with running_broker(options.broker) as broker:
            setting = (
                f"{broker.description}, 200 messages/s from a foreign producer without linger; {count:,} messages "
                f"after {warm_up:,}; medians of {options.rounds} interleaved rounds."
            )
            title = f"F7: from publish to handler, {options.broker}"
            names = with_twins(self.contenders, options.against)
            goals = [*self.goals, *no_worse(names, options.against, "p50", "p99")]
            table = Table(f"{name}-{options.broker}", title, setting, ["p50", "p99"], goals)
            table.runs = {contender: [] for contender in names}

            def run(contender: str) -> Measured:
                topic = f"orders-{os.urandom(4).hex()}"
                with steady(broker.bootstrap, topic, 200, create=options.broker == "kafka"):
                    return measure("latency", contender, options.against, broker.bootstrap, topic, warm_up, count)

            interleave(table, options.rounds, run)
        yield table


# --- F8: memory


class Memory:
    """10 million messages on memory://, 2 million on Kafka."""

    COUNTS: Mapping[str, int] = {"memory://": 10_000_000, "Apache Kafka": 2_000_000}

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        counts = {broker: int(count * options.scale) for broker, count in self.COUNTS.items()}
        builds = {"": HERE} | ({options.against.twin(""): options.against} if options.against else {})
        curves = {
            "memory://, without consumers": samples("without", str(counts["memory://"] // 10)),
            **{f"memory://{end}": samples("memory", str(counts["memory://"]), build=builds[end]) for end in builds},
        }
        with running_broker("kafka") as broker:
            fill(broker.bootstrap, "orders", "uniform", counts["Apache Kafka"], create=True)
            arguments = ("kafka", broker.bootstrap, "orders", str(counts["Apache Kafka"]))
            curves |= {f"Apache Kafka{end}": samples(*arguments, build=builds[end]) for end in builds}
        setting = (
            f"One process that publishes {counts['memory://']:,} messages on memory:// and consumes them (without "
            f"consumers: publishes a tenth), retention 10,000 messages per partition; a backlog of "
            f"{counts['Apache Kafka']:,} on {broker.description}. "
            "Resident memory once a second, the first 2 s left out."
        )
        goals = [
            Goal(
                "memory:// over the same app without consumers, MB",
                lambda measured: (
                    measured["memory://"]["memory, most"] - measured["memory://, without consumers"]["memory, most"]
                ),
                40,
                at_most=True,
            ),
            *(
                Goal(f"{broker}: growth in the last half, MB", of(broker, "memory, last half"), 2, at_most=True)
                for broker in counts
            ),
            *no_worse(curves, options.against, "memory, most"),
        ]
        columns = ["memory, most", "memory, last half", "messages/s"]
        table = Table(name, "F8: memory over millions of messages", setting, columns, goals)
        table.runs = {label: [summary(curve)] for label, curve in curves.items()}
        table.chart = lambda path: draw_soak(curves, path)
        yield table


def samples(*arguments: str, build: Build = HERE) -> list[Measured]:
    *curve, end = [json.loads(line) for line in python("-m", "benchmarks.soak", *arguments, build=build, seconds=900)]
    if end["wrong"]:
        raise NoFigureError(f"{end['wrong']} messages lost, repeated or out of order")
    return [sample for sample in curve if sample["handled"]]


def summary(curve: Sequence[Measured]) -> Measured:
    settled = [sample for sample in curve if sample["seconds"] > curve[0]["seconds"] + 2]
    if not settled:
        raise NoFigureError("all was handled within 2 s, of which memory tells nothing: take a larger --scale")
    half = settled[len(settled) // 2]
    working = [sample for sample in curve if sample["handled"] < curve[-1]["handled"]]
    return {
        "memory, most": max(sample["resident"] for sample in settled),
        "memory, last half": settled[-1]["resident"] - half["resident"],
        "messages/s": (working[-1]["handled"] - working[0]["handled"])
        / (working[-1]["seconds"] - working[0]["seconds"]),
    }


def draw_soak(curves: Mapping[str, Sequence[Measured]], path: Path) -> None:
    with figure(path, (8, 5), rows=2) as (memory, rate):
        for label, curve in curves.items():
            memory.plot(
                [sample["handled"] / 1e6 for sample in curve], [sample["resident"] for sample in curve], label=label
            )
            steps = list(pairwise(curve))
            rates = [(b["handled"] - a["handled"]) / (b["seconds"] - a["seconds"]) for a, b in steps]
            rate.plot([b["handled"] / 1e6 for _, b in steps], rates, label=label)
        memory.set_ylabel("resident memory, MB")
        rate.set_ylabel("messages/s")
        rate.set_xlabel("messages handled (published, without consumers), millions")
        for axes in (memory, rate):
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)


# --- F9: import


class Import:
    CODE = """
import fastapi, time
began = time.perf_counter()
{statement}
print((time.perf_counter() - began) * 1e3)
"""
    KAFKA = """
import aiokafka
try:
    import fastapi_athomic.transports.kafka.transport
except ModuleNotFoundError:  # an old build, in which it was one module
    import fastapi_athomic.transports.kafka
"""

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        kafka = "with the Kafka transport and aiokafka"
        statements = {"import fastapi_athomic": "import fastapi_athomic", kafka: self.KAFKA}
        rounds = options.rounds * 3
        setting = (
            f"After `import fastapi`, in a new process; medians of {rounds} interleaved rounds, after one that "
            "compiles the modules."
        )
        names = [*statements, *(map(options.against.twin, statements) if options.against else ())]
        goals = [Goal(f"{kafka}, ms", of(kafka, "import"), 150, at_most=True)]
        table = Table(name, "F9: import", setting, ["import"], [*goals, *no_worse(names, options.against, "import")])
        table.runs = {name: [] for name in names}

        def run(name: str) -> Measured:
            label, build = origin(name, options.against)
            return {"import": float(python("-c", self.CODE.format(statement=statements[label]), build=build)[0])}

        for label in names:
            run(label)
        interleave(table, rounds, run)
        yield table


# --- F10: what a payload costs


class Payloads:
    COLUMNS = (PIPELINE, BARE, OVERHEAD, CONFLUENT, AS_MODEL)
    SETTING = (
        "Microseconds of CPU per message, in one thread, without a broker; medians of {rounds} processes, and in each "
        "the fastest of several turns, which the contenders take one after the other. By hand: the library alone, and "
        "pydantic; CloudEvents with its SDK. A step alone has text of 1 KB or 100 KB; the others have an order of ten "
        "lines (0.5 KB of JSON) or an event of five fields. We also make sure that what is written would be read back "
        "as the same value (docs/fidelity.md), which nobody does by hand. With {versions}."
    )
    PACKAGES = (
        *("confluent-kafka", "fastavro", "protobuf", "cryptography", "zstandard", "lz4", "msgpack", "cloudevents"),
        "jsonschema-rs",
    )

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        setting = self.SETTING.format(rounds=options.rounds, versions=versions(self.PACKAGES))
        table = Table(name, "F10: payloads", setting, self.COLUMNS, self._goals())
        table.chart = partial(draw_overheads, table)
        try:
            for _ in range(options.rounds):
                self._run(table)
        except NoFigureError as problem:
            table.problems = dict.fromkeys(table.runs or ("all",), str(problem))
            table.runs = {case: [] for case in table.problems}
        yield table

    def _run(self, table: Table) -> None:
        found: dict[str, dict[str, float]] = json.loads(python("-m", "benchmarks.payloads", seconds=900)[-1])
        for case, costs in found.items():
            everything = {**dict.fromkeys(self.COLUMNS, float("nan")), **costs}
            everything[OVERHEAD] = costs[PIPELINE] / costs[BARE]
            table.runs.setdefault(case, []).append(everything)

    def _goals(self) -> list[Goal]:
        small = ("Avro, 5 fields, read", "Protobuf, 5 fields, read")
        models = ("MessagePack, read", "JSON Schema, read", "CloudEvents, read", *small)
        larger = ("Avro, 10 lines, read", "Protobuf, 10 lines, read")
        return [
            costliest("a step, 100 KB", [f"{step}, 100 KB, {way}" for step in STEPS for way in WAYS]),
            costliest("a step, 1 KB", [f"{step}, 1 KB, {way}" for step in STEPS for way in WAYS]),
            costliest("JSON read through a step", [f"JSON, {step}, read" for step in STEPS]),
            costliest("other formats read", [*models, *larger]),
            *(Goal(f"{case}: {CONFLUENT} / {PIPELINE}", partial(beside_confluent, case), 2.5) for case in small),
        ]


def costliest(text: str, cases: Sequence[str]) -> Goal:
    return Goal(
        f"{text}: the costliest / {BARE}",
        lambda measured: max(measured[case][OVERHEAD] for case in cases),
        1.15,
        at_most=True,
    )


def beside_confluent(case: str, measured: Mapping[str, Measured]) -> float:
    return measured[case][CONFLUENT] / measured[case][PIPELINE]


def draw_overheads(table: Table, path: Path) -> None:
    """A bar for each case: how many times as long as by hand."""
    medians = table.medians()
    if not medians:
        return
    names = list(reversed(medians))
    values = [medians[name][OVERHEAD] for name in names]
    with figure(path, (8, 0.8 + 0.2 * len(names))) as (axes,):
        bars = axes.barh(names, values, color=["#0b7285" if name.endswith("read") else "#adb5bd" for name in names])
        axes.bar_label(bars, [FORMATS[OVERHEAD].format(value) for value in values], padding=4, fontsize=7)
        axes.axvline(1.15, color="#c92a2a", linewidth=0.8)
        axes.set_title(f"{table.title}: times as long as by hand", fontsize=10)
        axes.tick_params(labelsize=7)
        axes.margins(x=0.12, y=0.01)
        axes.spines[["top", "right"]].set_visible(False)


# --- E6: a handler that lets go of the GIL


class Isolated:
    """Apps on any core, as two threads can use two of them here."""

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        assert options.against is not None
        with running_broker("kafka") as broker:
            run = HttpRun(
                broker.bootstrap, options.seconds, mock=False, cores=None, against=options.against, work=NUMPY
            )
            fill(broker.bootstrap, "orders", "uniform", run.backlog, create=True)
            setting = (
                f"{broker.description}, a backlog of {run.backlog:,} messages, a handler that multiplies two matrices "
                f"of {MATRIX_SIZE} rows (float32, numpy with one thread, which lets go of the GIL meanwhile), one "
                f"uvicorn process, `GET /ping` at {RATE:g} requests/s on a schedule for {run.seconds:g} s after "
                f"{WARM_UP_SECONDS:g} s of warm-up, all on any core; medians of {options.rounds} interleaved rounds."
            )
            goals = [
                goal(IN_A_THREAD, OURS, 0.9, "consumed/s"),
                at_most(IN_A_THREAD, options.against.twin(IN_A_THREAD), 1, "p99"),
            ]
            columns = ["consumed/s", "p99", "p50", "p99.9", "longest"]
            table = Table(name, "E6: numpy in the handler, HTTP beside it", setting, columns, goals)
            table.runs = {app: [] for app in with_twins([OURS, IN_A_THREAD], options.against)}
            interleave(table, options.rounds, run.measure)
        yield table


FAST, SLOW = 400_000, 40_000

EVERYDAY: Mapping[str, Any] = {
    "e1": IDLE,
    "e2": TRICKLE,
    "e3": Deploys(),
    "e4": START,
    "e5": CONNECTED,
    "e6": Isolated(),
}
FIGURES: Mapping[str, Any] = {
    "f1": Throughput(
        "F1: one message at a time",
        {
            HAND: FAST,
            OURS: FAST,
            IN_A_THREAD: FAST,
            "kstreams": FAST // 2,
            "FastStream": SLOW,
            "FastStream, at least once": SLOW // 5,
        },
        [goal(OURS, HAND, 0.7), goal(OURS, "FastStream", 6), goal(OURS, "FastStream, at least once", 35)],
    ),
    "f2": Throughput(
        "F2: every span recorded",
        {"hand-written, traced": FAST // 4, "fastapi-athomic, traced": FAST // 4, "FastStream, traced": SLOW // 2},
        [
            goal("fastapi-athomic, traced", "hand-written, traced", 0.9),
            goal("fastapi-athomic, traced", "FastStream, traced", 3),
        ],
    ),
    "f3": Throughput(
        "F3: batches of 500",
        {"hand-written, batch": FAST, "fastapi-athomic, batch": FAST, "FastStream, batch": FAST // 2},
        [
            goal("fastapi-athomic, batch", "hand-written, batch", 0.9),
            goal("fastapi-athomic, batch", "FastStream, batch", 3),
        ],
    ),
    "f4": Throughput(
        "F4: 5 ms of I/O, order per key, 1,000 in flight",
        {
            "hand-written, key lanes": FAST // 2,
            "fastapi-athomic, key lanes": FAST // 2,
            "FastStream, 100 workers": SLOW,
            "FastStream, 1000 workers": SLOW,
        },
        [
            goal("fastapi-athomic, key lanes", "hand-written, key lanes", 0.9),
            goal("fastapi-athomic, key lanes", "FastStream, 100 workers", 8),
            goal("fastapi-athomic, key lanes", "FastStream, 1000 workers", 8),
        ],
        dict.fromkeys(("FastStream, 100 workers", "FastStream, 1000 workers"), "in no order, at most once"),
        zipf=0.25,  # the most frequent key, one message after the other, allows at most 2,000 messages/s
    ),
    "f5": Http(
        [
            Goal(f"{OURS}, p99 in ms", of(OURS, "p99"), 5, at_most=True),
            goal(OURS, HAND, 0.85, "consumed/s"),
            Goal(f"{IN_A_THREAD}, p99 in ms", of(IN_A_THREAD, "p99"), 5, at_most=True),
            goal(IN_A_THREAD, HAND, 0.85, "consumed/s"),
        ]
    ),
    "f6": Ordered(
        [
            goal
            for name in ORDERED
            for goal in (
                Goal(f"{name}, messages/s", of(name, "messages/s"), 20_000),
                Goal(f"{name}, {ROUND_TRIPS}", of(name, ROUND_TRIPS), 1, at_most=True),
            )
        ]
    ),
    "f7": Latency(
        ["aiokafka, async for", OURS, IN_A_THREAD, "kstreams", "FastStream"],
        [
            Goal(
                f"{OURS} - aiokafka, {column} in ms",
                lambda measured, column=column: measured[OURS][column] - measured["aiokafka, async for"][column],  # type: ignore[misc]
                1,
                at_most=True,
            )
            for column in ("p50", "p99")
        ],
    ),
    "f8": Memory(),
    "f9": Import(),
    "f10": Payloads(),
    **EVERYDAY,
}
BROKER_OF: Mapping[str, Sequence[BrokerName]] = {name: ["kafka"] for name in ("f8", "f9", "f10", *EVERYDAY)}
"""F8 starts its own brokers, F9 and F10 need none, and everyday load is about Apache Kafka's protocol."""
