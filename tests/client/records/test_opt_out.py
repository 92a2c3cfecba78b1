"""Who takes no part: on any list, however it was written, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms
from client.records.opt_out import FILE, OptOuts
from common.errors import SiteError

PSEUDONYMS = Pseudonyms(bytes(range(32)))


def lists(folder: Path, *named: str) -> OptOuts:
    (folder / "state").mkdir(exist_ok=True)
    persons = Persons(None, PSEUDONYMS)
    return OptOuts([folder / name for name in named], folder / "state", PSEUDONYMS, persons)


def pseudonyms(*patients: str) -> frozenset[str]:
    return frozenset(map(PSEUDONYMS.of, patients))


def test_a_line_is_a_patient_and_a_remark_is_none(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_bytes(b"\xef\xbb\xbf# remark\r\n\r\n P1 \r\nP 2\nM\xc3\xbcller")
    assert lists(tmp_path, "out.txt").read().pseudonyms == pseudonyms("P1", "P 2", "Müller")


def test_what_may_be_a_remark_behind_a_patient_leaves_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("P1 # by telephone\nA#7\n")
    found = lists(tmp_path, "out.txt").read().pseudonyms
    assert pseudonyms("P1", "A#7", "A") <= found


def test_every_list_counts_and_the_states_own_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("P1\n")
    (tmp_path / "two").write_text("P2\n")
    opt_outs = lists(tmp_path, "one", "two")
    assert opt_outs.read().pseudonyms == pseudonyms("P1", "P2")
    (tmp_path / "state" / FILE).write_text("P3\n")
    assert opt_outs.read().pseudonyms == pseudonyms("P1", "P2", "P3")


def test_an_edit_is_seen_at_the_next_look(tmp_path: Path) -> None:
    """Also one of the same length within the same moment."""
    (tmp_path / "out.txt").write_text("P1\n")
    opt_outs = lists(tmp_path, "out.txt")
    before = opt_outs.read()
    (tmp_path / "out.txt").write_text("P2\n")
    after = opt_outs.read()
    assert (before.pseudonyms, after.pseudonyms) == (pseudonyms("P1"), pseudonyms("P2"))
    assert before.version != after.version


def test_patients_are_added_once_and_what_stood_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("# of the clinic\nP1")
    opt_outs = lists(tmp_path, "out.txt")
    assert opt_outs.add(["P1", "P2", " P2", "P3"]) == (2, 1)
    assert path.read_text() == "# of the clinic\nP1\nP2\nP3\n"
    assert not (tmp_path / "state" / FILE).exists()
    assert opt_outs.add([]) == (0, 0)


def test_a_patient_is_added_to_a_list_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes("Müller\r\nP1".encode("latin-1"))
    assert lists(tmp_path, "out.txt").add(["Jäger"]) == (1, 0)
    assert path.read_bytes().startswith("Müller\r\nP1".encode("latin-1"))
    again = lists(tmp_path, "out.txt").read().pseudonyms
    assert again == pseudonyms("Müller", "P1", "Jäger")


def test_a_list_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    lists(tmp_path).add(["P1"])
    path = tmp_path / "state" / FILE
    assert path.read_text().endswith(": one PatientID per line.\nP1\n")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, "P1\n".encode("utf-16")], ids=["missing", "no text"])
def test_a_list_that_cannot_be_read_is_an_error_that_names_no_patient(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "out.txt").write_bytes(content)
    with pytest.raises(SiteError) as caught:
        lists(tmp_path, "out.txt").read()
    assert str(tmp_path / "out.txt") in caught.value.details["where"]
    assert "P1" not in caught.value.details.get("found", "")


def test_one_line_in_another_encoding_makes_no_other_unreadable(tmp_path: Path) -> None:
    """A list about whose every line a site falls silent would tell of one patient's line."""
    (tmp_path / "out.txt").write_bytes(b"\xef\xbb\xbfP1\nM\xfcller\nP\xc3\xa9\n")
    found = lists(tmp_path, "out.txt").read().pseudonyms
    assert found == {PSEUDONYMS.of(name) for name in ("P1", "M\xfcller", "P\xe9")}


def test_who_takes_no_part_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("P1\n")
    absent = lists(tmp_path, "out.txt").read()
    assert repr(absent) == "Absent(<masked>)"


def test_opting_out_under_one_identifier_is_opting_out_under_all(tmp_path: Path) -> None:
    """Also where the lists are not edited, and another line joins the person later."""
    (tmp_path / "out.txt").write_text("P2\n")
    (tmp_path / "same.csv").write_text("P1,P2\nP8,P9\n")
    (tmp_path / "state").mkdir()
    persons = Persons(tmp_path / "same.csv", PSEUDONYMS)
    opt_outs = OptOuts([tmp_path / "out.txt"], tmp_path / "state", PSEUDONYMS, persons)
    before = opt_outs.read()
    assert before.pseudonyms == pseudonyms("P1", "P2")
    (tmp_path / "same.csv").write_text("P1,P2\nP8,P9\nP3,P2\n")
    after = opt_outs.read()
    assert after.pseudonyms == pseudonyms("P1", "P2", "P3")
    assert after.version != before.version


def test_an_identifier_is_listed_itself_though_its_person_is_on_the_list(tmp_path: Path) -> None:
    """So that it stays out if the two are told apart again."""
    (tmp_path / "out.txt").write_text("P1\n")
    (tmp_path / "same.csv").write_text("P1,P2\n")
    (tmp_path / "state").mkdir()
    persons = Persons(tmp_path / "same.csv", PSEUDONYMS)
    opt_outs = OptOuts([tmp_path / "out.txt"], tmp_path / "state", PSEUDONYMS, persons)
    assert opt_outs.add(["P1", "P2"]) == (1, 1)
    assert (tmp_path / "out.txt").read_text() == "P1\nP2\n"


def test_a_listed_spelling_is_all_spellings_of_its_patient_and_the_others_can_be_added(
    tmp_path: Path,
) -> None:
    """So that each that was asked for stays out if the site ignores less one day."""
    (tmp_path / "out.txt").write_text("00P1\n")
    (tmp_path / "state").mkdir()
    own = PSEUDONYMS.ignoring(["leading-zeros"])
    opt_outs = OptOuts([tmp_path / "out.txt"], tmp_path / "state", own, Persons(None, own))
    found = opt_outs.read()
    assert found.pseudonyms == pseudonyms("00P1", "P1")
    assert found.spellings == {PSEUDONYMS.of("00P1"): PSEUDONYMS.of("P1")}
    assert opt_outs.add(["00P1", "0P1"]) == (1, 1)
    assert (tmp_path / "out.txt").read_text() == "00P1\n0P1\n"
