"""Where an image is unlike what the study foresaw, or unlike the hospital's own patients.

All that is compared with is public (the study) or the hospital's own (a profile that ``evaluate``
makes of its patients and that never leaves). A warning says that the model was not made for such
an image; none says that it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from pydicom import dcmread
from pydicom.dataset import Dataset

from client.data.dicom import NO_VERDICT, Header, content, is_deflated, quiet
from client.objects.values import text
from client.prediction.intake import PreparedFile
from common.settings import Section
from common.study.study_file import Study

SHARE: Final = 0.01
"""Of a hundred images like the hospital's own, one is said to be unlike."""
FEWEST: Final = 99
"""Images without which nothing can be said at that share."""
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
        middle: by statistic, the median.
        spread: by statistic, half of the distance between the quartiles.
        most: distance from the middle that a usual image has at most; None for too few images.
        scanners: manufacturer and model, as their files say.
    """

    images: int
    middle: dict[str, float]
    spread: dict[str, float]
    most: float | None = None
    scanners: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for of in (self.middle, self.spread):
            if set(of) != set(STATISTICS):
                raise ValueError(f"should have a number for each of {', '.join(STATISTICS)}")
        if min(self.spread.values()) <= 0:
            raise ValueError("spread should be above 0")
        return self

    def far(self, image: NDArray[np.floating]) -> dict[str, float]:
        """By statistic, how many spreads an image is from the middle."""
        found = statistics(image)
        return {
            name: abs(found[name] - self.middle[name]) / self.spread[name] for name in STATISTICS
        }


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
    """The profile of a hospital's own prepared images.

    One limit for all statistics together, so that of images like these a share of ``SHARE`` is
    beyond it: the place in their order is that of split conformal prediction.
    """
    each = [statistics(image) for image in images]
    middle, spread = dict[str, float](), dict[str, float]()
    for name in STATISTICS:
        values = np.array([one[name] for one in each])
        low, mid, high = np.quantile(values, (0.25, 0.5, 0.75)) if each else (0.0, 0.5, 1.0)
        middle[name] = float(mid)
        spread[name] = float(max((high - low) / 2, 1e-3))
    far = sorted(
        max(abs(one[name] - middle[name]) / spread[name] for name in STATISTICS) for one in each
    )
    place = int(np.ceil((len(far) + 1) * (1 - SHARE)))
    return Profile(
        images=len(each),
        middle=middle,
        spread=spread,
        most=far[place - 1] if len(far) >= FEWEST and place <= len(far) else None,
        scanners=tuple(sorted({each for each in scanners if each})),
    )


def header_of(path: Path, sha256: str = "") -> Dataset | None:
    """A file's data set without its pixels; None where it cannot be read again.

    Args:
        path: of the file.
        sha256: of what was decoded: another content may be another patient's by now. Empty where
            it need not be the same.
    """
    try:
        data = content(path)
        # Deflated, it could take any memory, and this process has no bounds of its own.
        if is_deflated(data) or (sha256 and hashlib.sha256(data).hexdigest() != sha256):
            return None
        with quiet():
            return dcmread(BytesIO(data), stop_before_pixels=True, force=True)
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
    named = (text(source, each) for each in ("Manufacturer", "ManufacturerModelName"))
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
    """Whether half of a file's images are further out than the hospital's own."""
    if own.most is None:
        return []
    each = [own.far(image) for image in images]
    typical = {name: float(np.median([one[name] for one in each])) for name in STATISTICS}
    words: Mapping[str, str] = {
        "mean": "brightness",
        "contrast": "contrast",
        "detail": "sharpness or noise",
        "empty": "empty border",
    }
    out = [words[name] for name in STATISTICS if typical[name] > own.most]
    if not out:
        return []
    return [f"{', '.join(out)} unlike this hospital's evaluated patients"]
