"""Files that are no CSV are named; how a file is read follows from the lines up to its header."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from client.data.label_files.table import read_table
from common.errors import LabelError

WANTED = {"PatientID", "label"}


def cells(folder: Path, content: bytes) -> list[list[str]]:
    path = folder / "labels.csv"
    path.write_bytes(content)
    table = read_table(path, WANTED)
    return [table.header, *(row.cells for row in table.rows)]


def packed(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            content = "application/vnd.oasis.opendocument.spreadsheet"
            archive.writestr(name, content if name == "mimetype" else "")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (packed("[Content_Types].xml", "xl/workbook.xml"), "(xlsx)"),
        (packed("mimetype", "content.xml"), "(ods)"),
        (packed("labels.csv"), "(zip)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "(xls)"),
        (gzip.compress(b"PatientID,label\n"), "gzip"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<html><table>", "web page"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_named_with_how_to_save_it(
    tmp_path: Path, content: bytes, name: str
) -> None:
    with pytest.raises(LabelError) as error:
        cells(tmp_path, content)

    assert name in error.value.details["found"]
    assert "CSV UTF-8" in error.value.details["do"]


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\nPatientID;label\nP1;a,b\n",
        b'"sep=;"\r\nPatientID;label\r\nP1;"a,b"\r\n',
        b"\xef\xbb\xbfsep=,\nPatientID;label\nP1;a,b",
        b"# exported, on Monday, label\n#\n\nPatientID;label\nP1;a,b\n\n;\n\n",
        "PatientID;label\nP1;a,b\n".encode("utf-16"),
        b"\xfe\xff" + "PatientID\tlabel\rP1\ta,b".encode("utf-16-be"),
        b'\xef\xbb\xbf\xef\xbb\xbfPatientID;label\n\xef\xbb\xbf"P1";a,b',
    ],
)
def test_lines_that_are_no_rows_and_other_encodings_are_read(
    tmp_path: Path, content: bytes
) -> None:
    assert cells(tmp_path, content) == [["PatientID", "label"], ["P1", "a,b"]]


def test_a_header_may_begin_with_a_number_sign(tmp_path: Path) -> None:
    assert cells(tmp_path, b"#,PatientID,label\n1,P1,ill\n")[0] == ["#", "PatientID", "label"]


def test_a_row_never_changes_how_the_others_are_read(tmp_path: Path) -> None:
    """Whatever one patient's line holds: only the lines up to the header decide."""
    for odd in (b"\xff\xfe\0x", b"sep=;", b"#", b'"', b"PatientID;label", b"\xe9;\xe9", b"\0"):
        found = cells(tmp_path, b"PatientID,label\n" + odd + b"\nP\xc3\xa9;1,ill\n")
        assert found[0] == ["PatientID", "label"]
        assert found[-1] == ["P\u00e9;1", "ill"]


def test_a_byte_too_many_in_utf_16_spoils_the_last_row_alone(tmp_path: Path) -> None:
    content = "PatientID,label\nP1,ill\nP2,ill".encode("utf-16")

    assert cells(tmp_path, content + b"x")[1:] == [["P1", "ill"], ["P2", "ill\udc80"]]
