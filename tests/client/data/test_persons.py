"""Who is whom: identifiers that the hospital joins are one person, however it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.persons import Joined, Persons, join
from client.data.pseudonyms import Pseudonyms
from common.errors import SiteError

PSEUDONYMS = Pseudonyms(bytes(range(32)))


def named(*pairs: tuple[str, str]) -> dict[str, str]:
    return {PSEUDONYMS.of(name): PSEUDONYMS.of(person) for name, person in pairs}


def written(folder: Path, content: str | bytes) -> Persons:
    path = folder / "same-person.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Persons(path, PSEUDONYMS)


def test_each_line_is_a_person_however_it_is_separated(tmp_path: Path) -> None:
    content = "\ufeff# merged in 2019\r\nP1, P2 ;P3\r\n\r\nQ1\tQ2\n  # more\nM\u0075\u0308ller;,X\n"
    assert written(tmp_path, content).read().persons == named(
        *(("P1", "P1"), ("P2", "P1"), ("P3", "P1"), ("Q1", "Q1"), ("Q2", "Q1")),
        *(("M\u00fcller", "M\u00fcller"), ("X", "M\u00fcller")),
    )


def test_lines_that_share_an_identifier_are_one_person_by_its_first(tmp_path: Path) -> None:
    found = written(tmp_path, "P1,P2\nP3,P4\nP5,P6\nP4,P2\n").read().persons
    assert found == named(
        *(("P1", "P1"), ("P2", "P1"), ("P3", "P1"), ("P4", "P1"), ("P5", "P5"), ("P6", "P5"))
    )


@given(st.lists(st.lists(st.integers(0, 9).map(str), max_size=3), max_size=8))
def test_joining_is_transitive_and_others_lines_change_nobody(groups: list[list[str]]) -> None:
    person = join(groups)
    reached = {each: {each} for each in person}
    for _ in person:
        for group in groups:
            together = set().union(*(reached[each] for each in group))
            for each in together:
                reached[each] |= together
    for each in person:
        assert {other for other in person if person[other] == person[each]} == reached[each]
        assert join(group for group in groups if reached[each] & set(group)) == {
            other: person[other] for other in reached[each]
        }


def test_all_of_a_persons_pseudonyms_are_found_from_any(tmp_path: Path) -> None:
    joined = written(tmp_path, "P1,P2,P3\nQ1,Q2\n").read()
    wanted = frozenset(map(PSEUDONYMS.of, ("P1", "P2", "P3", "R")))
    assert joined.everything(map(PSEUDONYMS.of, ("P3", "R"))) == wanted


def test_without_a_file_everybody_is_a_person_of_one_identifier() -> None:
    assert Persons(None, PSEUDONYMS).read() == Joined({}, "")


def test_an_edit_is_seen_at_the_next_look(tmp_path: Path) -> None:
    persons = written(tmp_path, "P1,P2\n")
    before = persons.read()
    written(tmp_path, "P1,P3\n")
    after = persons.read()
    assert after.persons == named(("P1", "P1"), ("P3", "P1"))
    assert before.version != after.version


@pytest.mark.parametrize("content", [None, "P1,P2\n".encode("utf-16")], ids=["missing", "no text"])
def test_a_list_that_cannot_be_read_is_an_error_that_names_no_patient(
    tmp_path: Path, content: bytes | None
) -> None:
    persons = written(tmp_path, content or b"")
    if content is None:
        (tmp_path / "same-person.csv").unlink()
    with pytest.raises(SiteError, match="same person") as caught:
        persons.read()
    assert "P1" not in str(caught.value)


def test_who_is_whom_is_not_shown(tmp_path: Path) -> None:
    assert repr(written(tmp_path, "P1,P2\n").read()) == "Joined(<masked>)"
