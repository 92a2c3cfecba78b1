"""Made-up hospitals with masks, read back with pydicom, nibabel and Pillow alone."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path, PurePath
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset

from client.data.cohort import Split, load_cohort
from client.data.dicom import Reason, Rules
from client.data.masks.sources import MaskFolder
from client.data.pixels import images as decoded
from client.data.pseudonyms import Pseudonyms
from client.data.report import check
from client.sitefile import load_site_file
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.lesions import DATASET, write_lesions
from simulations.hospitals.slices import CLASSES
from simulations.hospitals.synth import Size
from simulations.hospitals.unusable import KINDS
from simulations.hospitals.visit import FIELD

SMALL = Size(patients=13, test_patients=8, pixels=40)
SITES = ("north", "east", "south", "west")
pytestmark = pytest.mark.filterwarnings("ignore:End of file reached")  # the truncated files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("lesions") / "hospitals"
    return out, write_lesions(out, SMALL, seed=3)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def usable(folder: Path, facts: dict[str, Any]) -> dict[PurePath, FileDataset]:
    """The images of the patients whose images can be used, by path: they have the first numbers."""
    found: dict[PurePath, FileDataset] = {}
    for path in sorted((folder / "images").rglob("*")):
        if path.is_file() and path.name != "README.txt":
            image = dcmread(path)
            serial = str(image.get("PatientID", "")).rpartition("-")[2]
            if serial and int(serial) <= facts["patients"]:
                found[path.relative_to(folder / "images")] = image
    return found


def said(folder: Path) -> dict[str, str]:
    """What the site file says of the masks' words."""
    path = folder / "site.toml"
    if not path.exists():
        return {}
    data = tomllib.loads(path.read_text())["data"][DATASET]
    assert data["masks"] == "masks"
    assert "labels" not in data
    return dict(data.get("mask_classes", {}))


def number(word: object, words: dict[str, str]) -> int:
    """Which class is meant, from 1."""
    meant = words.get(str(word), str(word))
    return CLASSES.index(meant) + 1 if meant in CLASSES else int(meant)


def masks(folder: Path, images: dict[PurePath, FileDataset]) -> dict[PurePath, np.ndarray]:
    """Class of each pixel of each image, whatever kind of file says it."""
    words, by_uid = said(folder), {str(each.SOPInstanceUID): p for p, each in images.items()}
    names = {path.with_name(path.name.removesuffix(".dcm")): path for path in images}
    found: dict[PurePath, np.ndarray] = {}
    for path in sorted((folder / "masks").rglob("*")):
        name = path.relative_to(folder / "masks")
        if path.suffix == ".dcm":
            _segments(dcmread(path), words, by_uid, images, found)
        elif path.suffix == ".png" and (image := names.get(name.with_name(name.stem))):
            values = np.asarray(Image.open(path))
            found[image] = _translated(values, words)
        elif path.suffix == ".gz":
            image = names.get(name.with_name(name.name.removesuffix("_seg.nii.gz")))
            if image:
                values = np.asarray(nibabel.load(path).dataobj)[:, :, 0].T  # type: ignore[attr-defined]  # an image
                found[image] = _translated(values, words)
    return found


def _translated(values: np.ndarray, words: dict[str, str]) -> np.ndarray:
    mask = np.zeros(values.shape, np.uint8)
    for value in np.unique(values[values > 0]):
        mask[values == value] = number(value, words)
    return mask


def _segments(
    made: FileDataset,
    words: dict[str, str],
    by_uid: dict[str, PurePath],
    images: dict[PurePath, FileDataset],
    found: dict[PurePath, np.ndarray],
) -> None:
    labels = {each.SegmentNumber: each.SegmentLabel for each in made.SegmentSequence}
    frames = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    for frame, group in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        path = by_uid.get(str(source.ReferencedSOPInstanceUID))
        if path is None:
            continue
        assert images[path].SOPClassUID == source.ReferencedSOPClassUID
        label = labels[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        found.setdefault(path, np.zeros(frame.shape, np.uint8))[frame > 0] = number(label, words)


@pytest.mark.parametrize("name", [*SITES, "test"])
def test_every_image_has_a_mask_that_fits_it_and_no_other_place(
    made: tuple[Path, dict[str, Any]], name: str
) -> None:
    """A lesion is brighter than the liver; less so if the mask is turned or moved by 2 pixels."""
    out, manifest = made
    facts = manifest["test"] if name == "test" else manifest["per_site"][name]
    images = usable(out / name, facts)
    found = masks(out / name, images)
    assert len(images) == facts["images"]
    assert found.keys() == images.keys()

    contrast: dict[str, list[float]] = {}
    for path, mask in found.items():
        picture = next(decoded(images[path]))
        assert picture.shape == mask.shape
        for way, other in ways(mask).items():
            if (mask == 2).sum() >= 12:
                away = picture[other == 2].mean() - picture[mask == 1].mean()
                contrast.setdefault(way, []).append(away)
    means = {way: np.mean(values) for way, values in contrast.items()}
    assert means["as it is"] > 0.08
    assert max(means, key=lambda way: means[way]) == "as it is"


def ways(mask: np.ndarray) -> dict[str, np.ndarray]:
    """A mask as it is, and as a reader who mixes up axes would have it."""
    moved = {f"moved {by}": np.roll(mask, by, (0, 1)) for by in ((2, 0), (-2, 0), (0, 2), (0, -2))}
    turned = {"left is right": mask[:, ::-1], "head down": mask[::-1], "both": mask[::-1, ::-1]}
    across = {"transposed": mask.T} if mask.shape[0] == mask.shape[1] else {}
    return {"as it is": mask, **moved, **turned, **across}


@pytest.mark.parametrize("name", [*SITES, "test"])
def test_some_patients_have_no_lesion_and_the_manifest_counts_the_others(
    made: tuple[Path, dict[str, Any]], name: str
) -> None:
    out, manifest = made
    facts = manifest["test"] if name == "test" else manifest["per_site"][name]
    images = usable(out / name, facts)
    ill = {
        images[path].PatientID
        for path, mask in masks(out / name, images).items()
        if (mask == 2).any()
    }
    everyone = {each.PatientID for each in images.values()}
    assert facts["labels"] == {"lesion": len(ill), "liver": len(everyone)}
    assert facts["patients"] == len(everyone)
    assert 0 < len(ill) < len(everyone)


def test_every_kind_of_mask_is_used_and_two_hospitals_use_words_of_their_own(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, _ = made
    kinds = {}
    for site in SITES:
        files = [path for path in (out / site / "masks").rglob("*") if path.is_file()]
        kinds[site] = {"".join(path.suffixes[-2:]) for path in files}
    assert kinds == {
        "north": {".dcm"},
        "east": {".nii.gz"},
        "south": {".png"},
        "west": {".dcm"},
    }
    types = {
        site: {dcmread(path).SegmentationType for path in (out / site / "masks").rglob("*.dcm")}
        for site in ("north", "west")
    }
    assert types == {"north": {"BINARY"}, "west": {"FRACTIONAL"}}
    assert {site: said(out / site) for site in SITES} == {
        "north": {},
        "east": {},
        "south": {"127": "liver", "255": "lesion"},
        "west": {"Hepar": "liver", "Metastasis": "lesion"},
    }


def test_the_slices_of_a_patient_are_one_series_in_one_frame(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, manifest = made
    images = usable(out / "south", manifest["per_site"]["south"])
    stacks: dict[str, list[FileDataset]] = {}
    for image in images.values():
        stacks.setdefault(image.PatientID, []).append(image)
    assert {len(stack) for stack in stacks.values()} == {1, 2, 3, 4}
    for stack in stacks.values():
        assert len({(each.SeriesInstanceUID, each.FrameOfReferenceUID) for each in stack}) == 1
        heights = [float(each.ImagePositionPatient[2]) for each in stack]
        assert len(set(heights)) == len(stack)
        assert {float(each.PixelSpacing[1]) * each.Columns for each in stack} == {FIELD}


def test_scanners_differ_in_how_they_store_and_all_are_mr(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, manifest = made
    images = [
        each for site in SITES for each in usable(out / site, manifest["per_site"][site]).values()
    ]
    assert {each.Modality for each in images} == {"MR"}
    assert len({each.Manufacturer for each in images}) == 4
    assert len({each.file_meta.TransferSyntaxUID for each in images}) == 5
    assert {each.PhotometricInterpretation for each in images} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({(each.Rows, each.Columns) for each in images}) == 3


def targets(out: Path, name: str) -> MaskFolder:
    """The masks of a hospital or of the test set, as a study finds them."""
    if name == "test":
        found = read_hospitals(out).test_targets("mask")
        assert isinstance(found, MaskFolder)
        return found
    folder = load_site_file(out / name / "site.toml").mask_folder(DATASET, out / name)
    assert folder is not None
    return folder


@pytest.mark.parametrize("name", [*SITES, "test"])
def test_a_study_learns_from_the_same_masks(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """Pixel by pixel, at the images' own size; of the test set's several sizes at the first."""
    out, manifest = made
    facts = manifest["test"] if name == "test" else manifest["per_site"][name]
    found = masks(out / name, usable(out / name, facts)).values()
    rows, columns = next(iter(found)).shape
    cohort = load_cohort(
        out / name / "images",
        targets(out, name),
        pseudonyms=Pseudonyms(b"k" * 32),
        classes=CLASSES,
        modalities=("MR",),
        image_size=(rows, columns),
        channels=1,
        split=Split(0.0, 0.0, 1.0),
        cache=tmp_path,
    )
    assert cohort.masks is not None
    own = {mask.tobytes() for mask in found if mask.shape == (rows, columns)}
    read = {mask.tobytes() for mask in cohort.masks}
    assert len(cohort.masks) == facts["images"]
    assert len(own) > 3
    assert own <= read
    assert name == "test" or own == read


@pytest.mark.parametrize("site", SITES)
def test_a_site_counts_the_same_marks_and_finds_every_kind_of_unusable_file(
    made: tuple[Path, dict[str, Any]], site: str
) -> None:
    out, manifest = made
    facts, folder = manifest["per_site"][site], out / site
    found = check(
        folder / "images",
        None,
        classes=None,
        rules=Rules(("MR",)),
        masks=targets(out, site),
        mask_classes=CLASSES,
    )
    assert (found.patients, found.images) == (facts["patients"], facts["images"])
    assert found.masks is not None
    marks = masks(folder, usable(folder, facts)).values()
    assert found.masks.pixels == {
        name: sum(int((mask == value).sum()) for mask in marks)
        for value, name in enumerate(CLASSES, start=1)
    }
    assert facts["unusable"] == dict.fromkeys(sorted(KINDS), 1)
    reasons = {reason: count for reason, count in found.reasons.items() if count}
    # A DICOM SEG names its images by UID, and of some unusable files there is none to be read.
    reasons.pop(Reason.NO_IMAGE, None)
    assert reasons == {
        Reason.NOT_DICOM: 1,
        Reason.NO_PIXELS: 1,
        Reason.UNDECODABLE: 1,
        Reason.WRONG_MODALITY: 1,
        Reason.DERIVED: 2,
        Reason.BURNED_IN: 1,
        Reason.NO_PATIENT_ID: 1,
        Reason.NO_MASK: 1,
    }


def test_the_manifest_is_what_a_run_reads(made: tuple[Path, dict[str, Any]]) -> None:
    out, manifest = made
    hospitals = read_hospitals(out)
    assert hospitals.test_masks == out / "test" / "masks"
    assert hospitals.sites == tuple(sorted(SITES))
    assert "drawn by a program" in hospitals.facts[0]
    assert manifest["classes"] == list(CLASSES)
    assert manifest["test"]["unusable"] == {}


def test_the_same_seed_gives_the_same_bytes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_lesions(tmp_path / "again", SMALL, seed=3)
    assert tree(tmp_path / "again") == tree(made[0])


def test_another_seed_gives_other_patients(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_lesions(tmp_path / "other", Size(13, 2, 40, sites=1), seed=4)
    north, other = (set(tree(each / "north").values()) for each in (made[0], tmp_path / "other"))
    # The text that lies between the images, and the site file.
    assert len(north & other) == 2


def test_a_site_is_the_same_whatever_other_sites_there_are(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_lesions(tmp_path / "one", Size(13, 2, 40, sites=1), seed=3)
    assert tree(tmp_path / "one" / "north") == tree(made[0] / "north")
