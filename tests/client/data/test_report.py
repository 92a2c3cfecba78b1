from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from client.data.dicom import Derived, Reason, Rules
from client.data.labels import LabelFile
from client.data.pseudonyms import DIFFERENCES
from client.data.report import Report, advice, check, require_usable, show
from common.errors import DataError, LabelError
from tests.client.data.pictures import nearly

WriteDicom = Callable[..., Path]


def labels_of(folder: Path, text: str) -> LabelFile:
    path = folder / "labels.csv"
    path.write_text(text)
    return LabelFile(path, "PatientID", "PatientID", "label")


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Three patients, four usable files with five images, three files of no use."""
    images = tmp_path / "images"
    write_dicom(images / "a", PatientID="P1")
    write_dicom(images / "b", nearly(0, 2, 8, 6), PatientID="P1", Modality="DX")
    write_dicom(images / "c", PatientID="P2")
    write_dicom(images / "d", PatientID="P3")
    write_dicom(images / "e", PatientID="P4")
    write_dicom(images / "f", PixelData=None)
    (images / "Doe_Jane.txt").write_text("note")
    return tmp_path


def report_of(folder: Path, **rules: object) -> Report:
    labels = labels_of(folder, "PatientID,label\nP1,ill\nP2,well\nP3,ill\nP5,ill\n")
    return check(folder / "images", labels, classes=None, rules=Rules(**rules))  # type: ignore[arg-type]


def test_a_report_counts_what_a_study_would_get(folder: Path) -> None:
    report = report_of(folder)

    assert report.as_json(paths=False) == {
        "files": 7,
        "used": 4,
        "rejected": 3,
        "reasons": {reason.value: 0 for reason in Reason}
        | {"no-label": 1, "no-pixels": 1, "not-dicom": 1},
        "images": 5,
        "patients": 3,
        "labels": {"ill": 3, "well": 1},
        "patients_by_label": {"ill": 2, "well": 1},
        "modalities": {"CR": 3, "DX": 1},
        "sizes": {"4x4": 3, "8x6": 1},
        "rows": 4,
        "rows_without_image": 1,
        "label_notes": [],
        "near_twins": {"unicode": 0, "blanks": 0, "case": 0, "leading-zeros": 0, "several": 0},
    }


def test_paths_are_listed_only_when_asked_for(folder: Path) -> None:
    report = report_of(folder)

    assert "Doe_Jane" not in str(report.as_json(paths=False)) + repr(report)
    assert {
        "path": "Doe_Jane.txt",
        "reason": "not-dicom",
        "detail": "",
    } in report.as_json(paths=True)["rejected_files"]


def test_rules_are_those_of_a_study(folder: Path) -> None:
    assert report_of(folder, modalities=("DX",)).used == 1
    assert report_of(folder, derived=Derived.ACCEPT).used == 4


def test_four_of_the_varied_files_are_listed_as_undecodable(
    shared_data: Path, tmp_path: Path
) -> None:
    labels = labels_of(tmp_path, "PatientID,label\nnobody,ill\n")

    report = check(shared_data / "dicom_varied", labels, classes=None, rules=Rules())

    assert report.files == 79
    assert report.reasons[Reason.UNDECODABLE] == 4
    assert report.reasons[Reason.NOT_DICOM] == report.reasons[Reason.NO_PIXELS] == 0


def test_what_is_shown_names_every_reason_and_what_to_do(folder: Path) -> None:
    text = StringIO()
    labels = LabelFile(folder / "labels.csv", "PatientID", "PatientID", "label")

    show(report_of(folder), folder / "images", labels, Console(file=text, width=200))

    shown = text.getvalue()
    assert "4 files with 5 images" in shown
    assert "2 ill, 1 well" in shown
    assert "add rows for these images" in shown
    assert "1 of 4 rows" in shown
    assert "Doe_Jane" not in shown


def test_one_patient_id_for_everybody_is_pointed_out(folder: Path, write_dicom: WriteDicom) -> None:
    for path in sorted((folder / "images").glob("[a-e]")):
        write_dicom(path, PatientID="P1")

    assert any("count as one patient" in line for line in advice(report_of(folder)))


def test_a_report_of_nothing_usable_is_an_error_that_says_what_to_do(folder: Path) -> None:
    report = report_of(folder, modalities=("MR",))

    with pytest.raises(DataError, match="5 wrong-modality") as error:
        require_usable(folder, report)
    assert "these images are CR and DX" in str(error.value)
    require_usable(folder, report_of(folder))


def test_rows_that_match_no_image_at_all_point_at_the_key(folder: Path) -> None:
    labels = labels_of(folder, "PatientID,label\nP8,ill\nP9,well\n")
    report = check(folder / "images", labels, classes=None, rules=Rules())

    with pytest.raises(DataError, match="--key"):
        require_usable(folder, report)


def test_patients_with_two_labels_are_counted_and_then_an_error_that_names_the_rows(
    folder: Path,
) -> None:
    path = folder / "labels.csv"
    path.write_text("filename,label\na,ill\nb,well\nc,ill\n")
    labels = LabelFile(path, "filename", "filename", "label")
    report = check(folder / "images", labels, classes=None, rules=Rules())

    assert report.reasons[Reason.TWO_LABELS] == 2
    assert report.patients == 1
    with pytest.raises(LabelError, match="lines 2, 3") as error:
        require_usable(folder, report)
    assert "P1" not in str(error.value)


def test_identifiers_of_one_person_are_counted_as_one(folder: Path) -> None:
    labels = labels_of(folder, "PatientID,label\nP1,ill\nP2,ill\nP3,well\n")
    (folder / "same").write_text("P1,P2\n")

    report = check(
        folder / "images", labels, classes=None, rules=Rules(), same_person=folder / "same"
    )

    assert report.patients == 2
    (folder / "same").write_text("P1,P3\n")
    report = check(
        folder / "images", labels, classes=None, rules=Rules(), same_person=folder / "same"
    )
    assert report.reasons[Reason.TWO_LABELS] == 3


def test_a_row_that_is_damaged_is_an_error(folder: Path) -> None:
    labels = labels_of(folder, "PatientID,label\nP1,ill\nP2\n")

    with pytest.raises(LabelError, match="line 3"):
        check(folder / "images", labels, classes=None, rules=Rules())


def test_rows_with_the_bare_names_of_files_in_folders_are_an_error(
    folder: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(folder / "images" / "sub" / "x.dcm", PatientID="P9")
    write_dicom(folder / "images" / "sub" / "a", PatientID="P8")
    path = folder / "labels.csv"
    labels = LabelFile(path, "filename", "filename", "label")
    path.write_text("filename,label\na,ill\nx.dcm,well\n")

    with pytest.raises(LabelError, match="line 3") as error:
        check(folder / "images", labels, classes=None, rules=Rules())

    assert "path below the image folder" in error.value.details["wanted"]
    path.write_text("filename,label\na,ill\nsub/x.dcm,well\n")
    assert check(folder / "images", labels, classes=None, rules=Rules()).patients == 2


def test_near_twins_are_counted_by_what_they_differ_in_and_never_named(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    spelt = ["Q7", "q7", "012", "12", "0012", "A 1", "0a1", "\uff18", "8", "R5", "R55", "S1", "s1"]
    for number, name in enumerate(spelt):
        write_dicom(
            tmp_path / "images" / str(number), PatientID=name, SpecificCharacterSet="ISO_IR 192"
        )
    rows = "".join(f"{name},ill\n" for name in spelt)
    labels = labels_of(tmp_path, "PatientID,label\n" + rows)
    (tmp_path / "same.csv").write_text("S1,s1\n")

    def count(file: LabelFile) -> Report:
        same = tmp_path / "same.csv"
        return check(tmp_path / "images", file, classes=None, rules=Rules(), same_person=same)

    report = count(labels)
    assert report.patients == 12  # two of the thirteen are listed as one person
    twins = {"unicode": 2, "blanks": 0, "case": 2, "leading-zeros": 3, "several": 2}
    assert report.near_twins == twins
    said = "\n".join(advice(report))
    assert "3 PatientIDs differ from another one only by leading zeros" in said
    assert not any(name in said for name in ("Q7", "q7", "012", "R5"))
    joined = count(replace(labels, ignored=frozenset(DIFFERENCES)))
    assert joined.patients == 7
    assert set(joined.near_twins.values()) == {0}


def test_rows_about_patients_follow_what_a_site_ignores(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "images" / "a", PatientID="0012")
    write_dicom(tmp_path / "images" / "b", PatientID="0013")
    labels = labels_of(tmp_path, "PatientID,label\n12,ill\n13,well\n")
    with pytest.raises(DataError):
        require_usable(tmp_path, check(tmp_path / "images", labels, classes=None, rules=Rules()))
    ignoring = replace(labels, ignored=frozenset({"leading-zeros"}))
    report = check(tmp_path / "images", ignoring, classes=None, rules=Rules())
    assert report.patients_by_label == {"ill": 1, "well": 1}
    assert report.rows_without_image == 0
