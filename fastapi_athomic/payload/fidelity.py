"""Which types are surely read back from JSON as the same value? Their schemas tell.

Reading back what was just written would prove it too, but costs more than writing. Most messages are models of plain
fields, for which the schema is proof enough (https://docs.pydantic.dev/latest/internals/architecture/). What a schema
leaves open, such as a NaN or a subclass in a field, is checked in the value. All use of pydantic's core schema is in
this module. As pydantic may extend it, everything that is not known to be harmless counts as doubtful.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from itertools import chain
from math import isfinite
from operator import attrgetter, itemgetter
from typing import Any

Schema = Mapping[str, Any]
Values = Collection[Any]
Check = Callable[[Values], bool]
"""Whether values of one type are surely read back unchanged. It takes many values at once, which is cheap for lists.

It may raise if a value is of another type, which means no.
"""


def doubt(values: Values) -> bool:
    """The check of doubtful types: none of their values is surely read back unchanged."""
    return False


def check_of_message(schema: Schema, checks: Mapping[str, Check] | None = None) -> Check | None:
    """The check of a model or dataclass; None: nothing to check, all its instances are read back unchanged.

    The caller knows that the message is of exactly this class.

    Args:
        schema: of the class.
        checks: of the simple types, where it depends on the format; None: those of JSON.
    """
    compiled = _Compiler(JSON_CHECKS if checks is None else checks).check_of(schema)
    return compiled.of_fields if isinstance(compiled, _RecordCheck) else compiled


def is_flat(schema: Schema) -> bool:
    """Whether it is a model whose fields contain no models, lists or dicts: their types tell if all is as declared."""
    parts = [part["type"] for part in _walk(schema)]
    return parts.count("model") == 1 and _FLAT.issuperset(parts)


def is_strict(schema: Schema) -> bool:
    """Whether pydantic takes some of it only as its own type, unless it is read from JSON."""
    return any(part.get("strict") or part.get("config", {}).get("strict") for part in _walk(schema))


def takes_numbers(schema: Schema) -> bool:
    """Whether some of it is declared as an `int`."""
    return any(part["type"] == "int" for part in _walk(schema))


def shows_raw_records(schema: Schema) -> bool:
    """Whether code of the user's gets records before pydantic has left out what they do not declare."""
    for part in _walk(schema):
        if part["type"] == "function-plain" or callable(part.get("discriminator")):
            return True
        if part["type"] in ("function-before", "function-wrap"):
            inside = {each["type"] for each in _walk(part["schema"])}
            if not inside.isdisjoint((*_RECORDS, "model-fields", "dataclass-args", "typed-dict", "definition-ref")):
                return True
    return False


def takes_times(schema: Schema) -> bool:
    """Whether some of it is declared as a `datetime` or `date`."""
    return any(part["type"] in ("datetime", "date") for part in _walk(schema))


def keeps_anything(schema: Schema) -> bool:
    """Whether some of it may hold values of any type as they come."""
    return any(
        _allows_anything(part) or part["type"] in ("is-instance", "function-plain") or _allows_extra(part)
        for part in _walk(schema)
    )


def _allows_extra(part: Schema) -> bool:
    return "allow" in (part.get("extra_behavior"), part.get("config", {}).get("extra_fields_behavior"))


def names_of(schema: Schema) -> frozenset[str]:
    """The names that places in a value may have: of fields and their aliases, of tags and classes of unions."""
    names: set[str] = set()
    for part in _walk(schema):
        fields = [*part.get("fields", ()), *part.get("computed_fields", ()), *part.get("arguments_schema", ())]
        names.update(_names_of_fields(fields))
        if isinstance(part.get("fields"), dict):
            names.update(_names_of_fields(part["fields"].values()))
        if part["type"] == "tagged-union":
            names.update(tag for tag in part["choices"] if isinstance(tag, str))
        if part["type"] in _RECORDS:
            names.add(part["cls"].__name__)
    return frozenset(names)


def _names_of_fields(fields: Collection[Any]) -> Iterator[str]:
    """Takes names, or schemas of fields, computed fields and arguments."""
    for field in fields:
        if isinstance(field, str):
            yield field
        elif isinstance(field, dict):
            yield from (field[key] for key in ("name", "property_name") if isinstance(field.get(key), str))
            for key in ("validation_alias", "serialization_alias", "alias"):
                yield from _texts_in(field.get(key))


def _texts_in(alias: Any) -> Iterator[str]:
    """An alias is a name, a path, or a list of paths."""
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, list):
        for part in alias:
            yield from _texts_in(part)


def undeclared_fields(schema: Schema, kind: type) -> frozenset[str]:
    """The fields of a model or dataclass that allow anything, or hold something that allows anything."""
    records = (part for part in _walk(schema) if part["type"] in _RECORDS and part["cls"] is kind)
    record = next(records, None)
    if record is None:
        return frozenset()
    if record.get("root_model"):
        return frozenset(("root",)) if _allows_anything(record["schema"]) else frozenset()
    return frozenset(name for name, field in _named_fields(record) if _allows_anything(field["schema"]))


def _named_fields(record: Schema) -> Iterator[tuple[str, Schema]]:
    """The fields of a model (a dict) or dataclass (a list), from inside any validators around them."""
    for part in _walk(record["schema"], into_records=False):
        if part["type"] == "model-fields":
            yield from part["fields"].items()
        elif part["type"] == "dataclass-args":
            yield from ((field["name"], field) for field in part["fields"])


_RECORDS = ("model", "dataclass")
_ALWAYS = {"type", "ref", "metadata"}
_HARMLESS_KEYS: Mapping[str, Collection[str]] = {
    **dict.fromkeys(("none", "bool", "str", "int", "float", "bytes", "decimal", "uuid", "date"), ()),
    **dict.fromkeys(("time", "datetime", "timedelta"), ("microseconds_precision",)),
    **dict.fromkeys(("list", "set", "frozenset"), ("items_schema",)),
    "tuple": ("items_schema", "variadic_item_index"),
    "dict": ("keys_schema", "values_schema", "strict"),  # False in pydantic before 2.8; True is a doubt
    "nullable": ("schema",),
    "default": ("schema", "default", "default_factory", "default_factory_takes_data", "validate_default"),
    "enum": ("cls", "members", "sub_type"),
    "literal": ("expected",),
    "definitions": ("schema", "definitions"),
    "definition-ref": ("schema_ref",),
    "model": ("cls", "schema", "custom_init", "root_model", "post_init", "config", "frozen", "generic_origin"),
    "model-fields": ("fields", "model_name", "computed_fields"),
    "model-field": ("schema", "validation_alias", "serialization_alias", "frozen"),
    "dataclass": ("cls", "schema", "fields", "post_init", "config", "frozen", "slots", "generic_origin"),
    "dataclass-args": ("fields", "dataclass_name", "computed_fields", "collect_init_only"),
    "dataclass-field": ("schema", "name", "kw_only", "init", "frozen", "validation_alias", "serialization_alias"),
}
_attributes = attrgetter("__dict__")
_FLAT = {
    *("none", "bool", "str", "int", "float", "bytes", "decimal", "uuid", "date", "time", "datetime", "timedelta"),
    *("enum", "nullable", "default", "model", "model-fields", "model-field"),
}
_HARMLESS_CONFIG = {
    *("title", "frozen", "from_attributes", "extra_fields_behavior", "validate_by_alias", "validate_by_name"),
    *("serialize_by_alias", "loc_by_alias", "validate_default", "revalidate_instances", "hide_input_in_errors"),
    *("validation_error_cause", "cache_strings", "regex_engine"),
}
_CONTENTS = {**dict.fromkeys(("list", "set", "frozenset"), "items_schema"), "dict": "values_schema"}
ANY: Schema = {"type": "any"}
_KEYS = ("str", "int", "uuid")
"""Types of keys that are read back from their text, which is never the same for two keys."""


def _are_finite(values: Values) -> bool:
    return all(map(isfinite, values))


def _are_finite_decimals(values: Values) -> bool:
    return all(map(Decimal.is_finite, values))


def _have_whole_minutes(values: Values) -> bool:
    """UTC offsets are written in minutes (RFC 3339), but local mean time, used before about 1900, has seconds."""
    for value in values:
        offset = None if value.tzinfo is None else value.utcoffset()
        if offset is not None and (offset.seconds % 60 or offset.microseconds):
            return False
    return True


def _are_within_utc(values: Values) -> bool:
    """Surely years 1 to 9999 in UTC, too. Times without a zone are not moved there."""
    for value in values:  # noqa: SIM110  # a generator costs more
        if not 1 < value.year < 9999 and value.tzinfo is not None:
            return False
    return True


JSON_CHECKS: Mapping[str, Check] = {
    "float": _are_finite,
    "decimal": _are_finite_decimals,
    "datetime": _have_whole_minutes,
    "time": _have_whole_minutes,
}
MESSAGEPACK_CHECKS: Mapping[str, Check] = {
    "decimal": _are_finite_decimals,
    "datetime": _are_within_utc,
    "time": _have_whole_minutes,
}


class _Compiler:
    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._known: dict[str, Schema] = {}  # definitions by their reference
        # References being compiled: values of types that contain themselves may be nested too deeply to be read.
        self._open: set[str] = set()

    def check_of(self, schema: Schema) -> Check | None:
        kind, ref = schema["type"], schema.get("ref")
        if kind not in _HARMLESS_KEYS or ref in self._open:
            return doubt
        if not schema.keys() <= _ALWAYS.union(_HARMLESS_KEYS[kind]) or schema.get("strict"):
            return doubt
        if ref is None:
            return self._compile(kind, schema)
        self._known[ref] = schema
        self._open.add(ref)
        check = self._compile(kind, schema)
        self._open.remove(ref)
        return check

    def _compile(self, kind: str, schema: Schema) -> Check | None:
        match kind:
            case "definitions":
                self._known |= {known["ref"]: known for known in schema["definitions"]}
                return self.check_of(schema["schema"])
            case "definition-ref":
                return self.check_of(self._known[schema["schema_ref"]])
            case "default":
                return self.check_of(schema["schema"])
            case "nullable":
                return _unless_none(self.check_of(schema["schema"]))
            case "list" | "set" | "frozenset":
                return _of_all(self.check_of(schema.get("items_schema", ANY)))
            case "tuple":
                return self._tuple(schema)
            case "dict":
                return self._dict(schema)
            case "enum":
                return _of_values([member.value for member in schema["members"]])
            case "literal":
                return _of_values(schema["expected"])
            case "model" | "dataclass":
                return self._record(schema)
            case _:
                return self._checks.get(kind)

    def _tuple(self, schema: Schema) -> Check | None:
        checks = [self.check_of(item) for item in schema["items_schema"]]
        if "variadic_item_index" in schema:
            return _of_all(checks[0]) if len(checks) == 1 else doubt
        return _of_parts([(itemgetter(index), check) for index, check in enumerate(checks)])

    def _dict(self, schema: Schema) -> Check | None:
        keys = schema.get("keys_schema", ANY)
        if keys["type"] not in _KEYS or self.check_of(keys) is not None:
            return doubt
        of_values = _of_all(self.check_of(schema.get("values_schema", ANY)))
        if of_values is None or of_values is doubt:
            return of_values
        return lambda values: of_values([held for value in values for held in value.values()])

    def _record(self, schema: Schema) -> Check | None:
        kind: type = schema["cls"]
        inner: Schema = schema["schema"]
        if not _is_plain(schema) or (schema.get("root_model") and inner["type"] == "model-fields"):
            return doubt
        if schema.get("root_model"):
            return _of_record(kind, _of_parts([(attrgetter("root"), self.check_of(inner))]))
        if inner["type"] not in ("model-fields", "dataclass-args"):
            return doubt
        if not inner.keys() <= _ALWAYS.union(_HARMLESS_KEYS[inner["type"]]):
            return doubt
        fields = inner["fields"]
        named = fields if isinstance(fields, dict) else {field["name"]: field for field in fields}
        if not _names_agree(named, inner.get("computed_fields", ()), schema.get("config", {})):
            return doubt
        of_fields = _of_parts([(attrgetter(name), self._field(field)) for name, field in named.items()])
        return _of_record(kind, _of_whole(len(named), of_fields) if schema["type"] == "model" else of_fields)

    def _field(self, field: Schema) -> Check | None:
        if not field.keys() <= _ALWAYS.union(_HARMLESS_KEYS[field["type"]]) or not field.get("init", True):
            return doubt
        return self.check_of(field["schema"])


def _is_plain(record: Schema) -> bool:
    """Whether reading it runs no code of the user's, and nothing about the writing is configured."""
    config = record.get("config", {})
    return (
        not record.get("custom_init")
        and (not record.get("post_init") or _only_makes_private_attributes(record["cls"]))
        and config.keys() <= _HARMLESS_CONFIG
        and config.get("extra_fields_behavior", "ignore") in ("ignore", "forbid")
    )


def _only_makes_private_attributes(kind: Any) -> bool:
    return getattr(getattr(kind, "model_post_init", None), "__module__", "").startswith("pydantic.")


def _names_agree(fields: Mapping[str, Schema], computed: Collection[Schema], config: Schema) -> bool:
    """Whether each field has a name of its own under which it is written and read, and nothing else takes that name."""
    written = [field.get("serialization_alias", name) for name, field in fields.items()]
    beside = [field.get("alias", field["property_name"]) for field in computed]
    if len({*written, *fields, *beside}) < len({*written, *fields}) + len(beside) or len(set(written)) < len(written):
        return False
    if beside and config.get("extra_fields_behavior") == "forbid":
        return False
    by_alias, by_name = config.get("validate_by_alias", True), config.get("validate_by_name", False)
    return all(
        (by_alias and field.get("validation_alias", name) == alias)
        or (alias == name and (by_name or "validation_alias" not in field))
        for alias, (name, field) in zip(written, fields.items(), strict=True)
    )


def _unless_none(check: Check | None) -> Check | None:
    if check is None or check is doubt:
        return check
    return lambda values: check([value for value in values if value is not None])


def _of_all(check: Check | None) -> Check | None:
    """The check of lists and the like, from that of their items."""
    if check is None or check is doubt:
        return check
    return lambda values: check([*chain.from_iterable(values)])


def _of_values(values: Collection[object]) -> Check | None:
    """The check of an enum or a literal."""
    kinds = set(map(type, values))
    return None if kinds <= {str} or kinds <= {int} else doubt


def _of_parts(parts: Collection[tuple[Callable[[Any], Any], Check | None]]) -> Check | None:
    checks = [(get, check) for get, check in parts if check is not None]
    if any(check is doubt for _, check in checks):
        return doubt

    def check_parts(values: Values) -> bool:
        for get, check in checks:  # noqa: SIM110  # a generator costs more than the checks of one message
            if not check([*map(get, values)]):
                return False
        return True

    return check_parts if checks else None


def _of_whole(size: int, of_fields: Check | None) -> Check:
    """Accepts only models with exactly their fields: `model_construct` makes others, and pydantic writes them."""
    if of_fields is doubt:
        return doubt
    sizes = {size}

    def check_whole(values: Values) -> bool:
        return {*map(len, map(_attributes, values))} <= sizes and (of_fields is None or of_fields(values))

    return check_whole


class _RecordCheck:
    """The check of records of exactly one class: a subclass would be written or read without what it adds."""

    def __init__(self, kind: type, of_fields: Check | None) -> None:
        self._kinds = {kind}
        self.of_fields = of_fields

    def __call__(self, values: Values) -> bool:
        return {*map(type, values)} <= self._kinds and (self.of_fields is None or self.of_fields(values))


def _of_record(kind: type, of_fields: Check | None) -> Check:
    return doubt if of_fields is doubt else _RecordCheck(kind, of_fields)


def _allows_anything(schema: Schema) -> bool:
    return any(
        part["type"] == "any" or _CONTENTS.get(part["type"], "type") not in part
        for part in _walk(schema, into_records=False)
    )


def _walk(schema: Any, *, into_records: bool = True) -> Iterator[Schema]:
    """All schemas in a schema, from the outside in."""
    if isinstance(schema, dict):
        if not into_records and schema.get("type") in _RECORDS:
            return
        if isinstance(schema.get("type"), str):
            yield schema
        for key, part in schema.items():
            if key not in ("metadata", "default", "config"):
                yield from _walk(part, into_records=into_records)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _walk(part, into_records=into_records)
