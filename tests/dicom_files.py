"""``docs/dicom.md``: what becomes of every DICOM file that pydicom ships, and of others.

A file is used, and then its pictures are those of another reader; or it is rejected, and then for
the reason that ``dicom_files.toml`` expects. The other reader prefers another decoder than the
program, and follows PS3.3, C.11 value by value, as ``tests/client/data/display`` does.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom.data
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID, ImplicitVRLittleEndian

from client.data.dicom import PIXELS, Derived, Reason, Rules, Unusable, quiet, read
from client.data.labels import LabelFile
from client.data.pixels import images
from client.data.report import check
from tests.client.data.display.test_elements import Meant, Table

Picture = NDArray[Any]

SHIPPED: Final = Path(pydicom.data.__file__).parent / "test_files"
VARIED: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom_varied"
EXPECTED: Final = Path(__file__).with_suffix(".toml")
FOLDERS: Final = {"pydicom": SHIPPED, "varied": VARIED}
EXACT: Final = 1e-6
LOSSY: Final = 3 / 255
"""Decoders of lossy JPEG may round otherwise (ISO/IEC 10918-2)."""
_LOSSY: Final = ("JPEG Baseline (Process 1)", "JPEG Extended (Process 2 and 4)")
_DELIMITER: Final = bytes.fromhex("feffdde000000000")
"""Without it at the end of a file's pixels, pydicom drops them."""
_COUNTED: Final = (Reason.NO_PIXELS, Reason.NOT_DICOM)
"""Files that are no image: counted, not listed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        name: its path below its folder.
        kind: its transfer syntax; empty for what is no DICOM file with pixels.
        reason: for which it is rejected; None for a file that is used.
        difference: from the other reader's pictures, beyond what is tolerated; None where
            nothing is decoded.
    """

    name: str
    kind: str
    reason: Reason | None
    difference: float | None

    @property
    def equal(self) -> bool:
        """Whether it is decoded, and is the other reader's picture."""
        return self.difference is not None and self.difference <= 0


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Every file, as ``consilium-site check --derived accept`` judges it.

    Of several files with one SOPInstanceUID a study uses one; here each counts.
    """
    paths = sorted(each for each in folder.rglob("*") if each.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    with tempfile.TemporaryDirectory() as place:
        labels = Path(place) / "labels.csv"
        labels.write_text("filename,label\n" + "".join(f"{name},any\n" for name in names))
        report = check(
            folder,
            LabelFile(labels, "filename", "filename", "label"),
            classes=None,
            rules=Rules((), Derived.ACCEPT),
        )
    rejected = {each.path: each.reason for each in report.rejected}
    for path, name in zip(paths, names, strict=True):
        reason = rejected.get(name)
        yield outcome(path, name, None if reason is Reason.DUPLICATE else reason)


def outcome(path: Path, name: str, reason: Reason | None) -> Outcome:
    """What became of a file that was rejected for a reason, or for none."""
    if reason in _COUNTED:
        return Outcome(name, "", reason, None)
    with quiet():
        syntax = dcmread(path, force=True, stop_before_pixels=True).file_meta.get(
            "TransferSyntaxUID", ""
        )
    kind = UID(syntax).name if syntax else "none named"
    if reason not in (None, Reason.NO_PATIENT_ID):
        return Outcome(name, kind, reason, None)
    try:
        ours = list(images(read(path).dataset))
    except Unusable as verdict:
        return Outcome(name, kind, verdict.reason, None)
    theirs = pictures(path)
    tolerated = EXACT + (LOSSY if kind in _LOSSY else 0)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    return Outcome(name, kind, reason, apart - tolerated)


def pictures(path: Path) -> list[Picture]:
    """Every frame as the other reader shows it."""
    with quiet():
        dataset = dcmread(path, force=True)
        if not any(keyword in dataset for keyword in PIXELS):
            dataset = dcmread(BytesIO(path.read_bytes() + _DELIMITER), force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        stored, properties = _decoded(decoder, dataset)
        axes = 3 if dataset.SamplesPerPixel > 1 else 2
        frames = stored.reshape(-1, *stored.shape[-axes:])
        if properties["photometric_interpretation"] == "PALETTE COLOR":
            _turn_palette(dataset)
            colours = apply_color_lut(frames, dataset)
            return list(colours / (2.0 ** (8 * colours.dtype.itemsize) - 1))
        if axes == 3:
            return list(frames / (2.0**dataset.BitsStored - 1))
        return [_grey(dataset, frames, frame) for frame in range(len(frames))]


def _decoded(decoder: Decoder, dataset: Dataset) -> tuple[Picture, dict[str, Any]]:
    """By the first decoder in the alphabet, where the program begins with pylibjpeg."""
    failure: Exception | None = None
    for plugin in [*decoder.available_plugins, ""]:
        try:
            stored, properties = decoder.as_array(dataset, decoding_plugin=plugin)
        except Exception as error:  # noqa: BLE001 - then by the one before it
            failure = error
        else:
            return stored, properties
    raise ValueError("no decoder reads it") from failure


def _turn_palette(dataset: Dataset) -> None:
    """Give a palette the machine's byte order, which pydicom takes it to have."""
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        for colour in ("Red", "Green", "Blue"):
            keyword = f"{colour}PaletteColorLookupTableData"
            if keyword in dataset:  # else it is segmented, which pydicom reads in the file's order
                words = np.frombuffer(dataset[keyword].value, ">u2")
                dataset[keyword].value = words.astype("<u2").tobytes()


def _grey(dataset: Dataset, frames: Picture, frame: int) -> Picture:
    """A grey frame, computed for each value that it holds."""
    values, places = np.unique(frames[frame], return_inverse=True)
    meant = Meant(
        values.tolist(),
        dataset.get("BitsStored", 32),
        bool(dataset.get("PixelRepresentation")),
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
    )
    rescale = _macro(dataset, "PixelValueTransformationSequence", frame)
    if dataset.get("ModalityLUTSequence"):
        meant = replace(meant, modality=_table(dataset.ModalityLUTSequence[0]))
    elif rescale.get("RescaleSlope") is not None:
        meant = replace(meant, rescale=(str(rescale.RescaleSlope), str(rescale.RescaleIntercept)))
    if frames.dtype.kind != "f" and dataset.get("PixelPaddingValue") is not None:
        limit = dataset.get("PixelPaddingRangeLimit")
        meant = replace(meant, padding=(dataset.PixelPaddingValue, limit))
    voi = _macro(dataset, "FrameVOILUTSequence", frame)
    if voi.get("VOILUTSequence"):
        meant = replace(meant, voi=_table(voi.VOILUTSequence[0]))
    elif voi.get("WindowWidth") is not None:
        centre, width = str(_first(voi.WindowCenter)), str(_first(voi.WindowWidth))
        meant = replace(meant, window=(centre, width, voi.get("VOILUTFunction", "")))
    else:
        low, high = sorted(map(meant.given, map(float, _ends(meant, frames))))
        window = repr((low + high) / 2), repr(high - low), "LINEAR_EXACT"
        meant = replace(meant, window=window)
    shown = np.nan_to_num(np.array(meant.picture()))
    return np.asarray(shown[places].reshape(frames[frame].shape))


def _ends(meant: Meant, frames: Picture) -> tuple[float, float]:
    """The values that become black and white where the file says nothing."""
    if frames.dtype.kind != "f" and meant.bits <= 8:
        return meant.limits()
    kept = frames[np.isfinite(frames)]
    if meant.padding is not None:
        first, limit = meant.padding
        ends = sorted([first, first if limit is None else limit])
        kept = kept[(kept < ends[0]) | (kept > ends[1])]
    low, high = np.percentile(kept, (0.5, 99.5))
    return (low, high) if low < high else (kept.min(), kept.max())


def _macro(dataset: Dataset, name: str, frame: int) -> Dataset:
    """Where a frame's own elements are, or those of all frames."""
    own, shared = (
        dataset.get(f"{each}FunctionalGroupsSequence", []) for each in ("PerFrame", "Shared")
    )
    for group in (*own[frame : frame + 1], *shared[:1]):
        items: list[Dataset] = list(group.get(name, []))
        if items:
            return items[0]
    return dataset


def _first(value: object) -> object:
    return value[0] if isinstance(value, MultiValue) else value


def _table(item: Dataset) -> Table:
    _, first, bits = item.LUTDescriptor
    data = item.LUTData
    entries = np.frombuffer(data, "<u2").tolist() if isinstance(data, bytes) else list(data)
    return Table(first, entries, bits, bits)


def expected() -> dict[str, dict[str, list[str]]]:
    """For each folder, its rejected files: the reason and why it is right."""
    return tomllib.loads(EXPECTED.read_text())


HEAD: Final = """# Which DICOM files can be used

*The tables on this page are written by `make pages`, from a check of every file that they count.*

A file is used if it holds an image whose pixels can be decoded and are not all of one value, and a
PatientID. Any modality can be used, and any transfer syntax in the first table with a file that is
used: uncompressed (also big endian and deflated), RLE, JPEG, JPEG-LS, JPEG 2000 and HTJ2K. Grey,
RGB, YBR and palettes are read, and each frame of a file is an image. `consilium-site check` names
the reason for each file that is not used. Reports, plans, waveforms and a DICOMDIR have no pixels;
nothing is to be done about those.

## Speed

{speed}

## Files that were checked

Checked are {files} files: those that pydicom installs for its tests, and 79 of its further test
data and of GDCM's. `consilium-site check` used them or rejected them with `--derived accept`, any
modality. "Equal" means that each pixel of each frame is the one that another reader shows, to one
millionth of the range from black to white; for lossy JPEG to three of 255 grey levels, since
decoders may round in different ways. That reader uses another decoder where pydicom has two. Files
without a PatientID are rejected, but their pictures were compared too. Of several copies of an
image `check` uses one; here each copy counts.

"""


def page(found: dict[str, list[Outcome]], speed: str) -> str:
    """The page in Markdown."""
    every = [each for folder in found.values() for each in folder]
    lines = [HEAD.format(files=len(every), speed=speed).rstrip(), ""]
    lines += ["| transfer syntax | files | used and equal | equal, but rejected | rejected |"]
    lines += ["| --- | ---: | ---: | ---: | --- |"]
    kinds: defaultdict[str, list[Outcome]] = defaultdict(list)
    for each in every:
        kinds[each.kind or "no image"].append(each)
    kinds["**all**"] = every
    for kind, those in sorted(kinds.items(), key=lambda item: (item[0][0] == "*", item[0])):
        used = sum(each.equal and each.reason is None for each in those)
        equal = sum(each.equal and each.reason is not None for each in those)
        counts = Counter(each.reason.value for each in those if each.reason is not None)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        lines.append(f"| {kind} | {len(those)} | {used} | {equal} | {reasons} |")
    lines += ["", "## Images that were rejected, and why that is right", ""]
    lines += ["| file | reason | why |", "| --- | --- | --- |"]
    for folder, those in found.items():
        for each in those:
            if each.reason is not None and each.reason not in _COUNTED:
                reason, why = expected()[folder][each.name]
                lines.append(f"| `{each.name}` | {reason} | {why} |")
    lines += ["", "## Where the other reader was wrong", ""]
    lines += [
        "pydicom reads a palette's 16-bit entries in the byte order of the machine, and so those",
        "of a big endian file in the wrong one (`OBXXXX1A_expb.dcm`, `OBXXXX1A_expb_2frame.dcm`).",
        "They were turned for it; then the pictures are equal, as to the little endian file's.",
    ]
    return "\n".join(lines) + "\n"


def speed_in(text: str) -> str:
    """What a page says of speed, which is measured by ``make bench NAME=check_rate``."""
    return text.partition("## Speed\n\n")[2].partition("\n\n## ")[0]


def main(root: Path) -> None:
    """Write the page; both folders are needed."""
    path = root / "docs" / "dicom.md"
    found = {name: list(outcomes(folder)) for name, folder in FOLDERS.items()}
    path.write_text(page(found, speed_in(path.read_text())))


if __name__ == "__main__":
    if not VARIED.is_dir():
        sys.exit(f"docs/dicom.md is left as it is: no {VARIED}")
    main(Path(__file__).resolve().parent.parent)
