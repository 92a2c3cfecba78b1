from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.archive import Found
from client.data.dicom import Header
from client.data.labels import Key, LabelFile, Labels, guess_key, listed, read_labels
from client.data.pseudonyms import normal
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
    labels.require_sound()
    return {row.key: (row.line, row.label) for row in labels.rows}


def given_to(labels: Labels, file: Found) -> set[int | float | None]:
    """The labels, as indices, of the rows about a file."""
    return {labels.label(row) for row in labels.about(file)}


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


def test_a_cell_does_not_go_on_in_the_next_line(tmp_path: Path) -> None:
    """Else one row with a quotation mark too many would swallow those of other patients."""
    text = 'PatientID,note,label\nP1,"two\nlines",normal\nP2,,pneumonia\nP3,",normal\nP4,,normal\n'
    labels = labels_of(tmp_path, text)

    found = {name: given_to(labels, image("x", patient=name)) for name in ("P1", "P2", "P3", "P4")}

    assert found == {"P1": set(), "P2": {1}, "P3": set(), "P4": {0}}
    with pytest.raises(LabelError, match="lines 2, 5") as error:
        labels.require_sound()
    assert "not CSV" in error.value.what


@given(
    st.dictionaries(
        # A formula is read as its text.
        st.text(
            st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), min_size=1
        ).filter(lambda key: not key.startswith('="')),
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

    labels.require_sound()
    assert [(row.key, row.label) for row in labels.rows] == [
        (normal(key), label) for key, label in table.items()
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("PatientID,diagnosis\nSECRET,normal\n", 'no column "label"'),
        ("PatientID,Label,LABEL\nSECRET,normal,normal\n", "Label, LABEL"),
        ("PatientID,Label\xdf\nSECRET,normal\n".encode("latin-1"), "UTF-8"),
        ("SECRET,normal\nSECRET2,normal\n", "no column"),
        ("PatientID,label,label\nSECRET,normal,normal\n", "two columns"),
        ('"PatientID,label\nSECRET,normal\n', "line 1"),
        ("PatientID,label\nP1,normal\n".encode("utf-16-le"), "UTF-8"),
    ],
    ids=[
        "empty",
        "no such column",
        "two spellings",
        "Latin-1 in the header",
        "no header",
        "column twice",
        "open quotation mark in the header",
        "UTF-16 without its mark",
    ],
)
def test_a_file_that_is_none_is_an_error_whatever_its_rows(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(LabelError) as error:
        labels_of(tmp_path, text)

    assert says in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PatientID,label\n", "no other"),
        ("PatientID,label\nSECRET\n", "line 2"),
        ("PatientID,label\nP1,normal\nSECRET,x,normal\n", "line 3"),
        ("PatientID,label\nP1,normal\nSECRET,\n", "line 3"),
        ("PatientID,label\nP1,normal\n,SECRET\n", "line 3"),
        ("PatientID,label\nP1,normal\nP2,SECRET\n", "line 3"),
        ("PatientID,label\nSECRET,normal\nP2,normal\nSECRET ,pneumonia\n", "lines 2, 4"),
        ('PatientID,label\nP1,normal\n"SECRET,normal\n', "line 3"),
        (b"PatientID,label\nP1,normal\nSECRET\xe9,normal\n", "line 3"),
    ],
    ids=[
        "header alone",
        "too few cells",
        "too many cells",
        "no label",
        "no key",
        "no class",
        "two labels for a key",
        "open quotation mark",
        "Latin-1",
    ],
)
def test_a_mistake_in_a_row_is_an_error_for_people_alone_and_no_cell_is_shown(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    labels = labels_of(tmp_path, text)
    with pytest.raises(LabelError) as error:
        labels.require_sound()

    assert says in str(error.value)
    assert "SECRET" not in str(error.value) + repr(labels)


def test_rows_that_say_the_same_are_one(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "PatientID,label\nP1,normal\nP2,normal\nP1,normal\n")

    labels.require_sound()
    assert given_to(labels, image("x")) == {0}


DAMAGED = [
    b"P1",
    b"P1,x,normal",
    b"P1,normal,,y",
    b"P1,",
    b"P1,SECRET",
    b"P1\xe9,normal",
    b'P1,"normal',
    b",",
    b'"',
]
"""Rows of which each is an error for people, about P1, P1\xe9 or nobody."""


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
@pytest.mark.parametrize("place", [1, 2])
def test_a_damaged_row_gives_no_class_and_leaves_the_others_as_they_are(
    tmp_path: Path, row: bytes, place: int
) -> None:
    lines = [b"PatientID,label", b"P2,normal", b"P3,pneumonia"]
    others = [image("x", patient="P2"), image("y", patient="P3")]
    before = [given_to(labels_of(tmp_path, b"\n".join(lines)), each) for each in others]

    labels = labels_of(tmp_path, b"\n".join([*lines[:place], row, *lines[place:]]))

    assert [given_to(labels, each) for each in others] == before == [{0}, {1}]
    assert given_to(labels, image("z")) <= {None}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="label file does not exist"):
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
    ],
)
def test_each_kind_of_key_finds_its_image(tmp_path: Path, key: Key, cell: str) -> None:
    labels = labels_of(tmp_path, f"{key},label\n{cell},normal\n", key=key)
    others = image("other.dcm", patient="P2", study="3", instance="4")

    assert given_to(labels, image("sub/x.dcm")) == {0}
    assert labels.about(others) == ()


def test_a_file_is_named_by_its_whole_path(tmp_path: Path) -> None:
    """A bare name could be another patient's file's as well."""
    labels = labels_of(tmp_path, "filename,label\nx.dcm,normal\n", key="filename")

    assert given_to(labels, image("x.dcm")) == {0}
    assert labels.about(image("b/x.dcm")) == ()


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
