from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from common import errors
from common.errors import ConsiliumError, DataError, Refusal, RefusalCode


def error_classes() -> list[type[ConsiliumError]]:
    classes = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    return [value for value in classes if issubclass(value, ConsiliumError)]


def test_message_is_the_sentence_and_one_aligned_line_for_each_detail() -> None:
    error = DataError(
        "no patients are left",
        where=Path("north/images"),
        found=0,
        wanted="at least 50",
        remedy="add images to the folder",
    )

    assert str(error) == (
        "no patients are left\n"
        "  where:  north/images\n"
        "  found:  0\n"
        "  wanted: at least 50\n"
        "  do:     add images to the folder"
    )


def test_details_that_are_not_given_are_left_out() -> None:
    assert str(DataError("the cache is damaged")) == "the cache is damaged"


@pytest.mark.parametrize("value", [0, "", False])
def test_a_found_value_is_shown_even_when_it_is_falsy(value: object) -> None:
    assert DataError("too few", found=value).details == {"found": str(value)}


def test_a_refusal_carries_a_code_from_the_closed_list() -> None:
    refusal = Refusal(RefusalCode.POLICY, "the budget is spent", wanted="at most 8")

    assert refusal.code is RefusalCode.POLICY
    assert str(refusal).startswith("the budget is spent\n")


def test_refusal_codes_are_plain_words_without_text_or_counts() -> None:
    assert all(code.value.replace("-", "").isalpha() for code in RefusalCode)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    missing = [cls.__name__ for cls in error_classes() if cls.__name__ not in errors.__doc__]

    assert missing == []


def test_every_error_can_be_caught_as_one() -> None:
    assert len(error_classes()) > 5
    for cls in error_classes():
        assert cls.__bases__[0] in {ConsiliumError, Exception}
