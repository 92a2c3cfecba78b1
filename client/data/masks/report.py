"""What the masks of a folder mark, in numbers that a person can compare with the images.

They stay at the site.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from client.data.archive import Rejected
from client.data.dicom import Reason, Unusable, read, translated
from client.data.masks.decode import classes_of, layers
from client.data.masks.sources import BACKGROUND, MaskRules, Meaning
from client.data.parallel import CRASHED, Elsewhere, ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from client.data.archive import Found
    from client.data.selection import LabelledFile
    from common.process.progress import Progress


@dataclass(frozen=True)
class MaskReport:
    """The masks of usable images. Counts only, but for ``rejected``, whose paths are sensitive.

    Attributes:
        files: that hold masks.
        images: that have a mask.
        empty: of these, those on which nothing is marked.
        patients: who have such an image.
        marked: by class, on how many images it is marked.
        pixels: by class, how many pixels are marked on all images together.
        total: pixels of all images together.
        rejected: images without a usable mask, and files that are no mask of an image.
    """

    files: int
    images: int
    empty: int
    patients: int
    marked: dict[str, int]
    pixels: dict[str, int]
    total: int
    rejected: tuple[Rejected, ...] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "files": self.files,
            "images": self.images,
            "empty": self.empty,
            "patients": self.patients,
            "marked_images": self.marked,
            "marked_pixels": self.pixels,
            "pixels": self.total,
        }

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        nothing = f"; {self.empty} of these masks mark nothing" if self.empty else ""
        yield f"{self.files} files, for {self.images} images of {self.patients} patients{nothing}"
        for name, images in self.marked.items():
            share = self.pixels[name] / max(1, self.total)
            yield f"{name}: on {images} images, {share:.2%} of the pixels of all"


@dataclass
class Marks:
    """What is marked on the images of one file."""

    images: int = 0
    empty: int = 0
    total: int = 0
    marked: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)

    def add(self, other: Marks) -> None:
        """Count those of another file, too."""
        self.images += other.images
        self.empty += other.empty
        self.total += other.total
        self.marked.update(other.marked)
        self.pixels.update(other.pixels)


def count_marks(
    folder: Path,
    chosen: Sequence[LabelledFile],
    rules: MaskRules,
    *,
    files: int,
    rejected: Iterable[Rejected],
    workers: int,
    progress: Progress,
) -> MaskReport:
    """Decode every mask.

    Args:
        folder: of the images.
        chosen: images that have a mask.
        rules: what masks mean; without classes, every layer counts by its own name.
        files: how many there are that hold masks.
        rejected: images and masks that are not used, as far as was seen before.
        workers: processes to decode with.
        progress: told of every image.
    """
    all_marks, patients, spoilt = Marks(), set[str](), list[Rejected]()
    with progress("decoding masks", len(chosen), unit="files") as job:
        decoded = ordered_map(
            partial(marks_of, folder, rules),
            [each.file for each in chosen],
            here=_elsewhere,
            workers=workers,
            crashed=_crashed,
        )
        for each, found in zip(chosen, decoded, strict=True):
            job.advance()
            if isinstance(found, Rejected):
                spoilt.append(found)
            else:
                all_marks.add(found)
                patients.add(each.pseudonym)
    names = rules.classes or sorted(all_marks.marked)
    return MaskReport(
        files=files,
        images=all_marks.images,
        empty=all_marks.empty,
        patients=len(patients),
        marked={name: all_marks.marked[name] for name in names},
        pixels={name: all_marks.pixels[name] for name in names},
        total=all_marks.total,
        rejected=tuple(sorted([*rejected, *spoilt], key=lambda each: each.path)),
    )


def marks_of(folder: Path, rules: MaskRules, file: Found) -> Marks | Rejected:
    """What is marked on the images of one file, or why its mask cannot be used."""
    assert file.mask is not None
    try:
        with translated("reading it", Reason.BAD_MASK):
            return _marks(folder, rules, file)
    except Unusable as verdict:
        return Rejected(file.path, verdict.reason, verdict.detail, file.mask.shown)


def _marks(folder: Path, rules: MaskRules, file: Found) -> Marks:
    assert file.mask is not None
    image, found = read(folder / file.path), Marks()
    shape = (file.header.rows, file.header.columns)
    for frame in range(file.header.frames):
        seen = layers(file.mask, image, frame, shape)
        if rules.classes:
            mask = classes_of(seen, rules, shape)
            counts = {name: int((mask == k).sum()) for k, name in enumerate(rules.classes, 1)}
        else:
            named = ((_name(rules, each), int(marks.sum())) for each, marks in seen if marks.any())
            counts = {name: count for name, count in named if name != BACKGROUND}
        counts = {name: count for name, count in counts.items() if count}
        found.add(
            Marks(1, not counts, int(np.prod(shape)), Counter(counts.keys()), Counter(counts))
        )
    return found


def _name(rules: MaskRules, meaning: Meaning) -> str:
    name = rules.name(meaning)
    if name is None and rules.explains:
        raise Unusable(Reason.MASK_CLASS, f"value {meaning} is not among those of mask_classes")
    return name or f"value {meaning}"


def _elsewhere(file: Found) -> Marks | Rejected:
    raise Elsewhere


def _crashed(file: Found) -> Rejected:
    return Rejected(file.path, Reason.BAD_MASK, CRASHED, file.mask.shown if file.mask else "")
