"""Where settings come from outside of code: environment variables, lines of a `.env` file, files with secrets.

pydantic-settings reads them. What it would leave out without a word (a misspelt variable), or complain about without
naming it, is kept here as a `Refusal` among the values, until the settings are validated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, Self, get_args, get_origin

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

PREFIX = "ATHOMIC_"
DELIMITER = "__"
"""Between the name of a section and that of its setting: `ATHOMIC_KAFKA__LINGER`."""
NOT_OURS = ("ATHOMIC_TEST_*",)
"""Patterns of variables that belong to the package's own tests. `AthomicSettings.ignored_variables` takes others."""
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|PORT=\w+://)", re.I
)
"""Begins `name=value` of a variable that Kubernetes has made."""
CLOSE = 0.75
"""How similar two names must be for one to be a misspelling of the other; 1 is the same name."""
ELSEWHERE = {
    "bootstrap_servers": "broker_url",
    "kafka_bootstrap_servers": "broker_url",
    "kafka_brokers": "broker_url",
    "kafka_url": "broker_url",
    "redis_url": "state_store_url",
}
"""What others call a setting, where the names are not similar."""
OBJECT = "must be a JSON object; or set its parts one by one, in variables that begin with {variable}__"
LIST = "must be a list in JSON, or be written with commas: one,two"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Refusal(NamedTuple):
    """Takes the place of a value that is not read. Its key is the name of the variable."""

    sentence: str
    unknown: bool  # there is no such setting: it may be somebody else's variable


class CheckedSource(PydanticBaseSettingsSource):
    """What another source reads, with a `Refusal` for each variable that it cannot read as a setting.

    Lines of a `.env` file that do not begin with the prefix belong to something else and are left out. Tuples may be
    written with commas instead of in JSON.
    """

    def __init__(self, source: EnvSettingsSource, where: str = "") -> None:
        super().__init__(source.settings_cls)
        self._source = source
        self._where = where

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        refusals: dict[str, Any] = {}
        readable: dict[str, str | None] = {}
        for name, value in self._source.env_vars.items():
            if _is_service_link(name, value) and not _is_alias(self.settings_cls, name):
                continue
            read = self._read(name, value)
            if isinstance(read, Refusal):
                refusals[name.upper()] = read
            else:
                readable[name] = read
        self._source.env_vars = readable
        known = {*self.settings_cls.model_fields, *_aliases(self.settings_cls)}
        return {key: value for key, value in self._source().items() if key in known} | refusals

    def _read(self, name: str, value: str | None) -> str | Refusal | None:
        """The value as pydantic-settings can read it."""
        prefix = self._source.env_prefix
        fold = str if self._source.case_sensitive else str.lower
        if not prefix or not fold(name).startswith(fold(prefix)) or _is_alias(self.settings_cls, name):
            return value
        path = [fold(part) for part in name[len(prefix) :].split(DELIMITER)]
        kind = _kind_at(self.settings_cls, path)
        if kind is None:
            return self._unknown(path) if prefix == PREFIX else value
        if value is None:
            return value
        if get_origin(kind) is tuple:
            if not value.lstrip().startswith("["):
                return json.dumps([part.strip() for part in value.split(",") if part.strip()])
            return value if _is_json(value, list) else Refusal(self._where + LIST, unknown=False)
        if (_is_model(kind) or get_origin(kind) is dict) and not _is_json(value, dict):
            return Refusal(self._where + OBJECT.format(variable=name.upper()), unknown=False)
        return value

    def _unknown(self, path: Sequence[str]) -> Refusal:
        nearest = nearest_setting(self.settings_cls, path)
        if nearest is None:
            advice = (
                f"docs/settings.md lists all; if something else or a newer version reads it, name it in "
                f"{PREFIX}IGNORED_VARIABLES"
            )
        else:
            advice = f"did you mean {variable(nearest)}?"
        return Refusal(f"{self._where}there is no such setting: {advice}", unknown=True)


def checked_sources(
    env_settings: PydanticBaseSettingsSource,
    dotenv_settings: PydanticBaseSettingsSource,
    secret_settings: PydanticBaseSettingsSource,
) -> Iterator[PydanticBaseSettingsSource]:
    """The sources of pydantic-settings, checked. Files with secrets may have nested names, too.

    A source of the user's own, in the place of one of them, is left as it is.
    """
    for source, where in ((env_settings, ""), (dotenv_settings, "in the .env file: ")):
        yield CheckedSource(source, where) if isinstance(source, EnvSettingsSource) else source
    yield secret_settings
    directories = getattr(secret_settings, "secrets_dir", None)
    if directories is not None and isinstance(env_settings, EnvSettingsSource):
        nested = EnvSettingsSource(env_settings.settings_cls, env_prefix=env_settings.env_prefix)
        nested.env_vars = dict(_secret_files(directories, env_settings.env_prefix))
        yield CheckedSource(nested, "in the directory of secrets: ")


def _secret_files(directories: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """pydantic-settings looks only for files that are named like a whole section."""
    for directory in [directories] if isinstance(directories, (str, Path)) else directories:
        path = Path(directory).expanduser()
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            if prefix and file.name.upper().startswith(prefix.upper()) and file.is_file():
                yield file.name.lower(), file.read_text(encoding="utf-8").strip()


def variable(path: Iterable[str | int]) -> str:
    """The environment variable of a setting."""
    return PREFIX + DELIMITER.join(str(part) for part in path).upper()


def nearest_setting(model: type[BaseModel], path: Sequence[str]) -> tuple[str, ...] | None:
    """The path of the setting that a misspelt path probably means; None if none is similar."""
    wanted = _flat(path)
    if (other := ELSEWHERE.get(wanted)) in model.model_fields:
        return (other,)
    from difflib import get_close_matches  # only who has misspelt one needs it

    known = {_flat(candidate): candidate for candidate in _paths(model, path)}
    found = get_close_matches(wanted, known, n=1, cutoff=CLOSE)
    return known[found[0]] if found else None


def _flat(path: Iterable[str]) -> str:
    return "_".join(path).lower()


def _paths(kind: Any, given: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The paths of all settings below; the key of a table is the one that was `given`."""
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            yield (name,)
            yield from ((name, *rest) for rest in _paths(_without_none(field.annotation), given[1:]))
    elif get_origin(kind) is dict:
        key = (given[0] if given else "") or "0"
        yield from ((key, *rest) for rest in _paths(get_args(kind)[1], given[1:]))


def _kind_at(kind: Any, path: Sequence[str]) -> Any:
    """The type of the setting at this path; None if there is no such setting."""
    for part in path:
        if _is_model(kind):
            found = next((field for name, field in kind.model_fields.items() if name == part), None)
            kind = _without_none(found.annotation) if found is not None else None
        elif get_origin(kind) is dict and part:
            kind = _without_none(get_args(kind)[1])
        else:
            return None
    return kind


def _is_service_link(name: str, value: str | None) -> bool:
    """Kubernetes gives all pods of a namespace such variables for a Service whose name begins with `athomic`.

    They are those of Docker's container links (Kubernetes' documentation, "Accessing the Service").
    """
    return _SERVICE_LINK.match(f"{name}={value}") is not None


def _without_none(kind: Any) -> Any:
    kinds = [argument for argument in get_args(kind) if argument is not NoneType]
    return kinds[0] if NoneType in get_args(kind) and len(kinds) == 1 else kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_json(value: str, wanted: type) -> bool:
    try:
        return isinstance(json.loads(value), wanted)
    except ValueError:
        return False


def _aliases(model: type[BaseSettings]) -> Iterator[str]:
    """Names that a subclass has given to its fields."""
    for field in model.model_fields.values():
        alias = field.validation_alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            first = choice.path[0] if isinstance(choice, AliasPath) else choice
            if isinstance(first, str):
                yield first


def _is_alias(model: type[BaseSettings], name: str) -> bool:
    return any((name.lower() + DELIMITER).startswith(alias.lower() + DELIMITER) for alias in _aliases(model))


class Checked(BaseModel):
    """Settings whose errors name the nearest setting for a misspelt one, and show no values: they may be secret."""

    # built when the first object is made: an import that makes none need not wait for it
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_what_is_wrong(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        values, refusals = _without_refusals(values)
        errors: list[InitErrorDetails] = []
        try:
            checked = handler(values)
        except ValidationError as error:
            errors = [_worded(cls, details) for details in error.errors(include_url=False, include_input=False)]
        errors += [
            InitErrorDetails(type=PydanticCustomError("refused_variable", refusal.sentence), loc=(name,), input=None)
            for name, refusal in refusals.items()
        ]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return checked


def _worded(model: type[BaseModel], error: ErrorDetails) -> InitErrorDetails:
    kind, message, context = error["type"], error["msg"], error.get("ctx", {})
    if kind == "extra_forbidden" and len(error["loc"]) == 1:  # a longer one is of a section, which has said it itself
        nearest = nearest_setting(model, [str(error["loc"][0])])
        kind, context = "unknown_setting", {"nearest": nearest}
        message = "there is no such setting" + (f": did you mean {'.'.join(nearest)}?" if nearest else "")
    return InitErrorDetails(type=PydanticCustomError(kind, message, context), loc=error["loc"], input=None)


def _without_refusals(values: Any) -> tuple[Any, dict[str, Refusal]]:
    """The values, and the refusals that neither `NOT_OURS` nor the value of `ignored_variables` excuses."""
    if not isinstance(values, dict):
        return values, {}
    ignored = values.get("ignored_variables", ())
    patterns = [*NOT_OURS, *(ignored if isinstance(ignored, (list, tuple)) else ())]
    refusals = {
        name: value
        for name, value in values.items()
        if isinstance(value, Refusal)
        and not (value.unknown and any(fnmatchcase(name.upper(), str(pattern).upper()) for pattern in patterns))
    }
    return {name: value for name, value in values.items() if not isinstance(value, Refusal)}, refusals
