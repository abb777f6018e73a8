"""docs/status.md says what each field of the status means, and OpenAPI says the same."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from fastapi_athomic.observation.status import ConsumerStatus
from tests.support.status_page import PAGE, first_paragraph, models, page


def test_the_page_has_the_fields_of_the_models() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.support.status_page"


@pytest.mark.parametrize("model", models(ConsumerStatus))
def test_each_field_says_what_it_means(model: type[BaseModel]) -> None:
    assert first_paragraph(model)
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_all_parts_of_a_status_are_looked_at() -> None:
    assert {model.__name__ for model in models(ConsumerStatus)} >= {"PartitionStatus", "LastError", "RetrySettings"}
