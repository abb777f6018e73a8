"""A CloudEvent as handlers get it, and as it is published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .cloudevents_attributes import (
    CHECKS,
    OPTIONAL,
    REQUIRED,
    SPECVERSION,
    ExtensionValue,
    checked_extension,
    checked_name,
    text_of_time,
)

T = TypeVar("T")
E = TypeVar("E", bound="CloudEvent[Any]")


def _uuid() -> str:
    return str(uuid4())


def _with_zone(moment: datetime) -> datetime:
    text_of_time(moment)
    return moment


def checked_extensions(extensions: Mapping[str, Any]) -> dict[str, ExtensionValue]:
    """The same. Raises `ValueError`."""
    checked: dict[str, ExtensionValue] = {}
    for name, value in extensions.items():
        try:
            checked[checked_name(name)] = checked_extension(value)
        except ValueError as error:
            raise ValueError(f"an extension attribute {error}") from None
    return checked


def _checked(name: str) -> AfterValidator:
    check = CHECKS[name]

    def checked(text: str) -> str:
        check(text)
        return text

    return AfterValidator(checked)


class CloudEvent(BaseModel, Generic[T]):
    """An event with its attributes (CloudEvents 1.0). Handlers get one if they are annotated with `CloudEvent[Order]`.

    To publish one, `data` is enough where the pipeline knows source and type: what is left out is filled in then, the
    time with the present one. `extensions` are attributes that the specification does not name: `str`, `int` (of 32
    bits), `bool`, `bytes` or `datetime`. In binary mode all of them arrive as text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    is_cloud_event: ClassVar[bool] = True

    id: Annotated[str, _checked("id")] = Field(default_factory=_uuid)
    """With the source it names the event: two with the same are the same event."""
    source: Annotated[str, _checked("source")] = ""
    """Where it happened, a URI reference. Empty: that of the pipeline, when it is published."""
    type: Annotated[str, _checked("type")] = ""
    """What happened. Empty: that which the pipeline has for the data, when it is published."""
    subject: Annotated[str, _checked("subject")] | None = None
    time: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    dataschema: Annotated[str, _checked("dataschema")] | None = None
    datacontenttype: Annotated[str, _checked("datacontenttype")] | None = None
    """None: that of the serializer, when it is published."""
    extensions: Annotated[dict[str, Any], AfterValidator(checked_extensions)] = Field(default_factory=dict)
    data: T = cast(Any, None)
    """None: the event has none. Handlers get such an event only if they allow it: `CloudEvent[Order | None]`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        own = set(cls.model_fields) - _FIELDS
        if own:
            raise TypeError(f"{cls.__name__} has fields of its own, which no event carries: {', '.join(sorted(own))}")

    @property
    def specversion(self) -> str:
        """Of CloudEvents."""
        return SPECVERSION


_FIELDS = frozenset(CloudEvent.model_fields)


def received(kind: type[E], attributes: Mapping[str, Any], extensions: dict[str, Any], data: Any) -> E:
    """An event of checked attributes and decoded data, which are not validated again."""
    values: dict[str, Any] = {name: attributes[name] for name in REQUIRED}
    for name in OPTIONAL:
        values[name] = attributes.get(name)
    values["extensions"] = extensions
    values["data"] = data
    event = kind.__new__(kind)
    object.__setattr__(event, "__dict__", values)
    object.__setattr__(event, "__pydantic_fields_set__", set(values))
    object.__setattr__(event, "__pydantic_extra__", None)
    object.__setattr__(event, "__pydantic_private__", None)
    return event


def type_of_data(kind: type[CloudEvent[Any]]) -> Any:
    """`Order` for `CloudEvent[Order]`, `Any` for `CloudEvent`."""
    field = kind.model_fields["data"]
    annotation: Any = field.annotation
    if isinstance(annotation, TypeVar):
        return Any
    return Annotated[(annotation, *field.metadata)] if field.metadata else annotation
