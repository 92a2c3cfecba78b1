from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.archive import Found
from client.dicom import Header
from client.labels import Key, LabelFile, Labels, guess_key, listed, read_labels
from common.errors import LabelError

CLASSES = ("normal", "pneumonia")


def labels_of(
    folder: Path,
    text: str | bytes,
    *,
    key: Key = "PatientID",
    classes: tuple[str, ...] | None = CLASSES,
) -> Labels:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(LabelFile(path, key, key, "label"), classes)


def image(path: str, *, patient: str = "P1", study: str = "1.2", instance: str = "1.2.3") -> Found:
    header = Header(
        patient, study, instance, "CR", (), burned_in=False, rows=1, columns=1, frames=1
    )
    return Found(path, path.ljust(64, "0"), header)


def pairs(labels: Labels) -> dict[str, tuple[int, str]]:
    return {key: (row.line, row.label) for key, row in labels.rows.items()}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, delimiter: str, mark: bytes, end: str
) -> None:
    rows = [["PatientID", "age", "label"], ["P1", "40", "normal"], ["P2", "50", "pneumonia"]]
    text = end.join(delimiter.join(row) for row in rows)

    labels = labels_of(tmp_path, mark + text.encode())

    assert pairs(labels) == {"P1": (2, "normal"), "P2": (3, "pneumonia")}


def test_the_separator_is_the_one_that_shows_the_columns(tmp_path: Path) -> None:
    text = 'PatientID;label;"a, b, c, d"\nP1;normal;"x, y"\n'

    assert pairs(labels_of(tmp_path, text)) == {"P1": (2, "normal")}


def test_blank_lines_and_padding_do_not_count(tmp_path: Path) -> None:
    text = "PatientID,label\n\n P1 , normal \n,\n\nP2,pneumonia\n"

    assert pairs(labels_of(tmp_path, text)) == {"P1": (3, "normal"), "P2": (6, "pneumonia")}


def test_lines_are_counted_over_cells_of_several_lines(tmp_path: Path) -> None:
    text = 'PatientID,note,label\nP1,"two\nlines",normal\nP2,,pneumonia\n'

    assert pairs(labels_of(tmp_path, text)) == {"P1": (2, "normal"), "P2": (4, "pneumonia")}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), min_size=1),
        st.sampled_from(CLASSES),
        min_size=1,
    )
)
def test_whatever_a_program_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, str]
) -> None:
    text = StringIO()
    csv.writer(text).writerows([("StudyInstanceUID", "label"), *table.items()])

    labels = labels_of(tmp_path_factory.getbasetemp(), text.getvalue(), key="StudyInstanceUID")

    assert sorted(row.label for row in labels.rows.values()) == sorted(table.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("PatientID,label\n", "no other"),
        ("PatientID,diagnosis\nSECRET,normal\n", 'no column "label"'),
        ("PatientID,Label\nSECRET,normal\n", '"Label"'),
        ("SECRET,normal\nSECRET2,normal\n", "no column"),
        ("PatientID,label,label\nSECRET,normal,normal\n", "two columns"),
        ("PatientID,label\nSECRET\n", "line 2"),
        ("PatientID,label\nP1,normal\nSECRET,x,normal\n", "line 3"),
        ("PatientID,label\nP1,normal\nSECRET,\n", "line 3"),
        ("PatientID,label\nP1,normal\n,SECRET\n", "line 3"),
        ("PatientID,label\nP1,normal\nP2,SECRET\n", "line 3"),
        ("PatientID,label\nSECRET,normal\nP2,normal\nSECRET,normal\n", "lines 2, 4"),
        ("PatientID,label\nSECRET,normal\nP2,normal\nSECRET ,pneumonia\n", "lines 2, 4"),
        ('PatientID,label\nP1,normal\n"SECRET,normal\n', "line 3"),
        (b"PatientID,label\nSECRET\xe9,normal\n", "UTF-8"),
        ("PatientID,label\nP1,normal\n".encode("utf-16"), "UTF-8"),
    ],
    ids=[
        "empty",
        "header alone",
        "no such column",
        "other capitals",
        "no header",
        "column twice",
        "too few cells",
        "too many cells",
        "no label",
        "no key",
        "no class",
        "same row twice",
        "two labels for a key",
        "open quotation mark",
        "Latin-1",
        "UTF-16",
    ],
)
def test_a_mistake_is_named_by_its_line_and_no_cell_is_shown(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(LabelError) as error:
        labels_of(tmp_path, text)

    assert says in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such label file"):
        read_labels(LabelFile(tmp_path / "none.csv", "PatientID", "PatientID", "label"), CLASSES)


def test_at_most_ten_lines_are_named() -> None:
    assert listed([7]) == "line 7"
    assert listed([3, 2, 3]) == "lines 2, 3"
    assert listed(range(1, 15)) == "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more"


def test_without_classes_the_labels_that_occur_are_taken_in_order(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "PatientID,label\nP1,b\nP2,a\nP3,b\n", classes=None)

    assert labels.classes == ("a", "b")


def test_a_column_of_identifiers_is_not_taken_for_labels(tmp_path: Path) -> None:
    rows = "".join(f"P{i},SECRET{i}\n" for i in range(60))

    with pytest.raises(LabelError, match="60 different values") as error:
        labels_of(tmp_path, "PatientID,label\n" + rows, classes=None)

    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "cell"),
    [
        ("PatientID", "P1"),
        ("StudyInstanceUID", "1.2"),
        ("SOPInstanceUID", "1.2.3"),
        ("filename", "sub/x.dcm"),
        ("filename", "sub\\x.dcm"),
        ("filename", "./sub/x.dcm"),
        ("filename", "x.dcm"),
    ],
)
def test_each_kind_of_key_finds_its_image(tmp_path: Path, key: Key, cell: str) -> None:
    labels = labels_of(tmp_path, f"{key},label\n{cell},normal\n", key=key)
    others = image("other.dcm", patient="P2", study="3", instance="4")

    found = labels.assign([image("sub/x.dcm"), others])

    assert [row and row.label for row in found] == ["normal", None]


def test_a_bare_name_that_several_files_have_is_an_error(tmp_path: Path) -> None:
    text = "filename,label\nc.dcm,normal\nx.dcm,normal\n"
    labels = labels_of(tmp_path, text, key="filename")

    with pytest.raises(LabelError, match="line 3"):
        labels.assign([image("a/x.dcm"), image("b/x.dcm"), image("c.dcm")])


def test_a_path_is_meant_exactly_even_if_another_folder_has_the_name(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "filename,label\nx.dcm,normal\n", key="filename")

    found = labels.assign([image("x.dcm"), image("b/x.dcm")])

    assert [row and row.line for row in found] == [2, None]


def test_two_rows_for_one_file_are_an_error(tmp_path: Path) -> None:
    text = "filename,label\na/x.dcm,normal\nx.dcm,pneumonia\n"
    labels = labels_of(tmp_path, text, key="filename")

    with pytest.raises(LabelError, match="lines 2, 3"):
        labels.assign([image("a/x.dcm")])


def test_the_key_is_guessed_from_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("patientid;studyinstanceuid;label\nP1;1.2;normal\n")

    assert guess_key(path, "label") == ("StudyInstanceUID", "studyinstanceuid")


def test_a_key_that_cannot_be_guessed_is_an_error_that_shows_no_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("SECRET,normal\n")

    with pytest.raises(LabelError, match="--key-column") as error:
        guess_key(path, "label")

    assert "SECRET" not in str(error.value)
