"""Where an image is unlike what the study foresaw, or unlike the hospital's own patients.

All that is compared with is public (the study) or the hospital's own (a profile that ``evaluate``
makes of its patients and that never leaves). A warning says that the model was not made for such
an image;
none says that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from client.data.dicom import NO_VERDICT, Header, quiet
from client.prediction.intake import PreparedFile
from common.settings import Section
from common.study.study_file import Study

QUANTILES: Final = (0.005, 0.995)
"""Of the hospital's own images: of a hundred images like them, one is said to be unlike."""
FAR: Final = 2.0
"""Standard deviations of the study's constants by which an image's mean may be off."""
ELONGATED: Final = 1.5
"""An image's sides may differ from the proportions of the study's by this factor."""
STATISTICS: Final = ("mean", "contrast", "detail", "empty")
"""Of a prepared image, each in [0, 1]."""


class Profile(Section):
    """What the hospital's own images are like. Sensitive: it stays at the hospital.

    Attributes:
        images: how many were looked at.
        low: by statistic, the lower end of what is usual.
        high: the upper end.
        scanners: manufacturer and model, as their files say.
    """

    images: int
    low: dict[str, float]
    high: dict[str, float]
    scanners: tuple[str, ...] = ()


def statistics(image: NDArray[np.floating]) -> dict[str, float]:
    """Numbers of one prepared image (channels, height, width) in [0, 1].

    ``mean`` and ``contrast`` (standard deviation) of its pixels, ``detail``, the mean step from a
    pixel to the next, and ``empty``, the share of pixels that are 0.
    """
    pixels = image.astype(np.float64)
    steps = [np.abs(np.diff(pixels, axis=axis)).mean() for axis in (1, 2)]
    values = (pixels.mean(), pixels.std(), np.mean(steps), (pixels <= 0).mean())
    return dict(zip(STATISTICS, map(float, values), strict=True))


def profile(images: Iterable[NDArray[np.floating]], scanners: Iterable[str]) -> Profile:
    """The profile of a hospital's own prepared images."""
    each = [statistics(image) for image in images]
    ends = {
        name: np.quantile([one[name] for one in each], QUANTILES) if each else (0.0, 1.0)
        for name in STATISTICS
    }
    return Profile(
        images=len(each),
        low={name: float(low) for name, (low, _) in ends.items()},
        high={name: float(high) for name, (_, high) in ends.items()},
        scanners=tuple(sorted({each for each in scanners if each})),
    )


def header_of(path: Path) -> Dataset | None:
    """A file's data set without its pixels; None where it cannot be read again."""
    try:
        with quiet():
            return dcmread(path, stop_before_pixels=True, force=True)
    except NO_VERDICT:
        raise
    except BaseException:  # noqa: BLE001 - whatever pydicom raises: the tables have this file
        return None


def scanners(paths: Iterable[Path]) -> Iterator[str]:
    """Manufacturer and model of each file that can be read."""
    for path in paths:
        header = header_of(path)
        if header is not None:
            yield scanner(header)


def scanner(source: Dataset) -> str:
    """Manufacturer and model as a file says; empty where it does not."""
    named = (
        str(source.get(each) or "").strip() for each in ("Manufacturer", "ManufacturerModelName")
    )
    return " ".join(filter(None, named))


def warnings(
    study: Study, file: PreparedFile, source: Dataset | None, own: Profile | None = None
) -> tuple[str, ...]:
    """What is unusual of one file, in plain words, each once.

    Args:
        study: what it foresaw.
        file: the file, prepared.
        source: its header; None where it cannot be read again.
        own: of the hospital's own images.
    """
    found = [*_header(study, file.found.header), *_statistics(study, file.images)]
    if own is not None:
        found += _unlike(file.images, own)
        named = scanner(source) if source is not None else ""
        if own.scanners and named not in own.scanners:
            found.append("from a scanner that none of this hospital's evaluated patients was on")
    return tuple(dict.fromkeys(found))


def _header(study: Study, header: Header) -> list[str]:
    found = []
    if header.modality not in {each.upper() for each in study.data.modalities}:
        wanted = ", ".join(study.data.modalities)
        found.append(f"modality {header.modality or 'not said'}; the study is about {wanted}")
    if header.burned_in:
        found.append("text may be burned into the pixels")
    if header.image_type[:1] == ("DERIVED",):
        found.append("a derived image, as a study leaves out by default")
    if "LOCALIZER" in header.image_type[2:]:
        found.append("a localiser")
    height, width = study.data.image_size
    if header.rows and header.columns:
        if header.rows < height and header.columns < width and study.data.spacing is None:
            found.append(
                f"smaller than the model's images: {header.rows}x{header.columns}, "
                f"enlarged to {height}x{width}"
            )
        ratio = (header.rows / header.columns) / (height / width)
        if not 1 / ELONGATED <= ratio <= ELONGATED:
            found.append(f"of other proportions: {header.rows}x{header.columns}")
    return found


def _statistics(study: Study, images: NDArray[np.float16]) -> list[str]:
    """Against the study's own constants, which say what brightness it foresaw."""
    off = np.abs(images.mean(axis=(1, 2, 3), dtype=np.float64) - study.data.mean) / study.data.std
    if (off > FAR).any():
        return ["much brighter or darker than the study foresaw ([data] mean and std)"]
    return []


def _unlike(images: NDArray[np.float16], own: Profile) -> list[str]:
    each = [statistics(image) for image in images]
    out = [
        name
        for name in STATISTICS
        if any(not own.low[name] <= one[name] <= own.high[name] for one in each)
    ]
    words: Mapping[str, str] = {
        "mean": "brightness",
        "contrast": "contrast",
        "detail": "sharpness or noise",
        "empty": "empty border",
    }
    if not out:
        return []
    return [f"{', '.join(words[name] for name in out)} unlike this hospital's evaluated patients"]
