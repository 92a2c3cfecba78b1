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
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from client.data.dicom import DRAWN, Derived, Header, Reason, Rules, Unusable, read
from client.data.parallel import Elsewhere
from client.data.pixels import images, stored_values

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
    with pytest.raises(Unusable, match="an earlier prediction drew"):
        rules.judge(replace(ORIGINAL, image_type=("DERIVED", "SECONDARY", "OTHER", DRAWN)))


def test_a_modality_that_is_no_defined_term_is_not_shown() -> None:
    with pytest.raises(Unusable) as verdict:
        Rules(("CR",)).judge(replace(ORIGINAL, modality="DOE^JANE"))

    assert "DOE" not in str(verdict.value)


def stored(path: Path) -> NDArray[Any]:
    return stored_values(read(path).dataset)[0]


WORDS = np.random.default_rng(0).integers(0, 4096, (16, 16)).astype("<u2")
DELIMITER = bytes.fromhex("feffdde000000000")


@settings(max_examples=100, deadline=None)
@given(
    tail=st.lists(
        st.one_of(
            st.just(DELIMITER),  # delimiters that close nothing
            st.just(bytes.fromhex("feff0de000000000")),
            st.builds(  # elements of a VR that nobody knows, without a value
                lambda tag, vr: tag + vr.encode() + b"\0\0",
                st.binary(min_size=4, max_size=4).filter(lambda tag: tag[:2] > b"\xe0\x7f"),
                st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2),
            ),
            st.binary(max_size=12),
        ),
        max_size=3,
    ),
)
def test_what_follows_the_pixels_changes_none(
    tmp_path_factory: pytest.TempPathFactory, write_dicom: WriteDicom, tail: list[bytes]
) -> None:
    """Whether pydicom can convert it or not; unless it says of itself to be the pixels."""
    path = tmp_path_factory.getbasetemp() / "tail"
    write_dicom(path, WORDS)
    path.write_bytes(path.read_bytes() + b"".join(tail))

    try:
        found = stored(path)
    except Unusable as verdict:
        assert verdict.reason is Reason.UNDECODABLE
        assert tail not in ([DELIMITER], [bytes.fromhex("feff0de000000000")])
    else:
        np.testing.assert_array_equal(found, WORDS)


@pytest.mark.parametrize("tail", ["feffdde000000000" * 2, "feff0de000000000", "e17f10005a5a0000"])
def test_a_last_element_that_cannot_be_converted_costs_nothing(
    tmp_path: Path, write_dicom: WriteDicom, tail: str
) -> None:
    path = write_dicom(tmp_path / "a", WORDS)
    path.write_bytes(path.read_bytes() + bytes.fromhex(tail))

    np.testing.assert_array_equal(stored(path), WORDS)


def test_a_transfer_syntax_with_two_values_is_read_as_none(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for name, syntax in (("plain", None), ("compressed", RLELossless)):
        path = write_dicom(tmp_path / name, WORDS, syntax=syntax)
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2", b"1.2.840.10008\\1.2", 1))

    np.testing.assert_array_equal(stored(tmp_path / "plain"), WORDS)
    with pytest.raises(Unusable, match="more than one value") as verdict:
        stored(tmp_path / "compressed")
    assert verdict.value.reason is Reason.NO_SYNTAX


PLAIN = {
    "implicit": {"implicit_vr": True, "little_endian": True},
    "explicit": {"implicit_vr": False, "little_endian": True},
    "big": {"implicit_vr": False, "little_endian": False},
}


@settings(max_examples=60, deadline=None)
@given(
    written=st.sampled_from(sorted(PLAIN)),
    kind=st.sampled_from(["u1", "<u2", "<i2"]),
    shape=st.sampled_from([(5, 3), (4, 4), (2, 5, 3), (3, 7, 3)]),
    more=st.sampled_from([0, 0, -2, 2, 100]),
)
def test_a_file_without_meta_information_is_used_if_its_lengths_agree(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Dataset],
    *,
    written: str,
    kind: str,
    shape: tuple[int, ...],
    more: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "bare"
    pixels = (np.arange(np.prod(shape)) % 200).reshape(shape).astype(kind)
    dataset = make_dataset(pixels)
    little = PLAIN[written]["little_endian"]
    data = pixels.astype(np.dtype(kind).newbyteorder("<" if little else ">")).tobytes()
    data = data + bytes(len(data) % 2)
    dataset.PixelData = data[:more] if more < 0 else data + bytes(more)
    dataset["PixelData"].VR = "OB" if kind == "u1" else "OW"
    del dataset.file_meta
    dcmwrite(path, dataset, enforce_file_format=False, **PLAIN[written])

    if more:
        with pytest.raises(Unusable) as verdict:
            stored(path)
        assert verdict.value.reason is Reason.NO_SYNTAX
    else:
        np.testing.assert_array_equal(stored(path), pixels)


def test_compressed_pixels_without_meta_information_are_not_guessed_at(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    path = write_dicom(tmp_path / "a", WORDS, syntax=RLELossless)
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"\x08\0\x08\0CS") :])

    with pytest.raises(Unusable) as verdict:
        read(path)
    assert verdict.value.reason is Reason.NO_SYNTAX


def test_a_file_that_is_cut_short_has_all_its_pixels_or_a_verdict(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """A delimiter that is missing, as a whole or in part, costs nothing; a byte more does."""
    frames = np.stack([WORDS, WORDS[::-1]])
    data = write_dicom(tmp_path / "a", frames, syntax=RLELossless).read_bytes()
    for cut in [*range(60), *range(60, len(data), 37)]:
        (tmp_path / "cut").write_bytes(data[: len(data) - cut])
        try:
            found = stored(tmp_path / "cut")
        except Unusable as verdict:
            assert cut > len(DELIMITER)
            assert verdict.reason in (Reason.UNDECODABLE, Reason.NOT_DICOM, Reason.NO_PIXELS)
            assert cut > 60 or verdict.detail == "the file ends within its pixel data"
        else:
            assert cut <= len(DELIMITER)
            np.testing.assert_array_equal(found, frames)


def test_where_a_fragment_may_be_missing_too_the_delimiter_is_said_to_be(
    tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    dataset = make_dataset(WORDS)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([b"one frame in pieces" * 3], fragments_per_frame=3)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-8])

    with pytest.raises(Unusable, match="delimiter after its pixel data is missing"):
        read(tmp_path / "a")


@given(
    name=st.sampled_from(["MONOCHROME2", "RGB", "PALETTE COLOR"]),
    before=st.sampled_from(["", " ", "  "]),
    after=st.sampled_from(["", " ", "\\"]),
    case=st.sampled_from([str.upper, str.lower, str.title]),
)
def test_codes_are_read_whatever_their_case_and_blanks(
    tmp_path_factory: pytest.TempPathFactory,
    write_dicom: WriteDicom,
    *,
    name: str,
    before: str,
    after: str,
    case: Callable[[str], str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "case"
    odd = {"Modality": "CR", "BurnedInAnnotation": "YES"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dicom(
            path,
            **{each: before + case(code) + after for each, code in odd.items()},
            PhotometricInterpretation=before + case(name) + after.strip("\\"),
            ImageType=[before + case(code) + after.strip("\\") for code in ("DERIVED", "PRIMARY")],
        )

    reading = read(path)

    assert reading.dataset.PhotometricInterpretation == name
    assert reading.header.modality == "CR"
    assert reading.header.burned_in
    assert reading.header.image_type == ("DERIVED", "PRIMARY")


@pytest.mark.parametrize(
    ("vr", "value", "says"),
    [(b"FD", b"DERIVED\\PRIM", "ImageType cannot"), (b"ZZ", b"DERIVED\\", "ImageType cannot")],
)
def test_a_value_that_cannot_be_read_is_not_taken_as_absent(
    tmp_path: Path, write_dicom: WriteDicom, vr: bytes, value: bytes, says: str
) -> None:
    """An image might be derived, or have a name burned in."""
    path = write_dicom(tmp_path / "a", ImageType=value.decode())
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x08\0CS", b"\x08\0\x08\0" + vr, 1))

    with pytest.raises(Unusable, match=says) as verdict:
        read(path)
    assert verdict.value.reason is Reason.UNDECODABLE
