from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from client.data.dicom import Derived, Header, Reason, Rules, Unusable, read
from client.data.parallel import Elsewhere
from client.data.pixels import images

WriteDicom = Callable[..., Path]


def reason_of(path: Path) -> Reason:
    with pytest.raises(Unusable) as verdict:
        list(images(read(path).dataset))
    return verdict.value.reason


ORIGINAL = Header(
    patient="P-0001",
    study="1.2",
    instance="1.2.3",
    modality="CR",
    image_type=("ORIGINAL", "PRIMARY"),
    burned_in=False,
    rows=4,
    columns=4,
    frames=1,
)


def test_a_header_is_read_without_padding(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "a", PatientID="P-7 ", Modality="CR", BurnedInAnnotation="NO")

    reading = read(path)

    assert reading.header == replace(
        ORIGINAL,
        patient="P-7",
        study=reading.dataset.StudyInstanceUID,
        instance=reading.dataset.SOPInstanceUID,
    )


def test_a_file_without_preamble_is_read(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[132:])

    assert read(path).header.patient == "P-0001"


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"a note about the patients\n" * 20, b"\x89PNG\r\n", bytes(5000)]
)
def test_other_files_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.dcm"
    path.write_bytes(content)

    assert reason_of(path) is Reason.NOT_DICOM


def test_a_report_has_no_pixels(tmp_path: Path, write_dicom: WriteDicom) -> None:
    assert reason_of(write_dicom(tmp_path / "report", PixelData=None)) is Reason.NO_PIXELS


def test_a_file_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "gone") is Reason.UNREADABLE


def test_a_file_that_ends_in_the_middle_of_an_element_is_undecodable(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    path = write_dicom(tmp_path / "a")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"P-0001") + 3])

    assert reason_of(path) is Reason.UNDECODABLE


def test_pixels_that_are_cut_short_are_undecodable(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "a", np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-100])

    assert reason_of(path) is Reason.UNDECODABLE


def test_what_is_not_small_or_may_be_deflated_is_not_opened_here(
    tmp_path: Path, make_dataset: Callable[..., Dataset], write_dicom: WriteDicom
) -> None:
    """Deflated, a few bytes can become any number."""
    large = write_dicom(tmp_path / "large", np.zeros((512, 513), np.uint8))
    dataset = make_dataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated", enforce_file_format=True)

    for path in (large, tmp_path / "deflated"):
        with pytest.raises(Elsewhere):
            read(path, here=True)
        assert read(path).header.patient == "P-0001"


@settings(max_examples=150)
@given(st.data())
def test_no_damage_to_a_file_raises_anything_but_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, write_dicom: WriteDicom, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    compressed = data.draw(st.booleans())
    path = folder / f"fuzz-{compressed}"
    if not path.exists():
        write_dicom(
            path, syntax=RLELossless if compressed else None, WindowCenter=40, WindowWidth=80
        )
    content = bytearray(path.read_bytes())
    places = st.integers(132, len(content) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[place] = byte
    damaged = folder / "damaged"
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))

    try:
        shown = list(images(read(damaged).dataset))
    except Unusable as verdict:
        assert "P-0001" not in str(verdict)
    else:
        assert all(np.isfinite(image).all() for image in shown)


def test_nothing_that_the_libraries_say_is_passed_on(
    tmp_path: Path,
    write_dicom: WriteDicom,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """pydicom warns with the value, as here of a name that is no valid UID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_dicom(tmp_path / "a", StudyInstanceUID="Doe^Jane", PatientBirthDate="Doe^Jane")
    caplog.clear()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reading = read(path)
        list(images(reading.dataset))

    assert not said
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert "Doe" not in repr(reading.header)


def test_an_original_of_the_modality_passes() -> None:
    Rules(("cr", "DX")).judge(ORIGINAL)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modality": "MR"}, Reason.WRONG_MODALITY),
        ({"modality": ""}, Reason.WRONG_MODALITY),
        ({"image_type": ("DERIVED", "SECONDARY")}, Reason.DERIVED),
        ({"image_type": ("DERIVED", "PRIMARY")}, Reason.DERIVED),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, Reason.DERIVED),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "LOCALIZER")}, Reason.DERIVED),
        ({"burned_in": True}, Reason.BURNED_IN),
        ({"patient": ""}, Reason.NO_PATIENT_ID),
    ],
)
def test_a_header_that_does_not_fit_is_rejected_with_its_reason(
    changes: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(Unusable) as verdict:
        Rules(("CR",)).judge(replace(ORIGINAL, **changes))

    assert verdict.value.reason is reason


def test_primary_derived_images_can_be_let_in_without_the_others() -> None:
    rules = Rules(derived=Derived.PRIMARY)

    rules.judge(replace(ORIGINAL, image_type=("DERIVED", "PRIMARY")))
    for other in (("DERIVED", "SECONDARY"), ("DERIVED",), ("DERIVED", "PRIMARY", "LOCALIZER")):
        with pytest.raises(Unusable):
            rules.judge(replace(ORIGINAL, image_type=other))


def test_all_derived_images_can_be_let_in() -> None:
    rules = Rules(derived=Derived.ACCEPT)

    rules.judge(replace(ORIGINAL, image_type=("DERIVED", "SECONDARY")))
    rules.judge(replace(ORIGINAL, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))


def test_a_modality_that_is_no_defined_term_is_not_shown() -> None:
    with pytest.raises(Unusable) as verdict:
        Rules(("CR",)).judge(replace(ORIGINAL, modality="DOE^JANE"))

    assert "DOE" not in str(verdict.value)
