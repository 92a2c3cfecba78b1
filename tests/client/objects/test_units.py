from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.objects.units import ucum


@pytest.mark.parametrize(
    "unit",
    ["mm", "cm2", "mL", "kg/m2", "%", "mL/min/{1.73_m2}", "mm[Hg]", "[iU]/L", "10*3/uL", "1", "a"],
)
def test_what_is_ucum_stays_as_it_is(unit: str) -> None:
    assert ucum(unit) == unit


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("years", "{years}"),
        ("beats a minute", "{beats_a_minute}"),
        ("Brüche", "{Bruche}"),
        ("a {b}", "{a_b}"),
        ("年", "{unit}"),
        ("", "1"),
        (" ", "1"),
    ],
)
def test_other_words_are_put_in_braces(words: str, code: str) -> None:
    assert ucum(words) == code


@given(st.text(max_size=100))
def test_any_words_give_printable_ascii_without_blanks(words: str) -> None:
    code = ucum(words)

    assert 0 < len(code) <= 100
    assert code.isascii()
    assert " " not in code
    assert code.isprintable()
