from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from pydicom import dcmread

from client.data.archive import Found
from client.data.cohort import Split, load_cohort
from client.data.dicom import Header, Reason
from client.data.labels import LabelFile
from client.data.pseudonyms import Pseudonyms
from client.prediction.dicom_output import DicomOutput
from client.prediction.intake import Examination, PreparedFile
from client.prediction.predict import IMAGES, NOT_MADE, REJECTED, STOPPED, TABLE, Wanted, predict
from client.prediction.scoring import Scores, choice_for, scored
from client.prediction.table import GrowingTable
from client.training.evaluation import outputs_of
from common.errors import ConsiliumError, DataError, PackageError
from common.models.networks import build_model, load_flat
from common.numerics import EngineChoice
from common.package.package import Package
from common.study.study_file import Study
from tests.client.objects.object_files import series
from tests.client.prediction.models import NUMBERS, OUTLINES, PATIENTS, QUIET, archive, opened
from tests.client.site_fixtures import CLASSES, write_image
from tests.common.studies import small_study

WHEN = datetime(2026, 3, 4, 5, 6, 7)
Rows = list[dict[str, str]]


def table(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return opened(tmp_path_factory.mktemp("package"))


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(archive(tmp_path / "archive"), tmp_path / "out", when=WHEN, dicom=False)


def test_a_prediction_is_what_training_would_compute_of_the_image(
    model: Package, wanted: Wanted, tmp_path: Path
) -> None:
    labels = LabelFile(
        wanted.images.parent / "labels.csv", "SOPInstanceUID", "SOPInstanceUID", "label"
    )
    cohort = load_cohort(
        wanted.images,
        labels,
        pseudonyms=Pseudonyms(bytes(32)),
        classes=CLASSES,
        modalities=("DX",),
        image_size=(8, 8),
        channels=1,
        split=Split(0.0, 0.0, 1.0),
        cache=tmp_path / "cache",
    )
    study = model.study
    of_image = {}
    for patient in cohort.patients:
        for row in patient.images:
            alone = (replace(patient, images=(row,)),)
            ((outputs, _),) = outputs_of(
                study, model.weights, cohort.images, alone, choice=choice_for(model)
            )
            of_image[cohort.images[row].tobytes()] = study.task.numbers(outputs)

    predict(model, wanted, QUIET)

    rows = table(wanted.out / f"{IMAGES}.csv")
    assert len(rows) == sum(PATIENTS.values()) == len(of_image)
    exact = sorted(round(float(each[1]), 6) for each in of_image.values())
    assert sorted(float(row["pneumonia"]) for row in rows) == exact


def test_an_examination_has_the_mean_of_its_images(model: Package, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "images" / f"{number}.dcm"
        write_image(path, "P001", number)
        dataset = dcmread(path)
        dataset.StudyInstanceUID = "1.2.3"
        dataset.save_as(path)

    predict(model, Wanted(tmp_path / "images", tmp_path / "out", dicom=False), QUIET)

    (one,) = table(tmp_path / "out" / f"{TABLE}.csv")
    each = [float(row["pneumonia"]) for row in table(tmp_path / "out" / f"{IMAGES}.csv")]
    assert float(one["pneumonia"]) == pytest.approx(np.mean(each), abs=2e-6)
    assert one["images"] == "3"


def test_both_forms_of_a_table_say_the_same(model: Package, wanted: Wanted) -> None:
    predict(model, wanted, QUIET)

    rows = table(wanted.out / f"{TABLE}.csv")
    same = pq.read_table(wanted.out / f"{TABLE}.parquet").to_pylist()
    assert [row["patient"] for row in rows] == [row["patient"] for row in same]
    assert [float(row["pneumonia"]) for row in rows] == [row["pneumonia"] for row in same]
    assert (wanted.out / f"{TABLE}.csv").stat().st_mode & 0o077 == 0


def test_the_last_rounds_disagree_by_their_spread(model: Package, wanted: Wanted) -> None:
    predict(model, wanted, QUIET)

    row = table(wanted.out / f"{TABLE}.csv")[0]
    assert float(row["pneumonia: spread of last rounds"]) > 0
    assert row["pneumonia: of their averaged weights"]


def test_calibration_moves_the_score_and_the_threshold_together(
    model: Package, wanted: Wanted
) -> None:
    predict(model, wanted, QUIET)

    rows = table(wanted.out / f"{TABLE}.csv")
    for row in rows:
        present = row["pneumonia: present"] == "True"
        assert present == (float(row["pneumonia"]) >= 0.5)
        above = float(row["pneumonia: calibrated"]) >= float(
            row["pneumonia: threshold of calibrated"]
        )
        assert present == above
    assert {row["pneumonia: calibrated"] for row in rows} != {row["pneumonia"] for row in rows}


def test_a_file_that_cannot_be_read_is_listed_and_the_rest_goes_on(
    model: Package, wanted: Wanted
) -> None:
    (wanted.images / "notes.txt").write_text("not DICOM")
    spoilt = dcmread(wanted.images / "P001-0.dcm")
    spoilt.SOPInstanceUID, spoilt.PixelData = "1.9", b"x"
    spoilt.save_as(wanted.images / "spoilt.dcm")
    shutil.copy(wanted.images / "P000-0.dcm", wanted.images / "copy.dcm")
    other = dcmread(wanted.images / "P003-0.dcm")
    other.SOPInstanceUID, other.Modality = "1.8", "MR"
    other.save_as(wanted.images / "other.dcm")

    done = predict(model, wanted, QUIET)

    listed = {row["file"]: row["why"] for row in table(wanted.out / f"{REJECTED}.csv")}
    assert listed == {
        "notes.txt": "not-dicom",
        "spoilt.dcm": listed["spoilt.dcm"],
        "copy.dcm": "duplicate",
        "other.dcm": "wrong-modality",
    }
    assert done.images == sum(PATIENTS.values())
    assert done.reasons[Reason.WRONG_MODALITY] == 1


def test_another_modality_is_predicted_with_a_warning_if_that_is_asked_for(
    model: Package, wanted: Wanted
) -> None:
    path = wanted.images / "P003-0.dcm"
    other = dcmread(path)
    other.Modality = "MR"
    other.save_as(path)

    done = predict(model, replace(wanted, any_image=True), QUIET)

    assert done.warnings["modality MR; the study is about DX"] == 1


def test_a_folder_of_nothing_is_an_error_that_says_why(model: Package, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("not DICOM")

    with pytest.raises(DataError, match="no image") as error:
        predict(model, Wanted(tmp_path / "images", tmp_path / "out"), QUIET)

    assert "not-dicom: 1" in error.value.details["found"]


def test_predictions_are_not_mixed_with_other_files(model: Package, wanted: Wanted) -> None:
    wanted.out.mkdir()
    (wanted.out / "mine.txt").write_text("kept")

    with pytest.raises(DataError, match="not empty"):
        predict(model, wanted, QUIET)


def test_no_cell_is_a_formula(model: Package, wanted: Wanted) -> None:
    path = wanted.images / "P003-0.dcm"
    other = dcmread(path)
    other.PatientID = "=1+1"
    other.save_as(path)

    predict(model, wanted, QUIET)

    assert "'=1+1" in {row["patient"] for row in table(wanted.out / f"{TABLE}.csv")}


def test_reports_are_written_and_say_what_the_table_says(model: Package, tmp_path: Path) -> None:
    for each in (*series("CT"),):
        each.Modality = "DX"
        (tmp_path / "images").mkdir(exist_ok=True)
        each.save_as(tmp_path / "images" / f"{each.SOPInstanceUID}.dcm")
    wanted = Wanted(tmp_path / "images", tmp_path / "out", when=WHEN)

    done = predict(model, wanted, QUIET)

    assert not done.skipped
    (path,) = (tmp_path / "out" / "dicom").glob("SR.*.dcm")
    (row,) = table(tmp_path / "out" / f"{TABLE}.csv")
    group = next(item for item in dcmread(path).ContentSequence if "Measurements" in str(item))
    values = [
        str(each.MeasuredValueSequence[0].NumericValue)
        for each in group.ContentSequence[0].ContentSequence
        if "MeasuredValueSequence" in each
    ]
    assert float(values[0]) == pytest.approx(float(row["pneumonia: calibrated"]), abs=1e-5)


def outlined(tmp_path: Path, study: Study = OUTLINES) -> Path:
    (tmp_path / "images").mkdir()
    for each in series("CT"):
        each.Modality = "DX"
        each.save_as(tmp_path / "images" / f"{each.SOPInstanceUID}.dcm")
    predict(
        opened(tmp_path / "package", study),
        Wanted(tmp_path / "images", tmp_path / "out", when=WHEN),
        QUIET,
    )
    return tmp_path / "out"


def test_a_segmentation_lies_on_the_pixels_of_its_images(tmp_path: Path) -> None:
    out = outlined(tmp_path)

    (path,) = (out / "dicom").glob("SEG.*.dcm")
    made, source = dcmread(path), dcmread(next((tmp_path / "images").iterdir()))
    assert (made.Rows, made.Columns) == (source.Rows, source.Columns)
    assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert made.PatientID == source.PatientID
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert [each.SegmentLabel for each in made.SegmentSequence] == ["liver", "lesion"]
    assert list((out / "pictures").glob("*.outlines.png"))
    assert (out / "pictures.html").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_every_object_is_valid(tmp_path: Path) -> None:
    out = outlined(tmp_path)

    for path in (out / "dicom").iterdir():
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr, (path.name, said.stderr)


def test_the_same_prediction_is_the_same_objects(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    first, second = (
        {each.name: each.read_bytes() for each in (outlined(tmp_path / name) / "dicom").iterdir()}
        for name in ("a", "b")
    )

    assert first == second


def test_a_number_is_predicted_in_its_unit(tmp_path: Path) -> None:
    wanted = Wanted(archive(tmp_path / "archive"), tmp_path / "out", dicom=False)

    predict(opened(tmp_path / "package", NUMBERS), wanted, QUIET)

    ages = [float(row["age in years"]) for row in table(wanted.out / f"{TABLE}.csv")]
    assert len(ages) == sum(PATIENTS.values())
    assert all(0 <= age <= 90 for age in ages)


@pytest.mark.parametrize("study", [None, NUMBERS, OUTLINES], ids=["class", "number", "mask"])
def test_every_task_has_pictures_of_reasons(study: Study | None, tmp_path: Path) -> None:
    images, out = archive(tmp_path / "archive"), tmp_path / "out"
    wanted = Wanted(images, out, reasons="auto", dicom=False, most=4)

    done = predict(opened(tmp_path / "package", study), wanted, QUIET)

    assert not done.skipped
    assert len(list((wanted.out / "pictures").glob("*.png"))) >= 4
    page = (wanted.out / "pictures.html").read_text()
    assert "Research use only" in page
    assert "<script" not in page


def test_a_method_that_does_not_fit_is_an_error_before_anything_is_read(
    model: Package, wanted: Wanted
) -> None:
    with pytest.raises(ConsiliumError, match="cannot explain"):
        predict(model, replace(wanted, reasons="contributions"), QUIET)


def test_pydicom_reads_what_was_written(tmp_path: Path) -> None:
    for path in (outlined(tmp_path) / "dicom").iterdir():
        assert pydicom.misc.is_dicom(path)


@pytest.mark.parametrize("instance", ["../../outside", "/tmp/outside", "a/b", "1.2\\0.3", "=1.2"])
def test_no_header_names_a_file_elsewhere(tmp_path: Path, instance: str) -> None:
    path = tmp_path / "in" / "images" / "x.dcm"
    write_image(path, "P001", 0)
    hostile = dcmread(path)
    hostile.SOPInstanceUID = instance
    hostile.save_as(path, enforce_file_format=False)

    predict(
        opened(tmp_path / "package"),
        Wanted(tmp_path / "in" / "images", tmp_path / "in" / "out", reasons="auto"),
        QUIET,
    )

    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "package"]
    assert sorted(each.name for each in (tmp_path / "in").iterdir()) == ["images", "out"]
    pictures = list((tmp_path / "in" / "out" / "pictures").iterdir())
    assert len(pictures) == 1
    assert ".." not in pictures[0].name.removesuffix(".png").replace(".1.grad_cam", "")


def test_a_report_is_about_the_file_that_was_scored(
    model: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever puts another patient's file in its place meanwhile gets no report of that patient."""
    images = tmp_path / "images"
    images.mkdir()
    (image,) = series("DX")[:1]
    image.save_as(images / "x.dcm")

    def swapped(
        package: Package, given: Iterable[Examination], *, choice: EngineChoice, rule: str
    ) -> Iterator[tuple[Examination, Scores]]:
        for one in scored(package, given, choice=choice, rule=rule):
            image.PatientID = "SOMEBODY-ELSE"
            image.save_as(images / "x.dcm")
            yield one

    monkeypatch.setattr("client.prediction.predict.scored", swapped)

    done = predict(model, Wanted(images, tmp_path / "out"), QUIET)

    assert done.skipped.total() == 1
    assert not list((tmp_path / "out").glob("dicom/*"))


def test_two_patients_whose_images_have_one_uid_have_two_reports(
    model: Package, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for patient in ("P-1", "P-2"):
        (image,) = series("DX")[:1]
        image.PatientID = patient
        image.save_as(images / f"{patient}.dcm")

    predict(model, Wanted(images, tmp_path / "out", reasons="auto"), QUIET)

    reports = [dcmread(path) for path in (tmp_path / "out" / "dicom").glob("SR.*.dcm")]
    assert {str(each.PatientID) for each in reports} == {"P-1", "P-2"}
    assert len(list((tmp_path / "out" / "dicom").glob("SC.*.dcm"))) == 2
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_each_class_has_its_own_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ((1, "liver"), (2, "lesion"))
    monkeypatch.setattr(type(OUTLINES.task), "explained", lambda *_: both)
    images, out = archive(tmp_path / "archive"), tmp_path / "out"
    wanted = Wanted(images, out, reasons="auto", dicom=False, most=4)

    predict(opened(tmp_path / "package", OUTLINES), wanted, QUIET)

    # Of each image its outlines, and a map for each of two classes.
    assert len(list((wanted.out / "pictures").iterdir())) == 3 * 4


def test_a_class_does_not_take_the_place_of_a_column(tmp_path: Path) -> None:
    study = small_study(task={"classes": ["patient", "file"]})
    wanted = Wanted(archive(tmp_path / "archive"), tmp_path / "out", dicom=False)

    predict(opened(tmp_path / "package", study), wanted, QUIET)

    rows = table(wanted.out / f"{IMAGES}.csv")
    assert {row["patient"] for row in rows} == set(PATIENTS)
    assert all(0 <= float(row["score of patient"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [
        ("InstanceNumber", "SQ"),
        ("LossyImageCompression", "SQ"),
        ("Manufacturer", "FD"),
        ("SeriesInstanceUID", "FD"),
    ],
)
@pytest.mark.parametrize("study", [None, OUTLINES], ids=["class", "mask"])
def test_an_element_of_another_form_costs_its_objects_alone(
    tmp_path: Path, keyword: str, vr: str, study: Study | None
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(series("DX")[:2]):
        if number:
            value = [pydicom.Dataset()] if vr == "SQ" else [1.0, 2.0]
            image[keyword] = pydicom.DataElement(keyword, vr, value)
        image.save_as(images / f"{number}.dcm")

    predict(opened(tmp_path / "package", study), Wanted(images, tmp_path / "out"), QUIET)

    assert len(table(tmp_path / "out" / f"{IMAGES}.csv")) == 2


def test_a_deflated_file_is_scored_and_not_inflated_again(model: Package, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (image,) = series("DX")[:1]
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(images / "x.dcm", enforce_file_format=True)

    done = predict(model, Wanted(images, tmp_path / "out"), QUIET)

    assert done.images == 1
    assert done.skipped.total() == 1


def stopping(after: int, error: BaseException) -> Callable[[Examination], None]:
    """Raises once so many examinations were looked at."""
    count = iter(range(after))

    def look(_: Examination) -> None:
        if next(count, None) is None:
            raise error

    return look


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left")])
def test_what_was_predicted_before_it_was_stopped_is_there(
    model: Package, wanted: Wanted, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    look = stopping(5, error)

    def write(_: object, one: Examination, *_rest: object) -> Iterator[str]:
        look(one)
        yield from ()

    monkeypatch.setattr(DicomOutput, "write", write)

    with pytest.raises(type(error)):
        predict(model, replace(wanted, dicom=True), QUIET)

    assert len(table(wanted.out / f"{TABLE}.csv")) == 6
    assert len(pq.read_table(wanted.out / f"{IMAGES}.parquet")) >= 6
    assert (wanted.out / STOPPED).read_text().endswith("until then: 6\n")


def test_whatever_a_header_makes_a_library_raise_the_rest_goes_on(
    model: Package, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = stopping(5, TypeError("of a value that is a patient's"))
    whole = DicomOutput.write

    def write(self: DicomOutput, one: Examination, *rest: Any) -> Iterator[str]:  # noqa: ANN401
        look(one)
        yield from whole(self, one, *rest)

    monkeypatch.setattr(DicomOutput, "write", write)

    done = predict(model, replace(wanted, dicom=True), QUIET)

    assert done.examinations == sum(PATIENTS.values())
    assert done.skipped["no objects: TypeError"] == done.examinations - 5
    why = [row["why"] for row in table(wanted.out / f"{NOT_MADE}.csv")]
    assert why.count("no objects: TypeError") == done.examinations - 5


def test_a_table_that_grows_is_on_disk_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.prediction.table._EVERY", -1.0)

    GrowingTable(tmp_path, "some").add([{"patient": "A;=1+1", "score": 0.5}])

    assert (tmp_path / "some.csv").read_text("utf-8-sig") == ('"patient","score"\n"A;=1+1",0.5\n')


def task_numbers(package: Package, pixels: NDArray[np.float16]) -> NDArray[np.float64]:
    """What the network's masks of some images count."""
    study, model = package.study, build_model(package.study)
    load_flat(model, package.weights)
    images = (torch.from_numpy(pixels.astype(np.float32)) - study.data.mean) / study.data.std
    with torch.no_grad():
        return study.task.numbers(model.eval()(images))


def test_masks_of_an_examination_are_made_a_few_images_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = opened(tmp_path / "package", OUTLINES)
    pixels = np.random.default_rng(1).random((7, *OUTLINES.shape)).astype(np.float16)
    found = Found("x.dcm", "0" * 64, Header("P", "1", "1", "DX", (), False, 8, 8, 7))
    one = Examination((PreparedFile(found, pixels),))
    two = Examination((PreparedFile(found, pixels[:3]),))
    choice = choice_for(package)
    whole = list(scored(package, [one, two, one], choice=choice))
    monkeypatch.setattr("client.prediction.scoring.BATCH", 5)

    parts = list(scored(package, [one, two, one], choice=choice))

    for (_, once), (_, again) in zip(whole, parts, strict=True):
        for name in ("numbers", "each", "masks", "rounds", "averaged"):
            np.testing.assert_array_equal(getattr(again, name), getattr(once, name))
        assert again.findings == once.findings
        assert len(again.rounds)
    assert [len(scores.each) for _, scores in parts] == [7, 3, 7]
    alone = task_numbers(package, pixels[:3])
    np.testing.assert_array_equal(parts[1][1].numbers, alone)


def test_a_model_that_no_machine_can_hold_is_refused_before_anything_is_read(
    wanted: Wanted, tmp_path: Path
) -> None:
    small = opened(tmp_path / "package", OUTLINES)
    data = small.study.data.model_copy(update={"image_size": (2**17, 2**17)})
    large = replace(small, study=small.study.model_copy(update={"data": data}))

    with pytest.raises(PackageError, match="more memory than there is"):
        predict(large, wanted, QUIET)

    assert not wanted.out.exists()


def test_a_picture_of_an_earlier_prediction_is_no_image_of_a_patient(
    model: Package, tmp_path: Path
) -> None:
    out = outlined(tmp_path)
    assert list((out / "dicom").glob("SC.*"))
    assert {(out / name).stat().st_mode & 0o777 for name in ("dicom", "pictures")} == {0o700}

    with pytest.raises(DataError, match="no image in this folder"):
        predict(
            model, Wanted(out / "dicom", tmp_path / "again", any_image=True, dicom=False), QUIET
        )

    assert not list((tmp_path / "again").iterdir())
