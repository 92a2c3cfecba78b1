"""A MedMNIST file becomes the DICOM archives of several hospitals.

MedMNIST v2 (Yang et al. 2023, doi:10.1038/s41597-022-01721-8): one ``.npz`` with images and
labels of an official train, validation and test split. Train and validation are pooled and
divided among the hospitals; test is held out. The file has no patient ids, so each
image, or each volume with some of its slices, counts as one patient. Grey values are stored as
they are, without a window: a reader gets ``value / 255``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.data.labels import Key
from common.errors import DataError, of_system
from common.files import sha256, sha256_file
from common.process.progress import Progress, silent
from simulations.archives.manifest import FACTS, TEST
from simulations.hospitals.array_writer import write_array_hospitals
from simulations.hospitals.dicom_writer import Equipment, byte_dataset, to_bytes
from simulations.hospitals.layout import (
    File,
    fresh,
    write_archive,
    write_manifest,
    write_site,
)
from simulations.hospitals.scanners import site_names
from simulations.hospitals.visit import Visit
from simulations.partitions.dirichlet import Dirichlet
from simulations.partitions.divided import divide
from simulations.partitions.partition import Partitioning

# No test share: the official test split is held out from all hospitals.
MOST_CLASSES: Final = 100
"""What a column of labels has at most; of more, it holds something else."""
SPLIT: Final = (0.9, 0.1, 0.0)
KEY: Final[Key] = "SOPInstanceUID"
FACT: Final = "each image is one patient: the file has no patient ids"
SLICES: Final = 4
"""Of a volume, from its first to its last at equal distances."""
PARTS: Final = ("train", "val", "test")

_PATHS: Final = "{instance}.dcm"
_PIXELS: Final = "explicit"
_SLUG: Final = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
_MODALITY: Final = re.compile(r"^[A-Z]{2,8}$")


@dataclass(frozen=True)
class MedMnistKind:
    """What is known of a MedMNIST file: DICOM modality, body part, classes in label order."""

    modality: str
    body_part: str
    classes: tuple[str, ...] = ()


KNOWN: Final = {
    "pneumoniamnist": MedMnistKind("DX", "CHEST", ("normal", "pneumonia")),
    # Its label 1 is "normal, benign" in MedMNIST's own list.
    "breastmnist": MedMnistKind("US", "BREAST", ("malignant", "normal")),
    "octmnist": MedMnistKind("OPT", "EYE"),
    "retinamnist": MedMnistKind("OP", "EYE"),
    "dermamnist": MedMnistKind("XC", "SKIN"),
    "pathmnist": MedMnistKind("SM", "COLON"),
    "bloodmnist": MedMnistKind("SM", "BLOOD"),
    "tissuemnist": MedMnistKind("SM", "KIDNEY"),
    "organamnist": MedMnistKind("CT", "ABDOMEN"),
    "organcmnist": MedMnistKind("CT", "ABDOMEN"),
    "organsmnist": MedMnistKind("CT", "ABDOMEN"),
    "chestmnist": MedMnistKind("DX", "CHEST"),
    "organmnist3d": MedMnistKind("CT", "ABDOMEN"),
    "nodulemnist3d": MedMnistKind("CT", "CHEST", ("benign", "malignant")),
    "adrenalmnist3d": MedMnistKind("CT", "ABDOMEN", ("normal", "hyperplasia")),
    "fracturemnist3d": MedMnistKind("CT", "CHEST"),
    "vesselmnist3d": MedMnistKind("MR", "HEAD", ("vessel", "aneurysm")),
}
_UNKNOWN: Final = MedMnistKind("OT", "UNKNOWN")


@dataclass(frozen=True, eq=False)
class Source:
    """A MedMNIST file that has been read.

    Attributes:
        path: of the file.
        dataset: name that studies use.
        kind: modality, body part and classes.
        images: by part, uint8 ``(n, rows, columns)`` or ``(n, rows, columns, 3)``.
        labels: by part, int64 ``(n,)``, indices into the classes.
        patients: by part, int64 ``(n,)``, where an image is not a patient by itself.
        institutions: of the images to divide, where the source names them.
        origin: one of :data:`simulations.archives.manifest.FACTS`.
    """

    path: Path
    dataset: str
    kind: MedMnistKind
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    patients: dict[str, NDArray[np.int64]] | None = None
    institutions: NDArray[np.str_] | None = None
    origin: str = "npz"

    @property
    def sha256(self) -> str:
        """Of the file; of all images, where there is a folder of them."""
        if self.path.is_file() and self.origin == "npz":
            return sha256_file(self.path)
        return sha256(b"".join(images.tobytes() for _, images in sorted(self.images.items())))


def read_source(
    path: Path,
    *,
    dataset: str | None = None,
    classes: Sequence[str] | None = None,
    modality: str | None = None,
    slices: int | None = None,
    label: int | None = None,
) -> Source:
    """Read a MedMNIST file and hold that it can be divided.

    Args:
        path: the ``.npz`` file.
        dataset: name that studies use; None takes it from the file's name.
        classes: names of labels 0, 1, …; None takes what is known of the file.
        modality: DICOM modality; None takes what is known of the file.
        slices: images of each patient, where the file has volumes; None for :data:`SLICES`.
        label: which of several labels is learned, from 0: present or absent.

    Raises:
        DataError: missing, not such a file, or with other arrays; a name cannot be used.
    """
    wanted = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
    arrays = read_arrays(path, wanted, "a MedMNIST .npz file")
    images = {part: _images(path, arrays, part) for part in PARTS}
    labels = {part: _labels(path, arrays, part, len(images[part]), label) for part in PARTS}
    # The larger versions of a file end in their size, such as _64 or _224.
    stem = re.sub(r"_\d+$", "", path.stem.lower())
    known = KNOWN.get(stem, _UNKNOWN)
    highest = max(int(each.max()) for each in labels.values())
    if label is not None and not classes:
        known = MedMnistKind(known.modality, known.body_part, ("absent", "present"))
    patients = None
    depth = _depth(path, images)
    if depth is None and slices is not None:
        raise DataError(
            "the file has no volumes",
            where="--slices",
            found=f"images of {images['train'].shape[1:]}",
            remedy="leave --slices out",
        )
    if depth is not None:
        slices = min(depth, SLICES) if slices is None else slices
        if not 1 <= slices <= depth:
            raise DataError(
                "a volume has not so many slices",
                where="--slices",
                found=slices,
                wanted=f"1 to {depth}, the slices of a volume",
            )
        taken = np.linspace(0, depth - 1, slices).round().astype(int)
        patients, first = {}, 0
        for part in PARTS:  # numbered on, since hospitals are made of two of the parts
            patients[part] = np.repeat(np.arange(len(labels[part])) + first, slices)
            first += len(labels[part])
        labels = {part: np.repeat(each, slices) for part, each in labels.items()}
        images = {
            part: each[:, taken].reshape(-1, *each.shape[2:]) for part, each in images.items()
        }
    return Source(
        path=path,
        dataset=slug("--dataset", dataset or re.sub(r"[^a-z0-9]+", "-", stem).strip("-")),
        kind=MedMnistKind(
            modality_of("--modality", modality or known.modality),
            known.body_part,
            _classes(tuple(classes or known.classes), highest, given=bool(classes)),
        ),
        images=images,
        labels=labels,
        patients=patients,
    )


def write_divided(
    out: Path,
    source: Source,
    *,
    sites: int,
    alpha: float = 0.5,
    seed: int,
    partition: Partitioning | None = None,
    arrays: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Divide a file's images over hospitals.

    Args:
        out: new or empty, or hospitals made before, which are replaced.
        source: what is divided.
        sites: how many hospitals.
        alpha: concentration of the Dirichlet distribution over labels.
        partition: another way to divide them.
        arrays: whether the hospitals are arrays, and no DICOM files.
        seed: everything follows from it; the same seed gives the same bytes.
        progress: told of every file.

    Returns:
        The manifest.

    Raises:
        DataError: ``out`` cannot be used, or there is no such division; files were asked for where
            patients have several images.
    """
    if not arrays and source.patients is not None:
        raise DataError(
            "volumes are not written as DICOM files",
            where=source.path,
            found="several images of each patient",
            wanted="hospitals as arrays",
            remedy="add --arrays",
        )
    how = partition or Dirichlet(alpha=alpha)
    divided = divide(source, how, sites, seed, site_names)
    about = {
        "kind": source.origin,
        "seed": seed,
        "dataset": source.dataset,
        "classes": list(source.kind.classes),
        "alpha": getattr(how, "alpha", None),
        "partition": {"kind": how.kind, **how.model_dump(mode="json")},
        "redraws": divided.redraws,
        "source": {"file": source.path.name, "sha256": source.sha256},
        "notes": [*([FACTS["arrays"]] if arrays else []), *divided.notes],
        **({"patients": FACT} if source.patients is None else {}),
    }
    if arrays:
        parts, test = divided.parts, divided.test
        return write_array_hospitals(out, parts, test, about, split=SPLIT, progress=progress)
    total = sum(map(len, (*(part.labels for part in divided.parts.values()), divided.test.labels)))
    with fresh(out) as folder, progress("writing DICOM files", total, unit="files") as job:
        per_site = {}
        for name, part in divided.parts.items():
            files = _files(name, source, part.images, part.labels, seed)
            archive = write_archive(folder / name, KEY, files, job)
            per_site[name] = write_site(folder / name, name, archive, source.dataset, SPLIT)
        files = _files(TEST, source, divided.test.images, divided.test.labels, seed)
        archive = write_archive(folder / TEST, KEY, files, job)
        manifest = {
            **about,
            "sites": list(divided.parts),
            "per_site": per_site,
            "test": {"folder": TEST, **archive.facts()},
        }
        write_manifest(folder, manifest)
    return manifest


def _files(
    name: str, source: Source, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
) -> Iterator[File]:
    """The files of an archive: each image a patient."""
    kind = source.kind
    equipment = Equipment("Consilium simulation", "npz", "1", kind.modality, kind.body_part)
    for serial, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
        visit = Visit(name, seed, serial)
        dataset = byte_dataset(visit.describe(name), equipment, _PIXELS, image)
        row = (visit.key(KEY, _PATHS), kind.classes[label])
        yield File(visit.path(_PATHS), to_bytes(dataset), row, visit.patient, shows=row[1:])


def read_arrays(
    path: Path, wanted: Sequence[str], kind: str, *, remedy: str | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file by name; ``kind`` says what file a person should give.

    Args:
        path: of the file.
        wanted: the arrays.
        kind: of the file, in words.
        remedy: what to do where arrays are missing.

    Raises:
        DataError: missing, not such a file, or without one of the arrays.
    """
    try:
        with zipfile.ZipFile(path):
            pass  # numpy would take a single array, or a pickle, for the file as well
        # A pickle would run code from the file.
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in wanted if name not in file.files]
            if not missing:
                return {name: file[name] for name in wanted}
            held = ", ".join(file.files)
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=path, wanted=kind) from error
    except OSError as error:
        raise of_system(error, DataError, "the file cannot be read", where=path) from error
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            "the file cannot be read as .npz",
            where=path,
            wanted=kind,
            remedy="check the path; if it is right, download the file again",
        ) from error
    raise DataError(
        "arrays are missing from the file",
        where=path,
        found=f"without {', '.join(missing)}; it has {held}",
        wanted=f"{', '.join(wanted)}: {kind}",
        remedy=remedy,
    )


def _images(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> NDArray[np.uint8]:
    images = arrays[f"{part}_images"]
    if images.dtype == np.uint8 and images.size and images.ndim in {3, 4}:
        return images
    raise DataError(
        "these images cannot be used",
        where=f"{path}, {part}_images",
        found=f"{images.dtype} {images.shape}",
        wanted="uint8 (images, rows, columns), the same with 3 colours, or volumes "
        "(images, slices, rows, columns)",
    )


def _depth(path: Path, images: Mapping[str, NDArray[np.uint8]]) -> int | None:
    """Slices of a volume; None where there are none."""
    shapes = {each.shape[1:] for each in images.values()}
    if len(shapes) > 1:
        raise DataError(
            "the parts of the file have images of different shapes",
            where=path,
            found=", ".join(sorted(map(str, shapes))),
            wanted="one shape",
        )
    (shape,) = shapes
    if len(shape) == 3 and shape[-1] in {1, 2, 4}:
        raise DataError(
            "these images have a number of colours that no study takes",
            where=path,
            found=f"{shape[-1]} colours: {shape}",
            wanted="(rows, columns), (rows, columns, 3), or a volume (slices, rows, columns)",
            remedy="save grey images without the last axis, and colours without transparency",
        )
    return None if len(shape) == 2 or shape[-1] == 3 else int(shape[0])


def _labels(
    path: Path, arrays: dict[str, NDArray[Any]], part: str, count: int, label: int | None
) -> NDArray[np.int64]:
    labels = arrays[f"{part}_labels"]
    several = labels.shape[1] if labels.ndim == 2 and len(labels) == count else 1
    if label is not None:
        if several < 2:
            raise DataError(
                "the file has no several labels to choose from",
                where="--label",
                found=f"{labels.shape} for {count} images",
                remedy="leave --label out",
            )
        if not 0 <= label < several:
            raise DataError(
                "no such label", where="--label", found=label, wanted=f"0 to {several - 1}"
            )
        labels = labels[:, label]
    single = labels.shape in ((count,), (count, 1)) and np.issubdtype(labels.dtype, np.integer)
    if single and labels.min() >= 0 and labels.max() < MOST_CLASSES:
        return labels.reshape(count).astype(np.int64)
    raise DataError(
        "these labels cannot be used",
        where=f"{path}, {part}_labels",
        found=f"{labels.dtype} {labels.shape} for {count} images",
        wanted=f"one whole number from 0 to {MOST_CLASSES - 1} for each image",
        remedy=f"choose one of the {several} labels: --label 0" if several > 1 else None,
    )


def _classes(names: tuple[str, ...], highest: int, *, given: bool) -> tuple[str, ...]:
    """Names of the labels 0 to ``highest``."""
    if not names:
        return tuple(f"class{number}" for number in range(highest + 1))
    distinct = len(set(names)) == len(names) and all(name.strip() == name != "" for name in names)
    if len(names) == highest + 1 and distinct:
        return names
    raise DataError(
        "the class names do not match the labels",
        where="--classes" if given else "the file's labels",
        found=", ".join(names),
        wanted=f"{highest + 1} different names, for labels 0 to {highest} in this order",
    )


def slug(option: str, name: str) -> str:
    """A name as studies and folders have it; an error names the option."""
    return _checked(option, name, _SLUG, "lower-case letters, digits and hyphens")


def modality_of(option: str, name: str) -> str:
    """A DICOM modality; an error names the option."""
    return _checked(option, name, _MODALITY, "two to eight capitals")


def _checked(option: str, value: str, pattern: re.Pattern[str], wanted: str) -> str:
    if pattern.fullmatch(value):
        return value
    raise DataError("this name cannot be used", where=option, found=value, wanted=wanted)
