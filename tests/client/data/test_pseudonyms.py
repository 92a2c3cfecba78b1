from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.pseudonyms import Pseudonyms, position
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
