from __future__ import annotations

import re

import pytest

from client.objects.maker import Maker, code_value
from common.scores.finding import Finding

SHA256 = "ab" * 32


def test_a_uid_follows_from_its_parts_and_their_borders() -> None:
    maker = Maker("liver", "0.1.0", SHA256)

    assert maker.uid("a", "bc") == maker.uid("a", b"bc") != maker.uid("ab", "c")
    assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", maker.uid("a"))
    assert len(maker.uid("a")) <= 64


@pytest.mark.parametrize(
    ("name", "version", "sha256"),
    [("", "1", SHA256), ("a" * 65, "1", SHA256), ("a\\b", "1", SHA256), ("a", "1", "ab")],
)
def test_what_no_object_can_hold_is_no_maker(name: str, version: str, sha256: str) -> None:
    with pytest.raises(ValueError):
        Maker(name, version, sha256)


def test_a_number_with_a_unit_may_lie_anywhere() -> None:
    assert not Finding("age", 63.0, unit="years").is_probability


def test_a_code_value_is_short_and_of_its_words_alone() -> None:
    assert code_value("liver") == code_value("liver") != code_value("Liver")
    assert re.fullmatch("[0-9A-F]{12}", code_value("肝臓"))
