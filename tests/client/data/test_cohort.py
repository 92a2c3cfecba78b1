from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless

from client.data.cohort import Cohort, Part, Patient, Split, load_cohort
from client.data.dicom import Derived, Reason
from client.data.labels import Key, LabelFile
from client.data.pseudonyms import Pseudonyms, position
from common.errors import DataError, LabelError, SiteError
from common.process.progress import Tracker, silent
from tests.client.data.pictures import nearly

WriteDicom = Callable[..., Path]

KEY = bytes(range(32))
PARTS: tuple[Part, ...] = ("train", "validation", "test")
PSEUDONYMS = Pseudonyms(KEY)
LARGER = np.arange(256, dtype=np.uint8).reshape(16, 16)
"""Large enough for the JPEG-LS encoder."""


def write_labels(folder: Path, rows: dict[str, str], column: str = "PatientID") -> None:
    lines = [f"{column},label", *(f"{key},{label}" for key, label in rows.items())]
    (folder / "labels.csv").write_text("\n".join(lines))


def cohort_of(folder: Path, *, key: Key = "PatientID", **changes: object) -> Cohort:
    settings: dict[str, Any] = {
        "pseudonyms": PSEUDONYMS,
        "classes": ("normal", "pneumonia"),
        "modalities": ("CR",),
        "image_size": (4, 4),
        "channels": 1,
        "split": Split(0.6, 0.2, 0.2),
        "cache": folder / "cache",
    }
    file = LabelFile(folder / "labels.csv", key, key, "label")
    return load_cohort(folder / "images", file, **(settings | changes))


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Two patients: the first with two files, one of two frames; the second with one file."""
    images = tmp_path / "images"
    write_dicom(images / "a", nearly(0, 4, 4), PatientID="P1")
    write_dicom(images / "b", nearly(51, 2, 4, 4), PatientID="P1 ")
    write_dicom(images / "c", nearly(102, 4, 4), PatientID="P2")
    write_labels(tmp_path, {"P1": "pneumonia", "P2": "normal"})
    return tmp_path


def test_a_cohort_has_each_patient_once_with_all_images_and_one_label(folder: Path) -> None:
    cohort = cohort_of(folder)

    assert cohort.images.shape == (4, 1, 4, 4)
    assert cohort.images.dtype == np.float16
    seen = {
        each.pseudonym: (
            each.label,
            sorted(round(float(cohort.images[i].mean()), 1) for i in each.images),
        )
        for each in cohort.patients
    }
    assert seen == {PSEUDONYMS.of("P1"): (1, [0, 0.2, 0.2]), PSEUDONYMS.of("P2"): (0, [0.4])}
    assert [each.pseudonym for each in cohort.patients] == sorted(seen)
    assert cohort.rejected == ()


def test_a_patient_who_takes_no_part_is_as_if_not_there(folder: Path) -> None:
    """Not even rejected, and in the way of nobody: two labels of that patient do not matter."""
    names = {"a": "normal", "b": "pneumonia", "c": "normal"}
    write_labels(folder, names, "filename")
    without = cohort_of(folder, key="filename", without=frozenset({PSEUDONYMS.of("P1")}))
    for name in "ab":
        (folder / "images" / name).unlink()
    assert without.rejected == ()
    assert without.images.shape == (1, 1, 4, 4)
    assert without.patients == cohort_of(folder, key="filename").patients


@pytest.mark.parametrize("key", ["SOPInstanceUID", "StudyInstanceUID", "filename"])
def test_labels_are_found_by_every_kind_of_key(
    folder: Path, write_dicom: WriteDicom, key: Key
) -> None:
    uids = {name: f"1.2.{place}" for place, name in enumerate("abc", 1)}
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", "P2")):
        elements = {} if key == "filename" else {key: uids[name]}
        write_dicom(folder / "images" / name, PatientID=patient, **elements)
    names = dict.fromkeys("abc", "normal")
    rows = names if key == "filename" else {uids[name]: label for name, label in names.items()}
    write_labels(folder, rows, key)

    assert sorted(len(each.images) for each in cohort_of(folder, key=key).patients) == [1, 2]


def test_each_file_that_is_not_used_has_its_reason(folder: Path, write_dicom: WriteDicom) -> None:
    images = folder / "images"
    damaged = write_dicom(images / "damaged", LARGER, syntax=JPEGLSLossless)
    damaged.write_bytes(damaged.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0"))
    write_dicom(images / "mr", Modality="MR")
    write_dicom(images / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(images / "stamped", BurnedInAnnotation="YES")
    write_dicom(images / "nobody", PatientID="")
    write_dicom(images / "unlabelled", PatientID="P9")
    write_dicom(images / "report", PixelData=None)
    (images / "copy").write_bytes((images / "a").read_bytes())
    (images / "note").write_text("note")
    write_labels(folder, {"P1": "pneumonia", "P2": "normal", "P-0001": "normal"})

    cohort = cohort_of(folder)

    assert {each.path: each.reason for each in cohort.rejected} in [
        {
            "damaged": Reason.UNDECODABLE,
            "mr": Reason.WRONG_MODALITY,
            "scout": Reason.DERIVED,
            "stamped": Reason.BURNED_IN,
            "nobody": Reason.NO_PATIENT_ID,
            "unlabelled": Reason.NO_LABEL,
            "report": Reason.NO_PIXELS,
            copy: Reason.DUPLICATE,
            "note": Reason.NOT_DICOM,
        }
        for copy in ("a", "copy")
    ]
    assert len(cohort.patients) == 2


def test_one_image_stored_in_two_encodings_is_used_once(
    folder: Path, write_dicom: WriteDicom
) -> None:
    for name, syntax in (("d", None), ("e", JPEGLSLossless)):
        write_dicom(
            folder / "images" / name, LARGER, syntax=syntax, PatientID="P2", SOPInstanceUID="1.2.3"
        )

    cohort = cohort_of(folder)

    assert [each.reason for each in cohort.rejected] == [Reason.DUPLICATE]
    assert sum(len(each.images) for each in cohort.patients) == 5


def test_a_patient_who_bears_anothers_instance_uid_takes_no_image_from_them(
    folder: Path, write_dicom: WriteDicom
) -> None:
    """Copied identifiers are common; adding one patient changes nobody else's images."""
    for name, patient in (("d", "P2"), ("e", "P3"), ("f", "P4")):
        path = folder / "images" / name
        write_dicom(path, LARGER, PatientID=patient, SOPInstanceUID="1.2.3")
    write_labels(folder, {"P1": "pneumonia", "P2": "normal", "P3": "normal", "P4": "normal"})

    cohort = cohort_of(folder)

    assert cohort.rejected == ()
    assert sorted(len(each.images) for each in cohort.patients) == [1, 1, 2, 3]


def test_the_good_one_of_two_copies_is_used(folder: Path, write_dicom: WriteDicom) -> None:
    for name in "defgh":
        path = write_dicom(
            folder / "images" / name,
            LARGER,
            syntax=JPEGLSLossless,
            PatientID="P2",
            SOPInstanceUID="1.2.3",
        )
        if name != "f":
            damaged = path.read_bytes().replace(b"\xff\xd8\xff", b"\0\0" + name.encode())
            path.write_bytes(damaged)

    cohort = cohort_of(folder)

    assert [each.reason for each in cohort.rejected] == [Reason.UNDECODABLE] * 4
    assert sum(len(each.images) for each in cohort.patients) == 5


def test_derived_images_are_let_in_where_the_site_says_so(
    folder: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(folder / "images" / "d", PatientID="P2", ImageType=["DERIVED", "PRIMARY"])

    assert len(cohort_of(folder).images) == 4
    assert len(cohort_of(folder, derived=Derived.PRIMARY).images) == 5


def test_a_patient_with_two_labels_takes_no_part_and_the_others_do(folder: Path) -> None:
    write_labels(folder, {"a": "normal", "c": "normal", "b": "pneumonia"}, "filename")

    cohort = cohort_of(folder, key="filename")

    assert [each.pseudonym for each in cohort.patients] == [PSEUDONYMS.of("P2")]
    assert {(each.path, each.reason, each.detail) for each in cohort.rejected} == {
        ("a", Reason.TWO_LABELS, "lines 2, 4"),
        ("b", Reason.TWO_LABELS, "lines 2, 4"),
    }


def test_copies_of_one_image_with_two_labels_are_two_labels(folder: Path) -> None:
    (folder / "images" / "copy").write_bytes((folder / "images" / "c").read_bytes())
    write_labels(folder, {"a": "normal", "c": "normal", "copy": "pneumonia"}, "filename")

    cohort = cohort_of(folder, key="filename")

    assert [each.pseudonym for each in cohort.patients] == [PSEUDONYMS.of("P1")]


def test_a_label_that_is_no_class_leaves_its_patient_out_with_all_files(folder: Path) -> None:
    write_labels(folder, {"a": "normal", "c": "normal", "b": "fracture"}, "filename")

    cohort = cohort_of(folder, key="filename")

    assert [each.pseudonym for each in cohort.patients] == [PSEUDONYMS.of("P2")]
    assert [each.reason for each in cohort.rejected] == [Reason.NO_CLASS] * 2


def test_identifiers_of_one_person_are_one_patient(folder: Path, write_dicom: WriteDicom) -> None:
    """Under the identifier that comes first, with all images, each once, and one label."""
    first, second = map(PSEUDONYMS.of, ("P2", "P3"))
    for name, patient in (("d", "P3"), ("e", "P3"), ("f", "P2")):
        uid = "1.2.3" if name != "e" else "1.2.4"
        write_dicom(folder / "images" / name, LARGER, PatientID=patient, SOPInstanceUID=uid)
    labels = {"P1": "pneumonia", "P2": "normal", "P3": "normal"}
    write_labels(folder, labels)
    joined = cohort_of(folder, persons={first: first, second: first})

    assert {each.pseudonym: len(each.images) for each in joined.patients} == {
        PSEUDONYMS.of("P1"): 3,
        first: 3,
    }
    assert [each.reason for each in joined.rejected] == [Reason.DUPLICATE]

    write_labels(folder, labels | {"P3": "pneumonia"})
    apart = cohort_of(folder, persons={first: first, second: first})
    assert [each.pseudonym for each in apart.patients] == [PSEUDONYMS.of("P1")]


def test_where_nobody_can_be_used_the_cohort_is_empty(folder: Path) -> None:
    cohort = cohort_of(folder, modalities=("MR",))

    assert cohort.patients == ()
    assert cohort.images.shape == (0, 1, 4, 4)
    assert [each.reason for each in cohort.rejected] == [Reason.WRONG_MODALITY] * 3


def test_an_empty_folder_and_a_label_file_without_rows_are_an_empty_cohort(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    (folder / "labels.csv").write_text("PatientID,label\n")

    assert cohort_of(folder).patients == ()


def test_a_digest_is_of_a_patients_own_used_contents_and_label(
    folder: Path, write_dicom: WriteDicom
) -> None:
    def digests() -> tuple[str, str]:
        found = {each.pseudonym: each.digest for each in cohort_of(folder).patients}
        return found[PSEUDONYMS.of("P1")], found[PSEUDONYMS.of("P2")]

    first, second = digests()
    content = hashlib.sha256((folder / "images" / "c").read_bytes()).hexdigest()
    (patient,) = (
        each for each in cohort_of(folder).patients if each.pseudonym == PSEUDONYMS.of("P2")
    )
    pixels = hashlib.sha256(cohort_of(folder).images[list(patient.images)].tobytes()).hexdigest()
    by_hand = hashlib.sha256(f"consilium/patient/2\n0\n{content} {pixels}\n".encode())
    assert second == by_hand.hexdigest()
    write_dicom(folder / "images" / "mr", Modality="MR", PatientID="P2")
    (folder / "images" / "c").rename(folder / "images" / "z")
    assert digests() == (first, second)
    write_dicom(folder / "images" / "a", PatientID="P1")
    assert digests()[0] != first
    assert digests()[1] == second
    write_labels(folder, {"P1": "pneumonia", "P2": "pneumonia"})
    assert digests()[1] != second


def gone(folder: Path) -> None:
    shutil.rmtree(folder / "images")


def exchanged(folder: Path) -> None:
    (folder / "images").rename(folder / "old")
    (folder / "images").mkdir()


def no_labels(folder: Path) -> None:
    (folder / "labels.csv").unlink()


def no_cache(folder: Path) -> None:
    (folder / "cache").write_text("a file stands there")


def headless(folder: Path) -> None:
    (folder / "labels.csv").write_text("P1,pneumonia\nP2,normal\n")


@pytest.mark.parametrize("failure", [gone, no_labels, no_cache, headless])
def test_the_sites_own_failure_is_an_error(folder: Path, failure: Callable[[Path], None]) -> None:
    failure(folder)

    with pytest.raises((DataError, LabelError)):
        cohort_of(folder)


@pytest.mark.parametrize("failure", [gone, exchanged, no_labels])
@pytest.mark.parametrize("job", ["reading files", "decoding images"])
def test_a_failure_of_the_site_while_it_reads_leaves_nobody_out(
    folder: Path, failure: Callable[[Path], None], job: str
) -> None:
    """The files are gone with the folder that held them: no patient has left."""

    @contextmanager
    def interfere(description: str, total: int, *, unit: str = "") -> Iterator[Tracker]:
        if description == job:
            failure(folder)
        with silent(description, total, unit=unit) as running:
            yield running

    with pytest.raises((DataError, LabelError)):
        cohort_of(folder, progress=interfere)


def test_order_comes_from_patients_and_contents_not_from_names(folder: Path) -> None:
    before = cohort_of(folder)
    for old, new in (("a", "z"), ("c", "sub/0")):
        target = folder / "images" / new
        target.parent.mkdir(exist_ok=True)
        (folder / "images" / old).rename(target)

    after = cohort_of(folder)

    assert after.patients == before.patients
    np.testing.assert_array_equal(after.images, before.images)


def test_the_cohort_is_the_same_with_and_without_its_cache(folder: Path) -> None:
    first, second = cohort_of(folder), cohort_of(folder)
    fresh = cohort_of(folder, cache=folder / "another")

    assert first.patients == second.patients == fresh.patients


def changed_image(folder: Path, write_dicom: WriteDicom) -> dict[str, Any]:
    write_dicom(folder / "images" / "c", nearly(103, 4, 4), PatientID="P2")
    return {}


def changed_label(folder: Path, write_dicom: WriteDicom) -> dict[str, Any]:
    del write_dicom
    write_labels(folder, {"P1": "normal", "P2": "normal"})
    return {}


def changed_patient(folder: Path, write_dicom: WriteDicom) -> dict[str, Any]:
    write_dicom(folder / "images" / "d", PatientID="P3")
    write_labels(folder, {"P1": "pneumonia", "P2": "normal", "P3": "normal"})
    return {}


def changed_split(folder: Path, write_dicom: WriteDicom) -> dict[str, Any]:
    del folder, write_dicom
    return {"split": Split(0, 0, 1)}


@pytest.mark.parametrize("change", [changed_image, changed_label, changed_patient, changed_split])
def test_a_cohort_that_changed_is_another(
    folder: Path,
    write_dicom: WriteDicom,
    change: Callable[[Path, WriteDicom], dict[str, Any]],
) -> None:
    frozen = cohort_of(folder)
    again, changed = cohort_of(folder), cohort_of(folder, **change(folder, write_dicom))

    assert [(again.part(part) == frozen.part(part)) for part in PARTS] == [True] * len(PARTS)
    assert any(changed.part(part) != frozen.part(part) for part in PARTS)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.text(min_size=1))
def test_adding_a_patient_moves_nobody_and_nobody_stands_in_two_parts(
    identifiers: list[str], newcomer: str
) -> None:
    split = Split(0.5, 0.3, 0.2)

    def parts(names: list[str]) -> dict[str, list[str]]:
        patients = tuple(
            Patient(each, 0, (0,), "0" * 64)
            for each in sorted({PSEUDONYMS.of(name) for name in names})
        )
        cohort = Cohort(patients, np.zeros((1, 1, 2, 2), np.float16), split)
        return {name: [each.pseudonym for each in cohort.part(name)] for name in PARTS}

    before, after = parts(identifiers), parts([*identifiers, newcomer])

    everyone = [name for part in before.values() for name in part]
    assert sorted(everyone) == sorted({PSEUDONYMS.of(name) for name in identifiers})
    for part in PARTS:
        assert set(before[part]) == set(after[part]) - ({PSEUDONYMS.of(newcomer)} - set(everyone))


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_part_is_the_interval_that_holds_the_patients_place(
    identifier: str, first: float, second: float
) -> None:
    low, high = sorted((first, second))
    split = Split(low, high - low, 1 - high)
    pseudonym = PSEUDONYMS.of(identifier)
    place = position(pseudonym)

    if split.test and place >= low + (high - low):
        expected = "test"
    else:
        expected = "train" if place < low else "validation"
    assert split.part_of(pseudonym) == expected


def test_without_a_test_share_nobody_is_in_test() -> None:
    split = Split(0.9, 0.1, 0)

    assert {split.part_of(PSEUDONYMS.of(str(i))) for i in range(500)} == {"train", "validation"}


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.2, 0), (float("nan"), 0.5, 0.5)])
def test_shares_that_cut_no_whole_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(SiteError, match="do not sum to 1"):
        Split(*shares)


def test_no_identifier_gets_past_the_reader(
    tmp_path: Path,
    write_dicom: WriteDicom,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not into the cache, names or contents; nor a log, the terminal, a repr, an error."""
    identity: dict[str, object] = {
        "PatientID": "SECRET-77",
        "PatientName": "SECRET^Jane",
        "SOPInstanceUID": "1.2.826.77.1",
        "StudyInstanceUID": "1.2.826.77.2",
        "AccessionNumber": "SECRET-ACC",
    }
    path = write_dicom(tmp_path / "images" / "SECRET_jane.dcm", **identity)
    write_dicom(tmp_path / "images" / "SECRET_report.dcm", PixelData=None, **identity)
    write_labels(tmp_path, {"SECRET-77": "normal"})
    secrets = [b"SECRET", b"1.2.826.77", PSEUDONYMS.of("SECRET-77").encode(), KEY.hex().encode()]

    with structlog.testing.capture_logs() as events, caplog.at_level(logging.DEBUG):
        cohort = cohort_of(tmp_path)
        write_labels(tmp_path, {"SECRET-77": "SECRET"})
        nobody = cohort_of(tmp_path)

    seen = [str(events), caplog.text, *capfd.readouterr()]
    seen += [repr(cohort), repr(cohort.patients), repr(cohort.rejected), repr(PSEUDONYMS)]
    seen += [repr(nobody.rejected), str([each.detail for each in nobody.rejected])]
    for each in (tmp_path / "cache").rglob("*"):
        seen.append(each.name)
        if each.is_file():
            assert not any(secret in each.read_bytes() for secret in secrets)
    for secret in secrets:
        assert not any(secret.decode() in text for text in seen)
    assert path.exists()


def stray_delimiter(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes.fromhex("feffdde000000000"))


def unknown_last(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes.fromhex("e17f10005a5a0000"))


def two_syntaxes(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008\\1.2.1", 1))


def no_meta(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"\x08\0\x08\0CS") :])


def lower_case(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"monochrome2", 1))


def bent_frames(path: Path) -> None:
    """A NumberOfFrames that is no number, in the place of an element that nobody reads."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x28\0\x10\0US", b"\x28\0\x08\0IS\x02\x001A\x28\0\x10\0US", 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def pixels_of(cohort: Cohort) -> dict[str, bytes]:
    return {each.pseudonym: cohort.images[each.images[0]].tobytes() for each in cohort.patients}


ODD = {
    stray_delimiter: None,
    unknown_last: None,
    two_syntaxes: None,
    no_meta: None,
    lower_case: None,
    bent_frames: "its NumberOfFrames is not a number",
    cut: "the file ends within its pixel data",
}


def test_one_odd_file_of_each_kind_costs_its_patient_at_most(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """What can be read is used, as if it were sound; the rest is counted, and the others train."""
    patients = ["good", *(odd.__name__ for odd in ODD), "last"]
    for name in patients:
        write_dicom(tmp_path / "images" / name, LARGER, PatientID=name)
    write_labels(tmp_path, dict.fromkeys(patients, "normal"))
    sound = pixels_of(cohort_of(tmp_path))
    for odd in ODD:
        odd(tmp_path / "images" / odd.__name__)

    cohort = cohort_of(tmp_path, cache=tmp_path / "second")

    used = {PSEUDONYMS.of(name) for name in patients} - {
        PSEUDONYMS.of(odd.__name__) for odd, detail in ODD.items() if detail
    }
    assert pixels_of(cohort) == {pseudonym: sound[pseudonym] for pseudonym in used}
    assert {each.path: each.detail for each in cohort.rejected} == {
        odd.__name__: detail for odd, detail in ODD.items() if detail
    }
