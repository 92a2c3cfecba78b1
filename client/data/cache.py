"""Decoded images, kept once in a memory-mapped file.

A cache is a folder. Its name, index and entries are keyed by the site, so they do not tell which
files or patients it holds; only the images do, which are as sensitive as the originals. Only the
owner can read its files::

    <keyed name>/index.json        entries in order: keyed name, first row, rows, SHA-256; or
                                   a reason
    <keyed name>/<token>.f16       float16, little-endian, (rows, channels, height, width)
    <keyed name>/<token>.f16.u8    their masks, where wanted: uint8, (rows, height, width)
    <keyed name>/lock              held while the folder is read or filled
    lock                           shared while any is filled; exclusive while some are deleted

A new data file is written beside the old one, then the index is replaced in one step: a process
killed at any moment leaves the old cache or the new one. An image whose file was deleted leaves
the cache at the next filling.

A study keeps what was decoded for it, or could not be, with the versions of that day
(:attr:`ImageShape.decoders`): an update of a decoder changes no bit that a running study reads.
Later studies have a cache of their own. If a cache is lost, its images are decoded again with the
installed versions, and :attr:`Cached.digests` show which files gave other pixels.
"""

from __future__ import annotations

import fcntl
import json
import math
import secrets
import shutil
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.data.archive import Found, Rejected
from client.data.cache_index import (
    CHANGED,
    CRASHED,
    DTYPE,
    MASKS,
    CachedRows,
    CacheRefused,
    Half,
    Index,
    data_file,
    locked,
    tidy,
)
from client.data.dicom import Reason, Unusable, contained, read
from client.data.display.placement import Placement, Spacing, pixel_spacing
from client.data.masks.decode import classes_of, layers
from client.data.masks.sources import MaskRules
from client.data.parallel import Elsewhere, ordered_map
from client.data.pixels import MOST_FRAMES, images, is_plain, to_channels
from common.errors import DataError
from common.files import sha256, sync_folder
from common.process.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pydicom.dataset import Dataset

    from client.data.pseudonyms import Pseudonyms

_RECIPE: Final = 4
"""Raised whenever this project changes how stored pixels become cached ones."""
_DECODERS: Final = (
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "pillow",
    "numpy",
)
_MASK_DECODERS: Final = ("nibabel",)
_MOST: Final = 2**26
"""Bytes that one file's images may take in the cache: 64 MiB, of which some wait in memory."""


@cache
def decoders(*, masks: bool = False) -> str:
    """What decides, besides a file's content and the shape, what its pixels come to today.

    Args:
        masks: also what masks come to.
    """
    names = (*_DECODERS, *_MASK_DECODERS) if masks else _DECODERS
    return json.dumps([_RECIPE, *(f"{name} {_version(name)}" for name in names)])


@dataclass(frozen=True)
class ImageShape:
    """What every cached image looks like.

    Args:
        size: height and width.
        channels: 1 or 3.
        decoders: what it was first decoded with: :func:`decoders` of that day; left out, today's.
        spacing: of its pixels, in millimetres; None for images that are scaled to fit.
        masks: what the layers of masks are; None for images without masks.
    """

    size: tuple[int, int]
    channels: int
    decoders: str = ""
    spacing: Spacing | None = None
    masks: MaskRules | None = None

    def __post_init__(self) -> None:
        if not self.decoders:
            object.__setattr__(self, "decoders", decoders(masks=self.masks is not None))

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.size)

    @property
    def bytes(self) -> int:
        """Of one image in the cache, with its mask."""
        mask = math.prod(self.size) if self.masks else 0
        return math.prod(self.image) * DTYPE.itemsize + mask

    @property
    def most_frames(self) -> int:
        """Of a file, in the cache."""
        return min(MOST_FRAMES, max(1, _MOST // self.bytes))

    def placement(self, dataset: Dataset, frame: int, size: tuple[int, int]) -> Placement:
        """How a frame of this size comes into the cached image.

        Raises:
            Unusable: it does not say the size of its pixels, or would become far too large.
        """
        if self.spacing is None:
            return Placement.fitting(size, self.size)
        return Placement.spaced(size, self.size, pixel_spacing(dataset, frame), self.spacing)

    @property
    def recipe(self) -> str:
        """Everything besides a file's content that decides its cached images."""
        # Nothing is added where nothing is asked for: a cache that is there keeps its name.
        spacing = [] if self.spacing is None else [{"spacing": self.spacing}]
        masks = [] if self.masks is None else [{"masks": [self.masks.classes, self.masks.meanings]}]
        return json.dumps([self.image, self.decoders, *spacing, *masks])


@dataclass(frozen=True, eq=False)
class Cached:
    """The images of a list of files.

    Attributes:
        images: ``(rows, channels, height, width)`` float16 in [0, 1], read-only, on disk.
            Sensitive.
        rows: for each file of the list, in its order, the rows of its images; or why it
            has none.
        digests: for each, SHA-256 of its images' bytes and its masks'; empty where it has none.
            Sensitive.
        masks: ``(rows, height, width)`` uint8, as ``images``; None where none were asked for.
            Sensitive.
    """

    images: Half = field(repr=False)
    rows: tuple[range | Rejected, ...] = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    masks: NDArray[np.uint8] | None = field(default=None, repr=False)


class Decoded(NamedTuple):
    """The images of one file, and their masks where these are asked for."""

    images: Half
    masks: NDArray[np.uint8] | None = None


def fill(
    cache: Path,
    folder: Path,
    files: Sequence[Found],
    shape: ImageShape,
    *,
    pseudonyms: Pseudonyms,
    workers: int = 1,
    progress: Progress = silent,
    most: int | None = None,
    shared: bool = False,
) -> Cached:
    """The decoded images of ``files``, of which only new and changed ones are decoded.

    Args:
        cache: where caches are kept; made if absent.
        folder: the folder that the files' paths are relative to.
        files: what to decode; its order is the order of the rows.
        shape: of each image.
        pseudonyms: whose key hides which files these are.
        workers: processes to decode with.
        progress: told of every file that is decoded.
        most: bytes that they may take on disk; None for no bound. While a cache is filled, what
            it held before is there too.
        shared: whether runs beside this one may use it in their own way: nothing that is in it
            leaves it, whatever the order. A simulation's alone.

    A file that is not the one that was scanned any more, or that cannot be decoded, has no
    rows; that is no error, and nothing to the others.

    Raises:
        DataError: the cache cannot be written or would be too large, or processes cannot be
            started.
    """
    home = home_of(cache, folder, shape, pseudonyms)
    # By content: two files with the same bytes are decoded into the same rows.
    named: dict[str, list[Found]] = defaultdict(list)
    for each in files:
        named[pseudonyms.of_file(each.content, shape.recipe)].append(each)
    spoilt: dict[str, CacheRefused] = {}
    try:
        # The shared lock keeps others from deleting this cache, the second from filling it too.
        with locked(cache, fcntl.LOCK_SH), locked(home):
            index = Index.load(home, shape.image, masks=shape.masks is not None)
            if shared:
                stale = not named.keys() <= index.entries.keys()
                kept = {name: named.get(name, []) for name in (*index.entries, *named)}
            else:
                stale, kept = list(index.entries) != list(named), named
            if stale:
                _require_disk(_foreseen(named, index, shape), most)
                new = [each for name in named if name not in index.entries for each in named[name]]
                decoded = _decoded(folder, shape, new, workers, progress)
                index, spoilt = _refill(home, index, kept, decoded, shape, most=most)
                if not shared:  # another run may still have to open the older file
                    tidy(home, keep=index.data)
            images = index.open(home, shape.image)
            masks = index.open_masks(home, shape.size) if shape.masks else None
    except OSError as error:
        raise DataError(
            "the cache of decoded images cannot be written",
            where=cache,
            found=error.strerror,
            remedy="free disk space, or give this user write access there; no data was lost",
        ) from error
    entries = {each.path: index.entries[name] for name, group in named.items() for each in group}
    entries |= spoilt
    rows, digests = list[range | Rejected](), list[str]()
    for each in files:
        entry = entries[each.path]
        if isinstance(entry, CachedRows):
            rows.append(range(entry.first, entry.first + entry.number))
            digests.append(entry.digest)
        else:
            mask = each.mask.shown if each.mask else ""
            rows.append(Rejected(each.path, Reason(entry.reason), entry.detail, mask))
            digests.append("")
    return Cached(images, tuple(rows), tuple(digests), masks)


def home_of(cache: Path, folder: Path, shape: ImageShape, pseudonyms: Pseudonyms) -> Path:
    """Where the images of a folder are kept in a shape."""
    return cache / pseudonyms.of_folder(str(folder.resolve()), shape.recipe)


def bytes_of(files: Iterable[Found], shape: ImageShape) -> int:
    """What the images of some files would take on disk, as far as their headers tell."""
    frames = {each.content: each.header.frames for each in files}
    return shape.bytes * sum(min(each, shape.most_frames) for each in frames.values())


def size_of(home: Path) -> int:
    """Bytes that a cache takes on disk; 0 where there is none."""
    try:
        return sum(path.stat().st_size for path in home.iterdir())
    except FileNotFoundError:
        return 0


def delete_others(cache: Path, keep: Collection[Path]) -> None:
    """Delete every cache but some; who has one mapped still reads it.

    While one is filled by whomever nothing is deleted: it is done the next time.
    """
    if not others(cache, keep):
        return
    with suppress(BlockingIOError), locked(cache, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for home in others(cache, keep):
            shutil.rmtree(home)


def others(cache: Path, keep: Collection[Path]) -> list[Path]:
    """Every cache but some."""
    inside = cache.iterdir() if cache.is_dir() else ()
    return [path for path in inside if path.is_dir() and path not in keep]


def _foreseen(named: Mapping[str, Sequence[Found]], index: Index, shape: ImageShape) -> int:
    """Bytes of a cache of these files: what is known is counted, the rest told by headers."""
    new = [group[0] for name, group in named.items() if name not in index.entries]
    known = (index.entries[name] for name in named if name in index.entries)
    rows = sum(entry.number for entry in known if isinstance(entry, CachedRows))
    return rows * shape.bytes + bytes_of(new, shape)


def _require_disk(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise DataError(
            "the decoded images would take too much disk space",
            where="[site] cache_gib",
            found=f"{size / 2**30:.3g} GiB or more for this study",
            wanted=f"at most {max(most, 0) / 2**30:.3g} GiB beside the running studies",
            remedy="increase cache_gib if the disk has room, wait until other studies have ended, "
            "or ask the coordinator for smaller images",
        )


def _refill(
    home: Path,
    old: Index,
    named: Mapping[str, Sequence[Found]],
    decoded: Iterator[Decoded | CacheRefused],
    shape: ImageShape,
    *,
    most: int | None,
) -> tuple[Index, dict[str, CacheRefused]]:
    """Write a data file in the order of ``named``: what is known is copied, the rest decoded.

    Several files may have one content. Each is read for itself, so that what becomes of one
    is nothing to another.

    Returns:
        The new index, and which files could not be decoded, by path.
    """
    known = old.open(home, shape.image)
    known_masks = old.open_masks(home, shape.size) if shape.masks else None
    # A new name each time: a process that has the old file mapped reads on undisturbed.
    token = f"{secrets.token_hex(16)}.f16"
    entries: dict[str, CachedRows | CacheRefused] = {}
    spoilt: dict[str, CacheRefused] = {}
    total = 0
    with ExitStack() as files:
        file = files.enter_context(data_file(home / token))
        masks = files.enter_context(data_file(home / (token + MASKS))) if shape.masks else None
        for name, group in named.items():
            entry = old.entries.get(name)
            if isinstance(entry, CachedRows):
                rows = slice(entry.first, entry.first + entry.number)
                content: Decoded | CacheRefused = Decoded(
                    known[rows], None if known_masks is None else known_masks[rows]
                )
            elif entry is not None:
                content = entry
            else:
                # One copy may be unreadable while another is fine. Each file's verdict is its own.
                contents = list(islice(decoded, len(group)))
                pairs = zip(group, contents, strict=True)
                spoilt |= {
                    each.path: made for each, made in pairs if isinstance(made, CacheRefused)
                }
                content = min(contents, key=lambda made: isinstance(made, CacheRefused))
            if isinstance(content, CacheRefused):
                entries[name] = content
            else:
                pixels = content.images.astype(DTYPE, order="C").tobytes()
                file.write(pixels)
                if masks is not None:
                    assert content.masks is not None
                    marks = content.masks.tobytes()
                    masks.write(marks)
                    pixels += marks
                # A known image keeps its digest: patients' records, and so noise, are keyed to it.
                digest = entry.digest if isinstance(entry, CachedRows) else sha256(pixels)
                entries[name] = CachedRows(total, len(content.images), digest)
                total += len(content.images)
                _require_disk(total * shape.bytes, most)  # a header may say less than there is
    # The data file's name must be durable before an index that names it.
    sync_folder(home)
    index = Index(token, entries)
    index.save(home)
    return index, spoilt


def _decoded(
    folder: Path, shape: ImageShape, files: Sequence[Found], workers: int, progress: Progress
) -> Iterator[Decoded | CacheRefused]:
    if not files:
        return
    with progress("decoding images", len(files), unit="files") as job:
        for result in ordered_map(
            partial(decode, folder, shape),
            files,
            here=partial(decode, folder, shape, here=True),
            workers=workers,
            crashed=lambda _: CRASHED,
        ):
            job.advance()
            yield result


def decode(
    folder: Path, shape: ImageShape, file: Found, *, here: bool = False
) -> Decoded | CacheRefused:
    """The images of one file and their masks; or why not.

    Images are ``(frames, channels, height, width)`` float16, masks ``(frames, height, width)``
    uint8. Both come into the study's size in the same way.

    Args:
        folder: that the file's path is relative to.
        shape: of each image.
        file: as it was scanned.
        here: the file is opened in this process, which must not be harmed.

    Raises:
        Elsewhere: ``here``, and the file is not known to be harmless.
    """
    try:
        with contained("decoding it", here=here):
            reading = read(folder / file.path, here=here)
            # The scan's label and patient belong to the bytes of the scan, not to these.
            if reading.sha256 != file.sha256:
                return CHANGED
            if here and not (is_plain(reading.dataset) and file.mask is None):
                raise Elsewhere
            frames: list[Half] = []
            masks: list[NDArray[np.uint8]] = []
            for number, image in enumerate(images(reading.dataset)):
                if number == shape.most_frames:
                    raise Unusable(Reason.TOO_LARGE, f"more than {shape.most_frames} frames")
                size = (image.shape[0], image.shape[1])
                place = shape.placement(reading.dataset, number, size)
                frames.append(_prepared(image, shape, place))
                if shape.masks is not None and file.mask is not None:
                    marks = layers(file.mask, reading, number, size)
                    masks.append(place.mask(classes_of(marks, shape.masks, size)))
            return Decoded(np.stack(frames), np.stack(masks) if masks else None)
    except Unusable as verdict:
        changed = verdict.reason is Reason.UNREADABLE
        return CHANGED if changed else CacheRefused(verdict.reason.value, verdict.detail)


def _prepared(image: NDArray[np.float32], shape: ImageShape, place: Placement) -> Half:
    return place.image(to_channels(image, shape.channels)).astype(np.float16)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
