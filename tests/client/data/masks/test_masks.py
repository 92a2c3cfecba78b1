"""A segmentation study's cohort, from real mask files of three kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import RLELossless, generate_uid

from client.data.cohort import Cohort, Split, load_cohort
from client.data.dicom import Reason
from client.data.display.placement import Placement
from client.data.labels import LabelFile
from client.data.masks.sources import MaskFolder
from client.data.pseudonyms import Pseudonyms
from common.errors import DataError
from tests.client.data.masks.mask_files import AXIAL, segmentation, write_nifti, write_png

WriteDicom = Callable[..., Path]
Marks = NDArray[np.uint8]

PSEUDONYMS = Pseudonyms(bytes(range(32)))
CLASSES = ("lesion", "organ")
SIZE = (8, 10)
PIXELS = np.arange(80, dtype=np.uint8).reshape(SIZE) * 3
LESION = np.zeros(SIZE, np.uint8)
LESION[1:4, 2:7] = 1
ORGAN = np.zeros(SIZE, np.uint8)
ORGAN[3:6, 5:9] = 1
BOTH = np.where(ORGAN, 2, LESION).astype(np.uint8)
"""Where they overlap, the organ counts: it is the later class."""


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """One image of P1 and one of P2."""
    for name, patient in (("a", "P1"), ("b", "P2")):
        write_dicom(tmp_path / "images" / f"{name}.dcm", PIXELS, PatientID=patient)
    (tmp_path / "masks").mkdir()
    return tmp_path


def cohort_of(
    folder: Path,
    meanings: dict[str, str] | None = None,
    *,
    masks: str = "masks",
    **changes: object,
) -> Cohort:
    settings: dict[str, Any] = {
        "pseudonyms": PSEUDONYMS,
        "classes": CLASSES,
        "modalities": ("CR",),
        "image_size": SIZE,
        "channels": 1,
        "split": Split(1.0, 0.0, 0.0),
        "cache": folder / "cache",
    }
    return load_cohort(
        folder / "images", MaskFolder(folder / masks, meanings or {}), **(settings | changes)
    )


def mask_of(cohort: Cohort, patient: str = "P1") -> Marks:
    """The mask of a patient's only image."""
    (found,) = (each for each in cohort.patients if each.pseudonym == PSEUDONYMS.of(patient))
    assert cohort.masks is not None
    assert len(cohort.masks) == len(cohort.images)
    (row,) = found.images
    return np.asarray(cohort.masks[row])


def verdicts(cohort: Cohort) -> dict[str, Reason]:
    return {each.path: each.reason for each in cohort.rejected}


def seg(folder: Path, name: str = "a", *, called: str = "", **changes: object) -> Path:
    """A SEG file of lesion and organ on one image."""
    settings: dict[str, Any] = {
        "marks": np.stack([LESION, ORGAN], axis=-1)[None],
        "labels": CLASSES,
    } | changes
    path = folder / "masks" / (called or f"seg of {name}")
    segmentation([folder / "images" / f"{name}.dcm"], **settings).save_as(path)
    return path


def binary(to: Path) -> None:
    seg(to.parent, "binary")


def fractional(to: Path) -> None:
    marks = np.stack([LESION * 0.5, ORGAN * 1.0], axis=-1)[None]
    marks[0, 7, :, 0] = 0.49
    seg(to.parent, "fractional", marks=marks, kind="FRACTIONAL")


def labelmap(to: Path) -> None:
    seg(to.parent, "labelmap", marks=BOTH[None], kind="LABELMAP")


def packed(to: Path) -> None:
    marks = np.stack([LESION, ORGAN], -1)[None].astype(float)
    path = seg(to.parent, "packed", marks=marks, kind="FRACTIONAL")
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)


def grey(to: Path) -> None:
    write_png(to / "grey.png", BOTH)


def deep(to: Path) -> None:
    write_png(to / "deep_mask.png", BOTH.astype(np.uint16))


def palette(to: Path) -> None:
    write_png(to / "palette.dcm.png", BOTH, "P")


def nifti(to: Path) -> None:
    write_nifti(to / "nifti_seg.nii", BOTH.T[:, :, None])


def gzipped(to: Path) -> None:
    write_nifti(to / "gzipped.nii.gz", BOTH.T[:, :, None].astype(np.float32))


KINDS = [binary, fractional, labelmap, packed, grey, deep, palette, nifti, gzipped]


def write_images(folder: Path, write_dicom: WriteDicom, names: Iterable[str]) -> None:
    """An image of a patient of each name."""
    for number, name in enumerate(names):
        path = folder / "images" / f"{name}.dcm"
        write_dicom(path, PIXELS + np.uint8(number), PatientID=name)
    (folder / "masks").mkdir(exist_ok=True)


def test_a_mask_of_every_kind_is_the_same_mask(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """And the image without one is left out by name."""
    write_images(tmp_path, write_dicom, ["none", *(each.__name__ for each in KINDS)])
    for write in KINDS:
        write(tmp_path / "masks")

    cohort = cohort_of(tmp_path)

    assert verdicts(cohort) == {"none.dcm": Reason.NO_MASK}
    for write in KINDS:
        np.testing.assert_array_equal(mask_of(cohort, write.__name__), BOTH, write.__name__)
    assert {each.label for each in cohort.patients} == {0}


def test_a_segmentation_of_a_series_marks_each_image_and_frames_left_out_are_empty(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    images, place = tmp_path / "images", generate_uid()
    for number, name in enumerate("ac"):
        write_dicom(
            images / f"{name}.dcm",
            PIXELS + np.uint8(number),
            PatientID="P1",
            FrameOfReferenceUID=place,
            ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=AXIAL,
            PixelSpacing=[1, 1],
            SliceThickness=1,
        )
    (tmp_path / "masks").mkdir()
    marks = np.zeros((2, *SIZE, 1), np.uint8)
    marks[1, ..., 0] = LESION
    made = segmentation([images / "a.dcm", images / "c.dcm"], marks, ("lesion",))
    made.save_as(tmp_path / "masks" / "x")
    assert made.NumberOfFrames == 1

    cohort = cohort_of(tmp_path)

    assert cohort.rejected == ()
    assert cohort.masks is not None
    first = int(cohort.images[1, 0, 0, 0] == 0)
    assert not cohort.masks[first].any()
    np.testing.assert_array_equal(cohort.masks[1 - first], LESION)

    # A frame that does not say which image it marks: else both would be taken for empty.
    del made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    made.save_as(tmp_path / "masks" / "x")
    unsaid = cohort_of(tmp_path)
    assert unsaid.patients == ()
    assert set(verdicts(unsaid).values()) == {Reason.NO_MASK, Reason.BAD_MASK}


NO_MARKS = np.zeros(SIZE, np.uint8)
WRONG: dict[str, tuple[Callable[[Path], object], Reason]] = {
    "larger": (lambda to: write_png(to / "larger.png", NO_MARKS[:, 1:]), Reason.MASK_SIZE),
    "volume": (lambda to: write_nifti(to / "volume.nii", np.zeros((10, 8, 3))), Reason.MASK_SIZE),
    "value": (lambda to: write_png(to / "value.png", BOTH * 2), Reason.MASK_CLASS),
    "label": (lambda to: seg(to.parent, "label", labels=("lesion", "Doe")), Reason.MASK_CLASS),
    "part": (lambda to: write_nifti(to / "part.nii", np.full((10, 8, 1), 0.5)), Reason.BAD_MASK),
    "rgb": (lambda to: write_png(to / "rgb.png", np.zeros((*SIZE, 3), "u1")), Reason.BAD_MASK),
    "cut": (lambda to: cut(write_png(to / "cut.png", BOTH)), Reason.BAD_MASK),
    "short": (lambda to: shorter(seg(to.parent, "short")), Reason.BAD_MASK),
    "twice": (
        lambda to: (seg(to.parent, "twice"), write_png(to / "twice.png", BOTH)),
        Reason.TWO_MASKS,
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def shorter(path: Path) -> None:
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[:4]
    dataset.save_as(path)


def test_what_is_wrong_with_a_mask_is_a_verdict_on_its_image(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """By the mask's path too, which a person needs; read from the cache, it is the same."""
    write_images(tmp_path, write_dicom, ["sound", *WRONG])
    write_png(tmp_path / "masks" / "sound.png", LESION)
    for write, _ in WRONG.values():
        write(tmp_path / "masks")

    cohort = cohort_of(tmp_path)

    assert verdicts(cohort) == {f"{name}.dcm": reason for name, (_, reason) in WRONG.items()}
    assert not any("Doe" in each.detail for each in cohort.rejected)
    named = {each.path: each.mask for each in cohort.rejected if each.mask}
    assert named["value.dcm"] == "masks/value.png"
    assert len(named) == len(WRONG) - 1
    np.testing.assert_array_equal(mask_of(cohort, "sound"), LESION)
    assert cohort_of(tmp_path).rejected == cohort.rejected


def test_masks_without_an_image_and_files_that_are_none_are_named(folder: Path) -> None:
    write_png(folder / "masks" / "a.png", BOTH)
    write_png(folder / "masks" / "sub" / "b.png", BOTH)
    (folder / "masks" / "note.txt").write_text("note")
    path = seg(folder, called="nobody")
    dataset = dcmread(path)
    dataset.PatientID = ""
    dataset.save_as(path)

    assert verdicts(cohort_of(folder)) == {
        "b.dcm": Reason.NO_MASK,
        "masks/sub/b.png": Reason.NO_IMAGE,
        "masks/note.txt": Reason.NOT_MASK,
        "masks/nobody": Reason.NO_PATIENT_ID,
    }


def test_masks_may_lie_among_the_images(folder: Path) -> None:
    write_png(folder / "images" / "a.png", BOTH)
    segmentation([folder / "images" / "b.dcm"], LESION[None, ..., None], ("lesion",)).save_as(
        folder / "images" / "s.dcm"
    )

    cohort = cohort_of(folder, masks="images")

    assert cohort.rejected == ()
    np.testing.assert_array_equal(mask_of(cohort, "P2"), LESION)


def test_a_site_says_what_its_values_and_labels_mean(folder: Path) -> None:
    write_png(folder / "masks" / "a.png", LESION * 255 + ORGAN * (1 - LESION) * 9)
    seg(folder, "b", labels=("Tumour", "liver"))

    meanings = {"255": "lesion", "9": "background", "tumour": "Lesion", "liver": "background"}
    cohort = cohort_of(folder, meanings)

    assert cohort.rejected == ()
    for patient in ("P1", "P2"):
        np.testing.assert_array_equal(mask_of(cohort, patient), LESION)
    # A value that is explained nowhere is no class, once any is.
    assert verdicts(cohort_of(folder, {"9": "organ"}))["a.dcm"] == Reason.MASK_CLASS


def test_another_patients_segmentation_of_a_copied_uid_is_not_ones_own(
    folder: Path, write_dicom: WriteDicom
) -> None:
    uid = str(generate_uid())
    write_dicom(folder / "images" / "a.dcm", PIXELS, PatientID="P1", SOPInstanceUID=uid)
    write_dicom(folder / "images" / "b.dcm", PIXELS + 1, PatientID="P2", SOPInstanceUID=uid)
    seg(folder)
    alone = cohort_of(folder)
    seg(folder, "b", marks=LESION[None, ..., None], labels=("lesion",))
    both = cohort_of(folder)

    np.testing.assert_array_equal(mask_of(alone), BOTH)
    np.testing.assert_array_equal(mask_of(both), BOTH)
    np.testing.assert_array_equal(mask_of(both, "P2"), LESION)
    assert [each.digest for each in alone.patients] == [
        each.digest for each in both.patients if each.pseudonym == PSEUDONYMS.of("P1")
    ]


def test_copies_of_an_image_with_different_masks_are_two_masks(folder: Path) -> None:
    """Which of them is read first depends on what they are called."""
    copy = (folder / "images" / "a.dcm").read_bytes()
    (folder / "images" / "c.dcm").write_bytes(copy)
    write_png(folder / "masks" / "a.png", BOTH)
    write_png(folder / "masks" / "c.png", LESION)

    found = verdicts(cohort_of(folder))

    assert found.pop("b.dcm") == Reason.NO_MASK
    assert found == dict.fromkeys(["a.dcm", "c.dcm"], Reason.TWO_MASKS)


def test_no_mess_in_one_patients_masks_changes_another_patients_place(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    def places() -> dict[str, tuple[str, bytes]]:
        cohort = cohort_of(tmp_path)
        own = {PSEUDONYMS.of(name): name for name in ("grey", "binary")}
        return {
            own[each.pseudonym]: (each.digest, mask_of(cohort, own[each.pseudonym]).tobytes())
            for each in cohort.patients
            if each.pseudonym in own
        }

    write_images(tmp_path, write_dicom, ["grey", "binary"])
    for write in (grey, binary):
        write(tmp_path / "masks")
    before = places()
    assert before.keys() == {"grey", "binary"}

    # The newcomer has all that can be wrong, and masks that name the others' images.
    write_images(tmp_path, write_dicom, WRONG)
    for spoil, _ in WRONG.values():
        spoil(tmp_path / "masks")
    for path in (tmp_path / "images").glob("*.dcm"):
        dataset = dcmread(path)
        if dataset.PatientID in WRONG:
            dataset.PatientID = "new"
            dataset.save_as(path)
        else:
            dataset.PatientID = "new"
            dataset.save_as(tmp_path / "copied.dcm")
            made = segmentation([tmp_path / "copied.dcm"], LESION[None, ..., None], ("lesion",))
            made.save_as(tmp_path / "masks" / f"new mask of {path.name}")
    (tmp_path / "masks" / "noise").write_bytes(bytes(range(256)) * 4)

    assert places() == before


def test_another_mask_is_another_record(folder: Path) -> None:
    for name in "ab":
        write_png(folder / "masks" / f"{name}.png", BOTH)
    before = {each.pseudonym: each.digest for each in cohort_of(folder).patients}
    write_png(folder / "masks" / "a.png", LESION)
    cohort = cohort_of(folder)
    after = {each.pseudonym: each.digest for each in cohort.patients}

    first, second = map(PSEUDONYMS.of, ("P1", "P2"))
    assert before[first] != after[first]
    assert before[second] == after[second]
    np.testing.assert_array_equal(mask_of(cohort), LESION)


def test_a_cut_cache_of_masks_is_made_again(folder: Path) -> None:
    write_png(folder / "masks" / "a.png", BOTH)
    expected = cohort_of(folder)
    (data,) = (folder / "cache").glob("*/*.u8")
    data.write_bytes(data.read_bytes()[:-1])

    again = cohort_of(folder)

    np.testing.assert_array_equal(mask_of(again), BOTH)
    assert again.patients == expected.patients


def test_a_folder_of_masks_that_is_away_is_the_sites_failure(folder: Path) -> None:
    with pytest.raises(DataError, match="the mask folder does not exist"):
        cohort_of(folder, masks="away")


def _affine(columns: int, rows: int) -> NDArray[np.float64]:
    """Of a mask whose axes run along an axial image's columns and rows, or against them."""
    return np.diag([-columns, -rows, 1, 1]).astype(float)


def test_a_nifti_is_turned_as_its_affine_says(tmp_path: Path, write_dicom: WriteDicom) -> None:
    ways = [(a, b, swapped) for a in (1, -1) for b in (1, -1) for swapped in (False, True)]
    for number, (columns, rows, swapped) in enumerate(ways):
        write_dicom(
            tmp_path / "images" / f"{number}.dcm",
            PIXELS,
            PatientID=f"{number}",
            ImageOrientationPatient=AXIAL,
        )
        voxels, affine = BOTH[::rows, ::columns].T, _affine(columns, rows)
        if swapped:
            voxels, affine = voxels.T, affine[:, [1, 0, 2, 3]]
        write_nifti(tmp_path / "masks" / f"{number}.nii", voxels[:, :, None], affine)

    cohort = cohort_of(tmp_path)

    assert cohort.rejected == ()
    for number, way in enumerate(ways):
        np.testing.assert_array_equal(mask_of(cohort, f"{number}"), BOTH, f"{way}")


def test_a_nifti_of_another_plane_or_of_none_is_no_mask_of_an_image_with_one(
    folder: Path, write_dicom: WriteDicom
) -> None:
    for name, patient in (("a", "P1"), ("b", "P2")):
        write_dicom(
            folder / "images" / f"{name}.dcm",
            PIXELS,
            PatientID=patient,
            ImageOrientationPatient=AXIAL,
        )
    write_nifti(folder / "masks" / "a.nii", BOTH.T[:, :, None])
    coronal = np.eye(4)[:, [0, 2, 1, 3]]
    write_nifti(folder / "masks" / "b.nii", BOTH.T[:, :, None], coronal)

    assert verdicts(cohort_of(folder)) == dict.fromkeys(["a.dcm", "b.dcm"], Reason.BAD_MASK)


def test_a_segmentation_turned_against_its_image_is_no_mask_of_it(
    folder: Path, write_dicom: WriteDicom
) -> None:
    path = write_dicom(
        folder / "images" / "a.dcm",
        PIXELS,
        PatientID="P1",
        ImageOrientationPatient=AXIAL,
        ImagePositionPatient=[0, 0, 0],
        PixelSpacing=[1, 1],
        SliceThickness=1,
        FrameOfReferenceUID=generate_uid(),
    )
    seg(folder)
    np.testing.assert_array_equal(mask_of(cohort_of(folder)), BOTH)
    dataset = dcmread(path)
    dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    dataset.save_as(path)

    assert verdicts(cohort_of(folder))["a.dcm"] == Reason.BAD_MASK


def test_a_study_in_millimetres_scales_image_and_mask_and_crops_or_pads_them(
    folder: Path, write_dicom: WriteDicom
) -> None:
    """Two millimetres a row and one a column become one each: sixteen rows, of which eight stay."""
    write_dicom(folder / "images" / "a.dcm", PIXELS, PatientID="P1", PixelSpacing=[2, 1])
    for name in "ab":
        write_png(folder / "masks" / f"{name}.png", BOTH)

    cohort = cohort_of(folder, spacing=(1.0, 1.0), image_size=(8, 12))

    assert verdicts(cohort) == {"b.dcm": Reason.NO_SPACING}
    expected = np.zeros((8, 12), np.uint8)
    expected[:, 1:11] = BOTH.repeat(2, axis=0)[4:12]
    np.testing.assert_array_equal(mask_of(cohort), expected)
    assert (cohort.images[0, 0, :, [0, 11]] == 0).all()
    write_dicom(folder / "images" / "b.dcm", PIXELS, PatientID="P2", ImagerPixelSpacing=[2, 1])
    again = cohort_of(folder, spacing=(1.0, 1.0), image_size=(8, 12))
    np.testing.assert_array_equal(mask_of(again, "P2"), expected)


sides = st.integers(24, 90)
millimetres = st.floats(0.5, 2)


@given(
    shape=st.tuples(sides, sides),
    size=st.tuples(sides, sides),
    pixel=st.tuples(millimetres, millimetres),
    spacing=st.tuples(millimetres, millimetres) | st.none(),
)
def test_a_disc_and_its_mask_stay_aligned(
    shape: tuple[int, int],
    size: tuple[int, int],
    pixel: tuple[float, float],
    spacing: tuple[float, float] | None,
) -> None:
    """Beyond a pixel from the border they agree, and so do their middles.

    To three quarters of a pixel: of the one that was, where it became many.
    """
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middle = shape[0] * 0.55, shape[1] * 0.45
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (min(shape) * 0.25) ** 2
    place, scale = Placement.fitting(shape, size), min(np.divide(size, shape))
    if spacing is not None:
        place = Placement.spaced(shape, size, pixel, spacing)
        scale = max(np.divide(pixel, spacing))

    image = place.image(disc[None].astype(np.float32))[0]
    mask = place.mask(disc.astype(np.uint8))

    assert mask[image > 0.99].all()
    assert not mask[image < 0.01].any()
    # A mask of a few rows or columns has no such middle.
    large = min(mask.any(axis=0).sum(), mask.any(axis=1).sum()) >= 4
    if large and not any(side.any() for side in (mask[[0, -1]], mask[:, [0, -1]])):
        grid = np.mgrid[: size[0], : size[1]]
        own, other = ((grid * each).sum((1, 2)) / each.sum() for each in (image, mask))
        assert np.abs(own - other).max() < 0.75 * max(1.0, scale)


def test_numbers_are_labels_of_a_study_that_predicts_one(folder: Path) -> None:
    labels = folder / "labels.csv"
    labels.write_text('PatientID,label\nP1,63.5\nP2,"1,000"\n')
    cohort = load_cohort(
        folder / "images",
        LabelFile(labels, "PatientID", "PatientID", "label"),
        pseudonyms=PSEUDONYMS,
        classes=(),
        modalities=("CR",),
        image_size=SIZE,
        channels=1,
        split=Split(1.0, 0.0, 0.0),
        cache=folder / "cache",
    )

    assert [each.label for each in cohort.patients] == [63.5]
    assert cohort.masks is None
    assert verdicts(cohort) == {"b.dcm": Reason.NO_CLASS}


@pytest.mark.parametrize("size", [(7, 9), (5, 7), (3, 5), (9, 11)])
def test_frames_of_bits_that_begin_inside_a_byte_are_read(
    tmp_path: Path, write_dicom: WriteDicom, size: tuple[int, int]
) -> None:
    """As many segments as reach every place of a byte: frames follow without a gap."""
    draw = np.random.default_rng(0)
    rows, columns = size
    pixels = draw.integers(0, 255, size).astype(np.uint8)
    write_dicom(tmp_path / "images" / "a.dcm", pixels, PatientID="P1")
    (tmp_path / "masks").mkdir()
    classes = tuple(f"class {number}" for number in range(9))
    marks = np.eye(10, dtype=np.uint8)[draw.integers(0, 10, size)][..., 1:]
    seg(tmp_path, marks=marks[None], labels=classes)

    found = cohort_of(tmp_path, classes=classes, image_size=size)

    assert not found.rejected
    assert (mask_of(found) == (marks * np.arange(1, 10)).sum(axis=-1)).all()
    assert rows * columns % 8
