"""`fastapi-athomic topics`: every topic that the app needs, and the rights (ACLs) on them, for who makes them."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from ..athomic import Athomic
from ..consumption.service import ConsumerService
from ..observation.effective import ANY_TOPIC
from ..rights import ANY_NAME, Right, rights_of, rights_to_settle
from ..transports.schemes import create_transport
from .app import add_app_options, find_athomics, refuse_memory
from .handlers import dlq_topics
from .terminal import OK, print_json, print_table

FORMATS = ("text", "json", "kafka-acls")


@dataclass(slots=True, kw_only=True)
class _Topic:
    """A topic, or what a pattern stands for."""

    name: str
    pattern: str | None = None  # the name has a placeholder for each topic that this matches, or is the pattern
    kinds: list[str] = field(default_factory=list)  # source, retry, redrive, dlq, published
    handlers: list[str] = field(default_factory=list)
    partitions_as: list[str] = field(default_factory=list)  # names of its sources; none for a source itself
    created_by_app: bool = False  # the settings allow it
    partitions: int | None = None  # as the broker says; None: not asked, or it does not exist


@dataclass(slots=True)
class _Needs:
    topics: dict[str, _Topic] = field(default_factory=dict)  # by name
    rights: list[Right] = field(default_factory=list)  # of the app
    rights_to_settle: list[Right] = field(default_factory=list)  # of people who look after dead letters


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `topics`."""
    command = areas.add_parser(
        "topics",
        help="list all topics that the app needs, and the rights (ACLs)",
        description="Lists the topics of all handlers, those for retries, redrives and dead letters too, and the "
        "rights that the app needs on them. No broker is asked, unless you say --ask-broker.",
    )
    add_app_options(command)
    command.add_argument("--format", choices=FORMATS, default="text", help="kafka-acls: lines for kafka-acls.sh")
    command.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    command.add_argument(
        "--publishes",
        action="append",
        default=[],
        metavar="TOPIC",
        help="a topic that the app publishes to without athomic.publisher; orders.* means all that begin so",
    )
    command.add_argument("--principal", default="User:app", help="the app, for kafka-acls (default: User:app)")
    command.add_argument("--ask-broker", action="store_true", help="ask the broker which topics exist, and how large")
    command.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Prints the topics and the rights; returns the exit status."""
    needs = _Needs()
    for athomic in find_athomics(options):
        declared = [publisher.topic for publisher in athomic.publishers.all]
        published = [*dict.fromkeys((*declared, *options.publishes))]
        _add(needs, athomic, (await athomic.check()).consumers.values(), published)
        if options.ask_broker:
            await _ask(athomic, needs.topics.values())
    needs.rights, needs.rights_to_settle = _merged(needs.rights), _merged(needs.rights_to_settle)
    if options.format == "json":
        print_json(
            {
                "topics": [asdict(topic) for topic in needs.topics.values()],
                "rights": [asdict(right) for right in needs.rights],
                "rights_to_settle_dead_letters": [asdict(right) for right in needs.rights_to_settle],
            }
        )
    elif options.format == "kafka-acls":
        _print_commands(needs, options.principal)
    else:
        _print(needs, asked=options.ask_broker)
    if not options.publishes:
        print("What athomic.publish sends to is in no handler: name it with --publishes TOPIC.", file=sys.stderr)
    return OK


# --- what is needed


def _add(needs: _Needs, athomic: Athomic, consumers: Iterable[ConsumerService], published: Sequence[str]) -> None:
    create = athomic.settings.makes_topics
    for service in consumers:
        _add_handler(needs, service, create)
    for name in published:
        _note(needs, name, "published", created=create)
    needs.rights += [
        right
        for right in rights_of(group_id="", sources=(), published=published, create_topics=create)
        if right.resource_type == "Topic"
    ]


def _add_handler(needs: _Needs, service: ConsumerService, create: bool) -> None:
    subscription, returns = service.subscription, service.dlq_handler.returns
    pattern = subscription.pattern
    handler_id, regex = subscription.handler_id, pattern.pattern if pattern else None
    sources = subscription.topics if pattern is None else (ANY_TOPIC,)
    dlqs = dlq_topics(service)
    retries = [topic for source in sources for topic in returns.retries(source)]
    redrives = [returns.redrive(source) for source in sources] if dlqs else []
    for source in subscription.topics:
        _note(needs, source, "source", handler_id, created=create)
    if regex is not None:
        _note(needs, f"/{regex}/", "source", handler_id, pattern=regex)
    for source in sources:
        own = [("retry", topic) for topic in returns.retries(source)]
        if (dlq := service.dlq_handler.topic_for(source)) is not None:
            own += [("redrive", returns.redrive(source)), ("dlq", dlq)]
        for kind, topic in own:
            _note(
                needs,
                topic,
                kind,
                handler_id,
                like=source,
                created=create,
                pattern=regex if ANY_TOPIC in topic else None,
            )
    begin = literal_prefix(pattern) if pattern else ""

    def named(topics: Iterable[str]) -> list[str]:
        """For rights, which know names and prefixes only."""
        return [topic.partition(ANY_TOPIC)[0] + begin + ANY_NAME if ANY_TOPIC in topic else topic for topic in topics]

    needs.rights += rights_of(
        group_id=subscription.group_id,
        sources=named(sources),
        dlqs=named(dlqs),
        retries=named(retries),
        redrives=named(redrives),
        create_topics=create,
    )
    if dlqs:
        needs.rights_to_settle += rights_to_settle(
            sources=named(sources), dlqs=named(dlqs), redrives=named(redrives), create_topics=create
        )


def _note(
    needs: _Needs,
    name: str,
    kind: str,
    handler_id: str = "",
    *,
    like: str = "",
    created: bool = False,
    pattern: str | None = None,
) -> None:
    topic = needs.topics.setdefault(name, _Topic(name=name, pattern=pattern, created_by_app=created))
    for values, value in ((topic.kinds, kind), (topic.handlers, handler_id), (topic.partitions_as, like)):
        if value and value not in values:
            values.append(value)


def literal_prefix(pattern: re.Pattern[str]) -> str:
    """How every topic begins that the pattern matches, as far as that is plain; empty if it is not.

    Kafka's ACLs know names and prefixes (KIP-290), but no patterns.
    """
    text = pattern.pattern
    found: list[str] = []
    if pattern.flags & (re.IGNORECASE | re.VERBOSE) or "|" in re.sub(r"\([^()]*\)", "", text):
        return ""
    for part in re.finditer(r"\\?.", text):
        literal = part[0].removeprefix("\\")
        if not re.fullmatch(r"[\w-]|\\[.-]", part[0]):
            if literal in "*?{" and found:
                found.pop()
            break
        found.append(literal)
    return "".join(found)


def _merged(rights: Iterable[Right]) -> list[Right]:
    """One for each resource, with all that is needed on it."""
    merged: dict[tuple[str, str, str], Right] = {}
    for right in rights:
        known = merged.setdefault((right.resource_type, right.name, right.pattern_type), right)
        operations = tuple(dict.fromkeys((*known.operations, *right.operations)))
        purpose = known.purpose if right.purpose in known.purpose else f"{known.purpose}; {right.purpose}"
        merged[right.resource_type, right.name, right.pattern_type] = replace(
            known, operations=operations, purpose=purpose
        )
    writes = any("Write" in right.operations for right in merged.values())  # then none on the cluster is needed
    return [right for right in merged.values() if not (writes and right.resource_type == "Cluster")]


async def _ask(athomic: Athomic, topics: Collection[_Topic]) -> None:
    refuse_memory(athomic)
    transport, timeout = create_transport(athomic.settings), athomic.settings.request_timeout
    await transport.start(timeout)
    try:
        counts = await transport.partition_counts([topic.name for topic in topics if topic.pattern is None], timeout)
    finally:
        await transport.stop(timeout)
    for topic in topics:
        topic.partitions = counts.get(topic.name, topic.partitions)


# --- printing


def _print(needs: _Needs, *, asked: bool) -> None:
    titles = ("TOPIC", "FOR", "PARTITIONS", "HANDLERS")
    rows = [
        (each.name, ", ".join(each.kinds), _partitions(each, asked), ", ".join(each.handlers))
        for each in needs.topics.values()
    ]
    print_table(titles, rows)
    print()
    for title, rights in (
        ("RIGHTS OF THE APP", needs.rights),
        ("OF PEOPLE WHO SETTLE DEAD LETTERS", needs.rights_to_settle),
    ):
        print_table(
            (title, "RESOURCE", "FOR"),
            [(", ".join(right.operations), _resource(right), right.purpose) for right in rights],
        )
        print()
    created = {topic.created_by_app for topic in needs.topics.values() if topic.pattern is None}
    if created == {True}:
        print("The app makes what is missing when it is needed (create_topics), where it has the right Create.")
    elif created:
        print("create_topics is off: somebody else makes the topics.")


def _partitions(topic: _Topic, asked: bool) -> str:
    wanted = "your choice"
    if topic.partitions_as:
        largest = "the largest of " if len(topic.partitions_as) > 1 else ""
        wanted = f"as many as {largest}{', '.join(topic.partitions_as)}"
    elif topic.pattern is not None:
        return "-"
    if topic.pattern is not None:
        return wanted
    if not asked:
        return wanted
    return str(topic.partitions) if topic.partitions is not None else f"missing: {wanted}"


def _resource(right: Right) -> str:
    prefixed = right.pattern_type == "Prefixed"
    return f"{right.resource_type.lower()} {right.name}{ANY_NAME if prefixed else ''}"


def _print_commands(needs: _Needs, principal: str) -> None:
    print("# what the app needs")
    print(_lines(needs.rights, shlex.quote(principal)), end="")
    if needs.rights_to_settle:
        print(
            "# what people need who list, redrive and discard dead letters; OPERATOR is one of them, such as User:ann"
        )
        print(_lines(needs.rights_to_settle, '"$OPERATOR"'), end="")


def _lines(rights: Iterable[Right], principal: str) -> str:
    return "".join(f"{_command(right, principal)}\n" for right in rights)


def _command(right: Right, principal: str) -> str:
    kind, name = right.resource_type.lower(), shlex.quote(right.name)
    resource = "--cluster" if kind == "cluster" else f"--{kind} {name}"
    prefixed = " --resource-pattern-type prefixed" if right.pattern_type == "Prefixed" else ""
    operations = " ".join(f"--operation {operation}" for operation in right.operations)
    return (
        f'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --add --allow-principal {principal} '
        f"{operations} {resource}{prefixed}"
    )
