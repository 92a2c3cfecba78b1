"""Small archives of DICOM files, and what one patient's part of one can be made to look like.

A :class:`Part` is what stands in an archive because of some patients: their files, and the rows
of the label file that name one of them. The mess of one patient is written by functions that
each add to that patient's part, knowing the others', as an adversary would.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGLSLossless

from client.data.labels import Key
from tests.client.data.masks.mask_files import segmentation

CLASSES: Final = ("normal", "pneumonia")
NEWCOMER: Final = "X"
"""The one patient of whom two archives differ."""
ALIAS: Final = "X'"
"""The same person's other identifier."""


@dataclass
class Part:
    """What some patients bring into an archive.

    Attributes:
        key: what a row of the label file is about.
        files: content by path; None is a pipe, a path a link to that path.
        rows: lines of the label file, each with a place among all lines.
        joined: lines of the list of persons.
        named: what a row would hold that names one of the files.
        pixels: the number that a file's pixels follow from, by path.
        masks: content by path; one of each image, and what a mess adds.
    """

    key: Key
    files: dict[str, bytes | Path | None] = field(default_factory=dict)
    rows: list[tuple[float, bytes]] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    named: set[bytes] = field(default_factory=set)
    pixels: dict[str, int] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)

    def add(
        self,
        draws: random.Random,
        patient: str,
        path: str,
        label: str,
        *,
        packed: bool = False,
        pixels: int | None = None,
        **elements: object,
    ) -> None:
        """A file of a patient, with pixels that follow from a number, and the row that names it."""
        number = len(self.files)
        stem = int.from_bytes(patient.encode(), "big")
        elements = {
            "PatientID": patient,
            "StudyInstanceUID": f"1.2.{stem}",
            "SOPInstanceUID": f"1.2.{stem}.{number}",
        } | elements
        self.pixels[path] = draws.randrange(2**32) if pixels is None else pixels
        self.files[path] = image(self.pixels[path], packed, tuple(elements.items()))
        name = f"{({**elements, 'filename': path})[self.key]}".encode()
        self.named.add(name)
        self.masks[f"{path}.png"] = mask(self.pixels[path])
        self.row(draws, name + b"," + label.encode())

    def row(self, draws: random.Random, line: bytes) -> None:
        """A line of the label file."""
        self.rows.append((draws.random(), line))

    def rows_about(self, other: Part) -> list[tuple[float, bytes]]:
        """The rows that name a file of another part: they are that part's too."""
        return [row for row in self.rows if row[1].split(b",")[0] in other.named]

    def masks_about(self, other: Part) -> dict[str, bytes]:
        """The masks that name a file of another part: likewise."""
        return {
            path: content
            for path, content in self.masks.items()
            if path.removesuffix(".png").removesuffix("_seg") in other.files
        }

    def __or__(self, other: Part) -> Part:
        return Part(
            self.key,
            self.files | other.files,
            sorted({*self.rows, *other.rows}),
            [*self.joined, *other.joined],
            self.named | other.named,
            self.pixels | other.pixels,
            self.masks | other.masks,
        )

    def write(self, folder: Path) -> None:
        """The archive of these patients, in a folder that is not there yet."""
        (folder / "images").mkdir(parents=True)
        for path, content in self.files.items():
            place = folder / "images" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                os.mkfifo(place)
            elif isinstance(content, Path):
                place.symlink_to(Path(os.path.relpath(folder / "images" / content, place.parent)))
            else:
                place.write_bytes(content)
        for path, content in self.masks.items():
            place = folder / "masks" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (folder / "masks").mkdir(exist_ok=True)
        lines = [b"%s,label" % self.key.encode(), *(line for _, line in sorted(self.rows))]
        (folder / "labels.csv").write_bytes(b"\n".join(lines))
        (folder / "same-person.csv").write_text("\n".join(self.joined))


@cache
def mask(seed: int, side: int = 16, least: int = 0) -> bytes:
    """A PNG whose values are classes, if the least is 0."""
    values = np.random.default_rng(seed).integers(least, least + 3, (side, side), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(values).save(file, "png")
        return file.getvalue()


@cache
def image(seed: int, packed: bool, elements: tuple[tuple[str, object], ...]) -> bytes:
    """A DICOM file; packed pixels are for another process to open."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.Modality, dataset.ImageType = "CR", ["ORIGINAL", "PRIMARY"]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.PatientID = dataset.SOPInstanceUID = "1.2"
    if packed:
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    for keyword, value in elements:
        setattr(dataset, keyword, value)
    with tempfile.TemporaryFile() as file:
        dataset.save_as(file, enforce_file_format=True)
        file.seek(0)
        return file.read()


def others(draws: random.Random, key: Key) -> Part:
    """A few orderly patients; some of whom have several images, copies, or none of use."""
    part = Part(key)
    for number in range(draws.randint(0, 4)):
        patient, label = f"P{number}", draws.choice(CLASSES)
        for image_number in range(draws.randint(1, 3)):
            name = draws.choice((f"IM{image_number}", f"{patient}/IM{image_number}"))
            packed = draws.random() < 0.02
            part.add(draws, patient, f"{number}{name}", label, packed=packed)
        if draws.random() < 0.2:
            part.add(draws, patient, f"{patient}/odd", draws.choice((*CLASSES, "fracture")))
    return part


Mess = Callable[[random.Random, Part, Part], None]
"""Adds to the newcomer's part (the second), knowing the others' (the first)."""


def plain(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    for _ in range(draws.randint(1, 2)):
        own.add(draws, NEWCOMER, f"x/{len(own.files)}", draws.choice(CLASSES))


def two_labels(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    for label in CLASSES:
        own.add(draws, NEWCOMER, f"x/{len(own.files)}", label)


def no_class(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    own.add(draws, NEWCOMER, f"x/{len(own.files)}", draws.choice(("fracture", "", '"', "NORMAL")))


def twice_in_one_row(draws: random.Random, rest: Part, own: Part) -> None:
    """Rows that differ about what the newcomer's rows already name."""
    del rest
    for _, line in own.rows[:1]:
        own.row(draws, line.split(b",")[0] + b"," + draws.choice(CLASSES).encode())


def damaged_rows(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    lines = (
        b'X,"normal',
        b'"X',
        b"X",
        b"X,normal,,y",
        b"X\xe9,normal",
        b",",
        b"\xff\xfe,\0",
        b",normal",
    )
    for line in draws.sample(lines, 3):
        own.row(draws, line)


def spelled_rows(draws: random.Random, rest: Part, own: Part) -> None:
    """Rows as a spreadsheet or an editor may leave them, about the newcomer or nobody."""
    # Images under another's identifier are named by that one's rows too: those are about both.
    for name in sorted(own.named - rest.named)[:1]:
        own.row(draws, b'="%s", Normal' % name)
        own.row(draws, b"\xef\xbb\xbf\xc2\xa0%s,%s" % (name, draws.choice(CLASSES).encode()))
    own.row(
        draws, draws.choice((b"# a comment", b"sep=;", b"#,label", b"C:\\x\\y,normal", b"007.0,1"))
    )


def no_images(draws: random.Random, rest: Part, own: Part) -> None:
    """Files that are no image of use: a note, a header that claims too much, damaged pixels."""
    del rest
    own.files["x/note"] = b"a note"
    own.files["x/empty"] = b""
    own.files["x/pipe"] = None
    own.files["x/nowhere"] = Path("gone")
    faults: tuple[dict[str, Any], ...] = (
        {"Rows": 60000, "Columns": 60000},
        {"NumberOfFrames": 5000},
        {"NumberOfFrames": "9" * 12},
        {"BitsAllocated": 24},
        {"Modality": "MR"},
        {"PatientID": ""},
        {"PhotometricInterpretation": "CMYK"},
    )
    wrong = draws.choice(faults)
    own.add(draws, NEWCOMER, f"x/{len(own.files)}", draws.choice(CLASSES), **wrong)


def cut_short(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    path = f"x/{len(own.files)}"
    own.add(draws, NEWCOMER, path, draws.choice(CLASSES))
    content = own.files[path]
    assert isinstance(content, bytes)
    own.files[path] = content[: draws.randrange(132, len(content))]


def damaged_packed(draws: random.Random, rest: Part, own: Part) -> None:
    """For another process to open, and to fail on."""
    del rest
    path = f"x/{len(own.files)}"
    own.add(draws, NEWCOMER, path, draws.choice(CLASSES), packed=True)
    content = own.files[path]
    assert isinstance(content, bytes)
    damage = draws.choice((b"\0\0\0", b"\xff\xd8\xfe"))
    own.files[path] = content.replace(b"\xff\xd8\xff", damage)


def others_identifiers(draws: random.Random, rest: Part, own: Part) -> None:
    """Images under the identifiers of another's study and images."""
    del rest
    stem = int.from_bytes(b"P0", "big")
    copied: dict[str, Any] = {
        "StudyInstanceUID": f"1.2.{stem}",
        "SOPInstanceUID": f"1.2.{stem}.0",
    }
    own.add(draws, NEWCOMER, f"x/{len(own.files)}", draws.choice(CLASSES), **copied)


def others_names(draws: random.Random, rest: Part, own: Part) -> None:
    """Files that are called like those of others, in another folder or none."""
    for path in draws.sample(sorted(rest.files), min(2, len(rest.files))):
        own.add(draws, NEWCOMER, f"x/{path}", draws.choice(CLASSES))
        own.add(draws, NEWCOMER, f"0x/{Path(path).name}", draws.choice(CLASSES))


def others_pixels(draws: random.Random, rest: Part, own: Part) -> None:
    """The very pixels of others, and links to where theirs lie."""
    for number, path in enumerate(draws.sample(sorted(rest.files), min(2, len(rest.files)))):
        own.add(draws, NEWCOMER, f"x/like{number}", draws.choice(CLASSES), pixels=rest.pixels[path])
        if "/" in path:
            own.files.setdefault("!x", Path(path).parent)


def two_identifiers(draws: random.Random, rest: Part, own: Part) -> None:
    """The same person under another identifier, with the same label or another one."""
    del rest
    own.joined.append(draws.choice((f"{NEWCOMER},{ALIAS}", f"{ALIAS};{NEWCOMER}", f"{NEWCOMER}")))
    own.add(draws, ALIAS, f"x/{len(own.files)}", draws.choice(CLASSES))


def no_mask(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    own.masks.pop(draws.choice(sorted(own.masks)), None)


def strange_mask(draws: random.Random, rest: Part, own: Part) -> None:
    """Of another size, with values that are no class, cut short, or nothing of the kind."""
    del rest
    path = draws.choice(sorted(own.masks))
    own.masks[path] = draws.choice(
        (mask(1, 15), mask(1, least=200), own.masks[path][:50], b"", b"a note", mask(1, 1))
    )


def two_masks(draws: random.Random, rest: Part, own: Part) -> None:
    del rest
    path = draws.choice(sorted(own.masks))
    own.masks[path.replace(".png", "_seg.png")] = draws.choice((mask(2), own.masks[path]))


def others_masks(draws: random.Random, rest: Part, own: Part) -> None:
    """Masks that name other patients' images, or nearly do; and copies of theirs."""
    for number, path in enumerate(sorted(rest.files)):
        near = f"x/{Path(path).name}.png", f"{path}2.png", f"{path}_seg.png"
        own.masks[near[(number + draws.randrange(2)) % 3]] = mask(number)
        own.masks[f"x/like{number}.png"] = rest.masks[f"{path}.png"]


def others_segmentation(draws: random.Random, rest: Part, own: Part) -> None:
    """A DICOM SEG of the newcomer's that is of another patient's image."""
    named = [path for path, each in rest.files.items() if isinstance(each, bytes)]
    for path in draws.sample(sorted(named), min(1, len(named))):
        content = rest.files[path]
        assert isinstance(content, bytes)
        with tempfile.NamedTemporaryFile() as image_file, io.BytesIO() as file:
            Path(image_file.name).write_bytes(content)
            marks = np.ones((1, 16, 16, 1), np.uint8)
            made = segmentation([Path(image_file.name)], marks, CLASSES[:1])
            made.PatientID = NEWCOMER
            made.save_as(file)
            own.masks["x/seg.dcm"] = file.getvalue()


MASK_MESSES: Final[tuple[Mess, ...]] = (
    no_mask,
    strange_mask,
    two_masks,
    others_masks,
    others_segmentation,
)
"""Where masks are what images show; there rows of the label file are about nobody."""
MESSES: Final[tuple[Mess, ...]] = (
    plain,
    two_labels,
    no_class,
    twice_in_one_row,
    damaged_rows,
    spelled_rows,
    no_images,
    cut_short,
    damaged_packed,
    others_identifiers,
    others_names,
    others_pixels,
    two_identifiers,
)
