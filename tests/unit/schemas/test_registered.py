from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastapi_athomic import ConfigurationError
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry


@pytest.mark.parametrize("serializer", [Avro, JsonSchema, Protobuf])
@pytest.mark.parametrize(("given", "named"), [("http://user:s3cret@registry:8081", "str"), (SchemaRegistry, None)])
def test_a_serializer_that_is_given_no_registry_says_so_at_once(
    serializer: Callable[[Any], object], given: Any, named: str | None
) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a SchemaRegistry\(url\), and was given") as caught:
        serializer(given)
    assert str(caught.value).endswith(named or "SchemaRegistry")
