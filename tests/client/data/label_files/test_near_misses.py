from __future__ import annotations

import time
from pathlib import Path

import pytest

from client.data.archive import Found
from client.data.dicom import Header
from client.data.label_files.near_misses import guess_prefix, require_no_near_misses
from client.data.labels import Key, LabelFile, read_labels
from common.errors import LabelError


def image(path: str, patient: str = "0012") -> Found:
    header = Header(patient, "1.2", "1.2.3", "CR", (), burned_in=False, rows=1, columns=1, frames=1)
    return Found(path, "0" * 64, header)


def error_of(folder: Path, key: Key, cell: str, *images: Found) -> LabelError | None:
    path = folder / "labels.csv"
    path.write_text(f'key,label\n"{cell}",ill\n')
    try:
        require_no_near_misses(read_labels(LabelFile(path, key, "key", "label"), None), images)
    except LabelError as error:
        return error
    return None


@pytest.mark.parametrize("cell", ["0" * 25_000 + "x", "x" + ". " * 12_500 + "x"])
def test_a_long_cell_is_compared_in_a_moment(tmp_path: Path, cell: str) -> None:
    before = time.process_time()
    assert error_of(tmp_path, "PatientID", cell, image("a.dcm")) is None
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("patient", "cell", "says"),
    [
        ("0012", "12", "line 2 has a number such as ## where an image has 00##"),
        ("12", "0012", "such as 00## where an image has ##"),
        ("12", "12.0", "such as ##.0 where"),
        ("0012", "12,00", "such as ##,## where"),
        ("0000", "0", "such as # where an image has 000#"),
        ("20230017", "2.02E+07", "such as #.##E+## where an image has ########"),
        ("020230017", "2,02e7", "such as #,##e# where an image has 0########"),
        ("Ab 1", "aB_1", "1 of 1 rows"),
        ("Ab 1", "'Ab-1", "1 of 1 rows"),
        ("M\u00dcLLER", "M?LLER", "1 of 1 rows"),
        ("M\u00dcLLER", "M\u00c3\u0153LLER", "1 of 1 rows"),
        ("12", "a/x.dcm", "filename of images"),
        ("12", "1.2.3", "SOPInstanceUID of images"),
    ],
)
def test_a_row_that_just_misses_is_an_error_that_says_how(
    tmp_path: Path, patient: str, cell: str, says: str
) -> None:
    error = error_of(tmp_path, "PatientID", cell, image("a/x.dcm", patient))

    assert error is not None
    assert says in error.details["found"]
    assert "line 2" in error.details["where"]
    shown = str(error).replace(str(tmp_path), "")
    assert len(cell) < 3 or cell not in shown
    assert len(patient) < 3 or patient not in shown


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("A/X.dcm", "capitals"),
        ("a/x", "ending"),
        ("a/x.DICOM", "ending"),
        ("b/x.dcm", "other folders"),
        ("C:\\export\\x.dcm", "other folders"),
        ("0012", "does not hold"),
    ],
)
def test_so_is_a_file_name(tmp_path: Path, cell: str, says: str) -> None:
    error = error_of(tmp_path, "filename", cell, image("a/x.dcm"))

    assert error is not None
    assert says in error.what
    assert cell not in str(error).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("key", "cell", "images"),
    [
        ("PatientID", "0012", (image("a"), image("b", "12"))),
        ("PatientID", "13", (image("a"),)),
        ("PatientID", "", (image("a"),)),
        ("PatientID", "2.02E+06", (image("a", "20230017"),)),
        ("PatientID", "1-11", (image("a", "11-1"),)),
        ("PatientID", "12.5", (image("a", "12"),)),
        ("filename", "a/x", (image("a/x"), image("A/x"), image("a/x.dcm"), image("b/x"))),
        ("filename", "a/y", (image("a/x"),)),
    ],
)
def test_a_row_that_names_an_image_or_is_like_none_is_none(
    tmp_path: Path, key: Key, cell: str, images: tuple[Found, ...]
) -> None:
    assert error_of(tmp_path, key, cell, *images) is None


def test_files_of_one_name_in_several_folders_are_no_near_miss(tmp_path: Path) -> None:
    """An archive may hold a part of those listed, and each folder an IM0001."""
    path = tmp_path / "labels.csv"
    path.write_text("filename,label\na/IM1,ill\nb/IM1,ill\n")
    labels = read_labels(LabelFile(path, "filename", "filename", "label"), None)

    require_no_near_misses(labels, (image("a/IM1"), image("c/IM1")))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["C:\\out\\a\\1", "C:\\out\\b\\2"], "C:/out/"),
        (["C:\\out\\a\\3", "C:\\out\\a\\4"], "C:/out/"),
        (["C:\\out\\a\\1", "C:\\out\\a\\3"], ""),
        (["/a/1", "/b/2"], "/"),
        (["images/a/1", "images/b/2", ""], "images/"),
        (["x/a/1", "x/0", "x/a/3"], "x/"),
        (["a/1", "b/2"], ""),
        (["x/a/1", "y/b/2"], ""),
        (["x/a/1", "x/b/9"], ""),
        (["x/a/1"], ""),
        (["x/t/1", "x/t/2"], ""),
        ([], ""),
    ],
)
def test_folders_above_are_found_only_where_all_names_fit_in_one_way(
    tmp_path: Path, names: list[str], prefix: str
) -> None:
    for name in ("a/1", "a/3", "a/4", "b/2", "0", "t/1", "t/2", "1", "2"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["filename,label", *(f"{name},ill" for name in names)]))
    file = LabelFile(path, "filename", "filename", "label")

    assert guess_prefix(file, tmp_path / "images") == prefix


@pytest.mark.parametrize("prefix", ["C:\\out", "C:\\out\\", "C:/out"])
def test_a_prefix_is_left_out_of_the_names_that_have_it(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("filename,label\nC:\\out\\a\\1,ill\nC:/out/a/2,well\na/3,ill\nC:/outer/1,ill\n")

    labels = read_labels(LabelFile(path, "filename", "filename", "label", prefix), None)

    assert [row.key for row in labels.rows] == ["a/1", "a/2", "a/3", "C:/outer/1"]
    assert labels.notes == ('2 rows name files below "C:/out/", which was left out',)
