from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.pseudonyms import (
    DIFFERENCES,
    Difference,
    Pseudonyms,
    folded,
    normal,
    position,
    rule,
    rule_number,
)
from common.errors import SiteError

KEY = bytes(range(32))


def test_a_pseudonym_is_the_keyed_hash_of_the_identifier() -> None:
    expected = hmac.new(KEY, b"consilium/patient\0P-0001", hashlib.sha256).hexdigest()

    assert Pseudonyms(KEY).of("P-0001") == expected


def test_another_key_gives_another_pseudonym() -> None:
    assert Pseudonyms(KEY).of("P-0001") != Pseudonyms(bytes(32)).of("P-0001")


@pytest.mark.parametrize("written", [" P-0001", "P-0001 ", "P-0001\0", "P-0001\n"])
def test_padding_is_no_part_of_an_identifier(written: str) -> None:
    assert Pseudonyms(KEY).of(written) == Pseudonyms(KEY).of("P-0001")


def test_composed_and_decomposed_letters_are_one_patient() -> None:
    assert Pseudonyms(KEY).of("Jose\u0301") == Pseudonyms(KEY).of("Jos\u00e9")


@given(st.text(min_size=1))
def test_one_value_under_two_purposes_has_two_names(text: str) -> None:
    pseudonyms = Pseudonyms(KEY)
    names = (pseudonyms.of(text), pseudonyms.of_file(text, ""), pseudonyms.of_folder(text, ""))

    assert len({name[:32] for name in names}) == 3


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SiteError, match="32 bytes"):
        Pseudonyms(bytes(length))


def test_neither_text_nor_pickle_gives_the_key_away() -> None:
    pseudonyms = Pseudonyms(b"k" * 32)

    assert repr(pseudonyms) == str(pseudonyms) == "Pseudonyms(<masked>)"
    with pytest.raises(TypeError):
        pickle.dumps(pseudonyms)


def test_positions_spread_evenly_over_the_unit_interval() -> None:
    pseudonyms = Pseudonyms(KEY)
    places = [position(pseudonyms.of(f"P-{i}")) for i in range(4000)]

    assert all(0 <= place < 1 for place in places)
    for tenth in range(10):
        within = sum(tenth / 10 <= place < (tenth + 1) / 10 for place in places)
        assert abs(within - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5


RULES = st.sets(st.sampled_from(DIFFERENCES))
SPELLING = st.text("0aAbB1 \u00a0\ufeffß\u00dc\u00c3\u009c\uff10-", max_size=6) | st.text(
    max_size=5
)


@given(SPELLING, RULES)
def test_a_folded_identifier_is_one_that_folds_to_itself_and_only_a_rule_folds(
    identifier: str, ignored: set[Difference]
) -> None:
    spelt = folded(identifier, ignored)
    assert folded(spelt, ignored) == spelt
    assert folded(identifier, ()) == normal(identifier)
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.written(identifier) == pseudonyms.of(identifier)
    assert pseudonyms.ignoring(ignored).written(identifier) == pseudonyms.of(identifier)
    assert pseudonyms.ignoring(ignored).of(identifier) == pseudonyms.of(spelt)


@pytest.mark.parametrize(
    ("ignored", "one", "other"),
    [
        ("case", "Ab1", "aB1"),
        ("blanks", "P 1", "\ufeffP1\u00a0"),
        ("leading-zeros", "00120", "120"),
        ("leading-zeros", "000", "0"),
        ("unicode", "\uff11\uff12", "12"),
        ("unicode", "M\u00fcller".encode().decode("latin-1"), "Mu\u0308ller"),
    ],
)
def test_two_spellings_are_one_where_nothing_else_differs(
    ignored: Difference, one: str, other: str
) -> None:
    every = Pseudonyms(KEY).ignoring([ignored])
    assert every.of(one) == every.of(other)
    others = Pseudonyms(KEY).ignoring(set(DIFFERENCES) - {ignored})
    assert others.of(one) != others.of(other)


@given(SPELLING)
def test_what_an_identifier_would_be_is_known_for_every_rule(identifier: str) -> None:
    found = Pseudonyms(KEY).foldings(identifier)
    for number in range(2 ** len(DIFFERENCES)):
        under = Pseudonyms(KEY).ignoring(rule(number))
        assert rule_number(rule(number)) == number
        changed = [spelt for spelt, numbers in found.items() if number in numbers]
        assert changed == [under.of(identifier)] * (
            under.of(identifier) != under.written(identifier)
        )
