"""Label files in the manners of hospitals: read as meant, or refused by name, never otherwise.

What ``check`` asks of a label file and the images is asked here without decoding any.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.archive import Found
from client.data.dicom import Header
from client.data.label_files.near_misses import require_no_near_misses
from client.data.labels import Key, LabelFile, guess_key, read_labels
from common.errors import LabelError

CLASSES = ("normal", "no pneumonia", "1")
Reading = dict[str, int | float | None]
"""The class of each image, by its path; None where no row names it."""


def image(number: int, patient: str, path: str | None = None) -> Found:
    header = Header(
        patient, "1.2", f"1.2.{number}", "CR", (), burned_in=False, rows=1, columns=1, frames=1
    )
    return Found(path or f"sub/{number}.dcm", f"{number:064}", header)


def reading_of(path: Path, key: Key, images: list[Found], *, prefix: str = "") -> Reading:
    """How a label file is read, by the column that is found in it, with all that check asks."""
    kind, column = guess_key(path, "label")
    assert kind == key
    labels = read_labels(LabelFile(path, kind, column, "label", prefix), CLASSES)
    labels.require_sound()
    require_no_near_misses(labels, images)
    found: Reading = {}
    for file in images:
        given_to = {labels.label(row) for row in labels.about(file)}
        assert len(given_to) <= 1
        found[file.path] = given_to.pop() if given_to else None
    return found


IMAGES = [image(0, "00123"), image(1, "P2"), image(2, "M\u00dcLLER")]

READ = {
    "as it should be": b"PatientID,label\n00123,normal\nP2,1\n",
    "sep= of Excel": b"sep=;\r\nPatientID;label\r\n00123;normal\r\nP2;1\r\n",
    "tabs": b"PatientID\tlabel\n00123\tnormal\nP2\t1\n",
    "comment": b"# of Monday, label\nPatientID,label\n00123,normal\nP2,1\n",
    "Patient ID": b"Patient ID,Label\n00123,normal\nP2,1\n",
    "patient_id": b"label;age;patient_id\nnormal;50;00123\n1;;P2\n",
    "quoted header": b'"PatientID";"label"\n"00123";"normal"\n"P2";"1"\n',
    "formula": b'PatientID,label\n="00123",normal\n"=""P2""","=""1"""\n',
    "no-break spaces": "PatientID,label\n\u00a000123\u00a0,normal\u00a0\nP2,1\n".encode(),
    "byte order marks": "\ufeffPatientID,label\n\ufeff00123,normal\nP2,1\n".encode(),
    "UTF-16": "PatientID\tlabel\r\n00123\tnormal\r\nP2\t1\r\n".encode("utf-16"),
    "cp1252 beside": "PatientID,Gr\u00f6\u00dfe,label\n00123,\u00fc,normal\nP2,,1\n".encode(
        "cp1252"
    ),
    "old line ends": b"PatientID,label\r00123,normal\rP2,1\r",
    "empty rows": b"PatientID,label\n00123,normal\nP2,1\n\n,\n,,,\n \t \n",
    "separators at the end": b"PatientID,label,,\n00123,normal,,\nP2,1\n",
    "twice the same": b"PatientID,label\n00123,normal\nP2,1\nP2, 1.0 \n00123,Normal\n",
    "capitals": b"PatientID,label\n00123,NORMAL \nP2,1.0\n",
    "strangers too": b"PatientID,label\n00123,normal\nP2,1\nP3,1\nP4,normal\n",
}

REFUSED = {
    "stripped zeros": (b"PatientID,label\n123,normal\nP2,1\n", "line 2"),
    "Pandas": (b"PatientID,label\n123.0,normal\nP2,1\n", "such as ###.0"),
    "other zeros": (
        b"PatientID,label\n0123,normal\nP2,1\n",
        "such as 0### where an image has 00###",
    ),
    "shortened": (b"PatientID,label\n1.2E+02,normal\nP2,1\n", "shortened"),
    "capitals of a key": (b"PatientID,label\n00123,normal\np2,1\n", "line 3"),
    "cp1252": ("PatientID,label\nM\u00dcLLER,normal\nP2,1\n".encode("cp1252"), "not UTF-8"),
    "UTF-16 without mark": ("PatientID,label\nP2,1\n".encode("utf-16-le"), "not UTF-8"),
    "two columns": (b"PatientID,patient id,Label,LABEL\nP2,P2,1,1\n", "Label, LABEL"),
    "two key columns": (b"patient_id,patient id,label\nP2,P2,1\n", "patient_id, patient id"),
    "line break in a cell": (b'PatientID,note,label\nP2,"a\nb",1\n', "line 2"),
    "comment below": (b"PatientID,label\nP2,1\n# end\n", "line 3"),
    "contradiction": (b"PatientID,label\nP2,1\n P2,normal\n", "lines 2, 3"),
    "contradiction in a formula": (b'PatientID,label\nP2,1\n="P2",normal\n', "lines 2, 3"),
    "label that is none": (b"PatientID,label\nP2,pneumonia\n", "not one of the classes"),
    "workbook": (b"PK\x03\x04...xl/workbook.xml", "(xlsx)"),
    "UIDs in the column": (b"PatientID,label\n1.2.1,1\n", "SOPInstanceUID of images"),
    "no header": (b"P2,1\n00123,normal\n", "no column"),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_what_tells_by_itself_what_it_means_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)

    found = reading_of(tmp_path / "labels.csv", "PatientID", IMAGES)

    assert found == {"sub/0.dcm": 0, "sub/1.dcm": 2, "sub/2.dcm": None}


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_a_guess_is_refused_by_name(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "labels.csv").write_bytes(content)

    with pytest.raises(LabelError) as error:
        reading_of(tmp_path / "labels.csv", "PatientID", IMAGES)

    assert says in str(error.value)
    assert error.value.details.keys() & {"do", "wanted"}
    assert "P2" not in str(error.value).replace(str(tmp_path), "")


def test_what_was_read_in_a_special_way_is_said(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b'sep=;\n# of Monday\nPatient ID;note;label\n="1";;normal\n\xc2\xa02;;Normal\n3;\xfc;1.0\n'
    )

    labels = read_labels(LabelFile(path, "PatientID", "PatientID", "label"), CLASSES)

    assert labels.notes == (
        "the first line (sep=) names the separator and was left out",
        "lines above the header that begin with # were left out: 1",
        'the column "PatientID" is called "Patient ID"',
        '1 rows have a formula (="..."), of which the text was read',
        "1 rows have no-break spaces or unseen characters around a key or label, left out",
        "1 rows are not UTF-8 in a column that is not used",
        "2 rows spell a label in another way than the classes (capitals, blanks or .0)",
    )


def test_a_good_file_gives_no_notes(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(READ["as it should be"])

    assert read_labels(LabelFile(path, "PatientID", "PatientID", "label"), CLASSES).notes == ()


HEADERS: dict[Key, list[tuple[str, str]]] = {
    "PatientID": [
        ("PatientID", "label"),
        ("Patient ID", "Label"),
        ("patient_id", "LABEL"),
        ("id", "label"),
    ],
    "filename": [
        ("filename", "label"),
        ("File name", "Label"),
        ("FILE_NAME", "LABEL"),
        ("file", "label"),
    ],
}
"""How the columns may be called; by the last of them the key is not found."""


@dataclass(frozen=True)
class Manner:
    """How a hospital writes a table."""

    separator: str
    encoding: str
    quoting: int
    line_end: str
    header: int
    top: tuple[str, ...]
    bottom: tuple[str, ...]
    wrap: str
    """Around each cell; ``{}`` is the cell."""
    number: str
    """What becomes of keys that are numbers: nothing, "int", "float" or "scientific"."""
    label: str
    prefix: str
    given: bool
    """Whether the prefix is in the settings."""
    more_cells: int
    twice: bool

    def write(self, key: Key, table: dict[str, int]) -> bytes:
        rows = [
            (self._key(key, cell), self._label(CLASSES[place])) for cell, place in table.items()
        ]
        file = StringIO()
        writer = csv.writer(
            file,
            delimiter=self.separator,
            quoting=self.quoting,  # type: ignore[arg-type]
            lineterminator=self.line_end,
        )
        for row in (HEADERS[key][self.header], *rows, *rows[: self.twice]):
            writer.writerow([*row, *[""] * self.more_cells])
        top = "".join(line.format(self.separator) + self.line_end for line in self.top)
        bottom = "".join(line + self.line_end for line in self.bottom)
        return (top + file.getvalue() + bottom).encode(self.encoding, "replace")

    def harmless(self, key: Key) -> bool:
        """Whether everything in it tells by itself what it means, so that no error may come."""
        return (
            self.encoding in ("utf-8", "utf-8-sig", "utf-16")
            and self.header < 3
            and self.top != ("Labels",)
            and self.bottom in ((), ("",), ("\u00a0",), (self.separator,), (self.separator * 2,))
            and self.wrap != "'{}"
            and (
                not self.number if key == "PatientID" else self.given or self.prefix in ("", ".\\")
            )
        )

    def _key(self, key: Key, cell: str) -> str:
        if key == "filename":
            return self.wrap.format((self.prefix + cell).replace("/", self.prefix[-1:] or "/"))
        if cell.isdecimal():
            number = int(cell)
            forms = {"int": f"{number}", "float": f"{number}.0", "scientific": f"{number:.2E}"}
            cell = forms.get(self.number, cell)
        return self.wrap.format(cell)

    def _label(self, label: str) -> str:
        forms = {"upper": label.upper(), "title": label.title(), "blanks": f" {label}  "}
        return forms.get(self.label, label)


MANNERS = st.builds(
    Manner,
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "cp437"]
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    header=st.integers(0, 3),
    top=st.sampled_from([(), ("sep={}",), ("# written by hand",), ("", "#a,b;c"), ("Labels",)]),
    bottom=st.sampled_from([(), ("",), (",",), (";;",), ("# end",), ("\u00a0",), ("'",)]),
    wrap=st.sampled_from(["{}", " {}\u00a0", '="{}"', "\ufeff{}", "'{}"]),
    number=st.sampled_from(["", "int", "float", "scientific"]),
    label=st.sampled_from(["", "upper", "title", "blanks"]),
    prefix=st.sampled_from(["", "images/", "C:\\export\\", "/srv/images/", ".\\"]),
    given=st.booleans(),
    more_cells=st.integers(0, 2),
    twice=st.booleans(),
)

_NAMES = (
    st.text(st.sampled_from("0012aB\u00fc\u0141-_ "), min_size=1, max_size=5)
    .map(str.strip)
    .filter(lambda name: any(map(str.isalnum, name)))
)

TABLES = st.one_of(
    st.tuples(
        st.just("PatientID"),
        st.dictionaries(_NAMES, st.integers(0, 2), min_size=1, max_size=6),
    ),
    st.tuples(
        st.just("filename"),
        st.dictionaries(
            st.lists(_NAMES, min_size=1, max_size=3).map("/".join),
            st.integers(0, 2),
            min_size=1,
            max_size=6,
        ),
    ),
)


@settings(max_examples=300)
@given(table=TABLES, manner=MANNERS, others=st.lists(_NAMES, max_size=3))
def test_a_table_in_any_manner_is_read_as_the_good_one_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory,
    table: tuple[Key, dict[str, int]],
    manner: Manner,
    others: list[str],
) -> None:
    """``others`` are images without a row: one of them could be taken for another's."""
    key, rows = table
    names = [*rows, *(name for name in others if name not in rows)]
    images = [
        image(number, name) if key == "PatientID" else image(number, f"P{number}", name)
        for number, name in enumerate(names)
    ]
    meant = {file.path: rows.get(name) for file, name in zip(images, names, strict=True)}
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_bytes(manner.write(key, rows))

    try:
        found = reading_of(path, key, images, prefix=manner.prefix if manner.given else "")
    except LabelError as error:
        assert not manner.harmless(key)
        assert error.details.keys() & {"do", "wanted"}
        return

    named = {each: place for each, place in found.items() if place is not None}
    assert named.items() <= meant.items()
    # A row damaged twice is like no image, and without the zeros two patients are one number, of
    # whom one is left without a row: check counts these images as such without a label.
    numbers = [int(name) for name in names if name.isdecimal()]
    damaged = b"?" in path.read_bytes() or (manner.wrap == "'{}" and manner.number)
    assert named.keys() == {each for each, place in meant.items() if place is not None} or (
        damaged or len(numbers) > len(set(numbers))
    )
