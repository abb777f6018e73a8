"""`fastapi-athomic topics`: every topic that the app needs, and the rights (ACLs) on them, for who makes them.

With `--create` it makes them itself: see `topic_creation`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict

from ..athomic import Athomic
from ..exceptions import AthomicError
from ..rights import ANY_NAME, Right
from ..transports.schemes import create_transport
from .app import add_app_options, find_athomics, refuse_memory
from .terminal import OK, print_json, print_table
from .topic_creation import KINDS, create
from .topic_needs import NeededTopic, Needs, add_needs, merged

FORMATS = ("text", "json", "kafka-acls")


def add_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `topics`."""
    command = areas.add_parser(
        "topics",
        help="list all topics that the app needs, and the rights (ACLs)",
        description="Lists the topics of all handlers, those for retries, redrives and dead letters too, and the "
        "rights that the app needs on them. No broker is asked, unless you say --ask-broker. With --create those that "
        "are missing are created, for a deploy whose app may not or should not do that.",
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
    creation = command.add_argument_group("creating topics")
    creation.add_argument(
        "--create", action="store_true", help="create what is missing; existing ones stay as they are"
    )
    creation.add_argument("--dry-run", action="store_true", help="only say what would be created")
    creation.add_argument(
        "--for",
        action="append",
        default=[],
        choices=KINDS,
        dest="only",
        help="only topics for this, may be repeated (default: all)",
    )
    creation.add_argument(
        "--partitions",
        type=int,
        metavar="COUNT",
        help="for sources and topics that are published to (default: the broker's); others get as many as their source",
    )
    command.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Prints the topics and the rights, or creates the topics; returns the exit status."""
    needs, athomics = Needs(), dict[Athomic, list[str]]()
    for athomic in find_athomics(options):
        declared = [publisher.topic for publisher in athomic.publishers.all]
        athomics[athomic] = [*dict.fromkeys((*declared, *options.publishes))]
    if options.partitions is not None and options.partitions < 1:
        raise AthomicError("--partitions must be 1 or more")
    if options.create:
        return await create(athomics, options)
    if options.dry_run or options.only or options.partitions is not None:
        raise AthomicError("--dry-run, --for and --partitions go with --create")
    for athomic, published in athomics.items():
        add_needs(needs, athomic, (await athomic.check()).consumers.values(), published)
        if options.ask_broker:
            await _ask(athomic, needs.topics.values())
    needs.rights, needs.rights_to_settle = merged(needs.rights), merged(needs.rights_to_settle)
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
        at_start = any(athomic.settings.create_topics == "at_start" for athomic in athomics)
        _print(needs, asked=options.ask_broker, at_start=at_start)
    if not options.publishes:
        print("What athomic.publish sends to is in no handler: name it with --publishes TOPIC.", file=sys.stderr)
    return OK


async def _ask(athomic: Athomic, topics: Collection[NeededTopic]) -> None:
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


def _print(needs: Needs, *, asked: bool, at_start: bool) -> None:
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
        when = "at its start" if at_start else "when it is needed"
        print(f"The app makes what is missing {when} (create_topics), where it has the right Create.")
    elif created:
        print("create_topics is off: somebody else makes the topics, or this command with --create.")


def _partitions(topic: NeededTopic, asked: bool) -> str:
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


def _print_commands(needs: Needs, principal: str) -> None:
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
