"""A folder of masks, and which image each of them is of.

A DICOM SEG names its images by their SOPInstanceUIDs, and is of the images of its own patient
alone. NIfTI and PNG name their image by the path below the folder: the image's, with ``.png``,
``.nii`` or ``.nii.gz`` in place of its extension or behind it, and perhaps ``_mask`` or ``_seg``
before that.

A mask's verdict follows from that mask alone, and an image's from the image and the masks that
name it: what one patient's mask is, or lacks, is nothing to another.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from client.data.archive import Found, Rejected, Root, Scan, require_folder, walk
from client.data.dicom import Reason, Unusable, contained, content, parse
from client.data.masks.pictures import PNG, is_nifti
from client.data.masks.segmentation import instances, is_segmentation
from client.data.masks.sources import MaskFile, MaskFolder, shown
from client.data.parallel import CRASHED, ordered_map
from client.data.pseudonyms import normal
from common.process.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from client.data.pseudonyms import Pseudonyms

_ENDINGS: Final = (".nii.gz", ".nii", ".png")
_MARKS: Final = ("_mask", "_seg")
_EXTENSION: Final = re.compile(r"\.[A-Za-z]{2,5}")
"""Not the last number of a UID, of which many names are made."""


@dataclass(frozen=True)
class Masks:
    """The masks of a folder, by what they name.

    Attributes:
        folder: where they are.
        root: which folder that was.
        files: all that there are.
        rejected: files that are none.
        by_instance: those of DICOM SEG: by a patient's pseudonym and a SOPInstanceUID. Sensitive.
        by_path: the others, by the path of an image without its extension. Sensitive.
    """

    folder: MaskFolder
    root: Root
    files: tuple[MaskFile, ...] = field(repr=False)
    rejected: tuple[Rejected, ...] = field(repr=False)
    by_instance: Mapping[tuple[str, str], tuple[MaskFile, ...]] = field(repr=False)
    by_path: Mapping[str, tuple[MaskFile, ...]] = field(repr=False)

    def of(self, file: Found, pseudonym: str) -> Found:
        """An image with its one mask.

        Raises:
            Unusable: it has none, or several that differ.
        """
        found = self._about(file, pseudonym)
        if not found:
            raise Unusable(Reason.NO_MASK, "no mask file names it")
        different = {each.sha256: each for each in found}  # of copies any will do
        if len(different) > 1:
            raise Unusable(Reason.TWO_MASKS, f"{len(different)} different mask files name it")
        return replace(file, mask=found[0])

    def unnamed(self, named: Iterable[tuple[Found, str]]) -> list[Rejected]:
        """The masks that are of none of these images."""
        seen = {mask.path for each in named for mask in self._about(*each)}
        return [
            Rejected(each.shown, Reason.NO_IMAGE, "no image that it names is there")
            for each in self.files
            if each.path not in seen
        ]

    def apart(self, images: Path, found: Scan) -> Scan:
        """The images of a folder, without the masks that it holds too."""
        if not _overlap(images, self.folder.path):
            return found
        own = {each.file.resolve() for each in self.files}
        return Scan(
            tuple(each for each in found.found if (images / each.path).resolve() not in own),
            tuple(each for each in found.rejected if (images / each.path).resolve() not in own),
        )

    def _about(self, file: Found, pseudonym: str) -> list[MaskFile]:
        """The masks that name an image."""
        header = file.header
        named = self.by_instance.get((pseudonym, header.instance), ()) if header.instance else ()
        paths = (mask for stem in _stems(file.path) for mask in self.by_path.get(stem, ()))
        return [*named, *paths]


def read_masks(
    folder: MaskFolder,
    images: Path,
    pseudonyms: Pseudonyms,
    *,
    persons: Mapping[str, str],
    workers: int = 1,
    progress: Progress = silent,
) -> Masks:
    """Look for masks in a folder, of which there may be none; no pixel is decoded.

    Args:
        folder: where they are.
        images: the folder of images; what is no mask in a folder of both is not rejected here.
        pseudonyms: under the site's key.
        persons: pseudonyms that are another's person.
        workers: processes to read with.
        progress: told of every file.

    Raises:
        DataError: the folder is missing, cannot be listed, or was replaced while it was read.
    """
    root, mixed = require_folder(folder.path, kind="mask"), _overlap(images, folder.path)
    paths = sorted(walk(folder.path))
    files: list[MaskFile] = []
    rejected: list[Rejected] = []
    by_instance: defaultdict[tuple[str, str], list[MaskFile]] = defaultdict(list)
    by_path: defaultdict[str, list[MaskFile]] = defaultdict(list)
    with progress("reading masks", len(paths), unit="files") as job:
        for verdict in ordered_map(
            partial(examine_mask, folder.path),
            paths,
            here=partial(examine_mask, folder.path, here=True),
            workers=workers,
            crashed=partial(_crashed, folder.path),
        ):
            job.advance()
            if isinstance(verdict, Rejected):
                if not (mixed and verdict.reason is Reason.NOT_MASK):
                    rejected.append(verdict)
                continue
            files.append(verdict)
            if verdict.kind == "seg":
                pseudonym = pseudonyms.of(verdict.patient)
                for instance in verdict.instances:
                    by_instance[persons.get(pseudonym, pseudonym), instance].append(verdict)
            else:
                for stem in _named(verdict.path):
                    by_path[stem].append(verdict)
    require_folder(folder.path, root, kind="mask")
    return Masks(
        folder,
        root,
        tuple(files),
        tuple(rejected),
        {key: tuple(group) for key, group in by_instance.items()},
        {key: tuple(group) for key, group in by_path.items()},
    )


def people(
    files: Iterable[Found], pseudonyms: Pseudonyms, persons: Mapping[str, str]
) -> Iterator[tuple[Found, str]]:
    """Each file with the person whom it is of."""
    for each in files:
        pseudonym = pseudonyms.of(each.header.patient)
        yield each, persons.get(pseudonym, pseudonym)


def examine_mask(folder: Path, path: str, *, here: bool = False) -> MaskFile | Rejected:
    """One file: a mask, or rejected with a reason.

    Args:
        folder: that its path is relative to.
        path: of the file.
        here: the file is opened in this process, which must not be harmed.

    Raises:
        Elsewhere: ``here``, and the file is not known to be harmless.
    """
    file = folder / path
    if path.endswith("/"):
        return Rejected(shown(file, path), Reason.UNLISTED, "the masks in this folder are missing")
    try:
        with contained("reading it", Reason.BAD_MASK, here=here):
            return _mask(file, path, content(file, here=here), here=here)
    except Unusable as verdict:
        wrong = verdict.reason in (Reason.NOT_DICOM, Reason.NO_PIXELS)
        reason = Reason.NOT_MASK if wrong else verdict.reason
        return Rejected(shown(file, path), reason, verdict.detail)


def _mask(file: Path, path: str, data: bytes, *, here: bool) -> MaskFile:
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(PNG):
        return MaskFile(file, path, sha256, "png")
    if is_nifti(data):
        return MaskFile(file, path, sha256, "nifti")
    reading = parse(data, here=here)
    if not is_segmentation(reading.dataset):
        raise Unusable(Reason.NOT_MASK, "neither DICOM SEG nor NIfTI nor PNG")
    if not reading.header.patient:
        raise Unusable(Reason.NO_PATIENT_ID, "PatientID (0010,0020) is empty or missing")
    return MaskFile(file, path, sha256, "seg", reading.header.patient, instances(reading.dataset))


def _crashed(folder: Path, path: str) -> Rejected:
    return Rejected(shown(folder / path, path), Reason.BAD_MASK, CRASHED)


def _named(path: str) -> set[str]:
    """The paths, without extension, of the images that a mask at a path may be of."""
    bare = next((path[: -len(end)] for end in _ENDINGS if path.lower().endswith(end)), path)
    ends = [bare[: -len(end)] for end in _MARKS if bare.lower().endswith(end)]
    return {normal(each) for each in (bare, *ends)}


def _stems(path: str) -> set[str]:
    """What masks may call an image at a path: its path, with and without extension."""
    suffix = PurePosixPath(path).suffix
    bare = path.removesuffix(suffix) if _EXTENSION.fullmatch(suffix) else path
    return {normal(path), normal(bare)}


def _overlap(images: Path, masks: Path) -> bool:
    """Whether one of the folders is the other, or is in it."""
    one, other = images.resolve(), masks.resolve()
    return one == other or one in other.parents or other in one.parents
