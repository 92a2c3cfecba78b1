"""Draws stylised axial MR slices of a liver with lesions, and the mask of each slice.

A patient is a stack of slices through analytic shapes in body coordinates (x to the viewer's
right, y downwards, z upwards; half the picture's width is 1), followed by a scanner's chain: coil,
blur, brightness, noise. The mask says for each pixel centre what lies there. Bright spots that
are no lesions (gallbladder, vessels, spinal canal, fat) occur in every patient, so that brightness
alone finds no lesion. The pictures show no real patient and have no clinical value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulations.hospitals import visit
from simulations.hospitals.phantom import Grid, Image, place

Mask = NDArray[np.uint8]

CLASSES: Final = ("liver", "lesion")
"""Values 1 and 2 of a mask; 0 is everything else."""
MOST_SLICES: Final = 4
GAP: Final = 2 * visit.GAP / visit.FIELD
"""Between two slices, in shares of half the picture's width."""
FAINT: Final = 0.15
"""Share of lesions that hardly show: no reader finds them all."""

_HARMONICS: Final = (1, 2, 3, 4)


@dataclass(frozen=True)
class SliceLook:
    """How one scanner, and whom it sees, shapes its slices.

    Attributes:
        contrast: brightness of a lesion above the liver, of full scale.
        liver: brightness of the liver.
        fat: brightness of the fat below the skin.
        lesion_size: median radius of a lesion, in shares of half the picture's width.
        lesions: least and most lesions of a patient who has any.
        coil: how much brighter the picture is next to the receiving coil than far from it.
        noise: standard deviation of the noise in each of the two channels, of full scale.
        blur: standard deviation of the blur, in shares of the picture's width.
        gamma: exponent of the brightness.
        black, white: what brightness 0 and 1 come out as.
    """

    contrast: float
    liver: float
    fat: float
    lesion_size: float
    lesions: tuple[int, int]
    coil: float
    noise: float
    blur: float
    gamma: float = 1.0
    black: float = 0.0
    white: float = 1.0


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid in the liver; ``contrast`` is above the liver's brightness."""

    centre: tuple[float, float, float]
    radius: float
    aspect: float
    angle: float
    contrast: float


@dataclass(frozen=True)
class Body:
    """What all slices of one patient show.

    Attributes:
        width, height: half axes of the body.
        fat: thickness of the fat.
        middle: the liver's middle.
        radii: amplitude and phase of the liver's outline, harmonic by harmonic.
        radius: of the liver, on average.
        texture: seed of the vessels' places and of the tissue's texture.
        slices: how many are taken.
        lesions: in any order.
    """

    width: float
    height: float
    fat: float
    middle: tuple[float, float]
    radii: tuple[tuple[float, float], ...]
    radius: float
    texture: int
    slices: int
    lesions: tuple[Lesion, ...]


def draw_body(rng: np.random.Generator, look: SliceLook, slices: int, *, affected: bool) -> Body:
    """A patient of so many slices; ``affected`` says whether lesions are in them."""
    body = Body(
        width=rng.normal(0.88, 0.03),
        height=rng.normal(0.66, 0.03),
        fat=rng.uniform(0.05, 0.11),
        middle=(rng.normal(-0.34, 0.03), rng.normal(-0.06, 0.03)),
        radii=tuple((rng.normal(0.0, 0.09 / k), rng.uniform(0.0, 2 * np.pi)) for k in _HARMONICS),
        radius=rng.normal(0.42, 0.03),
        texture=int(rng.integers(2**31)),
        slices=slices,
        lesions=(),
    )
    least, most = look.lesions
    count = int(rng.integers(least, most + 1)) if affected else 0
    return replace(body, lesions=tuple(_draw_lesion(rng, look, body) for _ in range(count)))


def _draw_lesion(rng: np.random.Generator, look: SliceLook, body: Body) -> Lesion:
    """Somewhere in the liver, and so near to a slice that the slice shows it."""
    angle, share = rng.uniform(0.0, 2 * np.pi), 0.75 * np.sqrt(rng.uniform())
    reach = share * _outline(body, np.array(angle), 0.0)
    radius = float(np.clip(look.lesion_size * rng.lognormal(0.0, 0.4), 0.05, 0.26))
    strength = 0.45 if rng.random() < FAINT else rng.uniform(0.8, 1.2)
    return Lesion(
        centre=(
            body.middle[0] + float(reach) * np.cos(angle),
            body.middle[1] + float(reach) * np.sin(angle),
            int(rng.integers(body.slices)) * GAP + rng.uniform(-0.5, 0.5) * radius,
        ),
        radius=radius,
        aspect=rng.uniform(0.8, 1.25),
        angle=rng.uniform(0.0, np.pi),
        contrast=look.contrast * strength,
    )


def render_slices(
    body: Body, look: SliceLook, shape: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Image, Mask]]:
    """A patient's slices from the lowest upwards, each with its mask.

    Args:
        body: whose.
        look: of the scanner.
        shape: rows and columns.
        rng: draws where the patient lies, which all slices share, and the noise of each.

    Returns:
        Pictures in [0, 1] and masks, both ``shape``.
    """
    grid = place(shape, rng)
    side = rng.uniform(-0.4, 0.4)
    stack = []
    for number in range(body.slices):
        picture, mask = _slice(body, look, grid, number * GAP)
        stack.append((_scan(picture, look, grid, side, rng), mask))
    return stack


def _slice(body: Body, look: SliceLook, grid: Grid, z: float) -> tuple[Image, Mask]:
    wall = np.hypot(grid.x / body.width, grid.y / body.height)
    inner = np.hypot(grid.x / (body.width - body.fat), grid.y / (body.height - body.fat))
    liver = np.maximum(_depth(body, grid, z), inner / 0.97)
    picture = 0.30 * _soft(inner, 0.02)
    picture = np.where(inner > 1, look.fat * _soft(wall, 0.02), picture)
    picture = _organs(picture, grid, z)
    picture = _blend(picture, look.liver * _tissue(body, grid, z), _soft(liver, 0.03))
    # As bright as a lesion, at the liver's edge, and no part of it.
    gallbladder = np.hypot((grid.x + 0.08) / 0.075, (grid.y - 0.16) / (0.11 - 0.05 * z))
    picture = _blend(picture, 0.85, _soft(gallbladder, 0.08))
    mask = ((liver < 1) & (gallbladder > 1)).astype(np.uint8)
    for lesion in body.lesions:
        away = _distance(lesion, grid, z)
        inside = _soft(away, 0.06) * _soft(liver, 0.03) * (1.0 - _soft(gallbladder, 0.08))
        picture = picture + lesion.contrast * inside
        mask[(away < 1) & (mask > 0)] = 2
    return picture, mask


def _soft(distance: Image, softness: float) -> Image:
    """1 where ``distance`` is below 1, 0 above, and 1/2 where a mask's edge is."""
    result: Image = 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) / softness, -30.0, 30.0)))
    return result


def _blend(picture: Image, value: Image | float, share: Image) -> Image:
    result: Image = picture * (1.0 - share) + value * share
    return result


def _outline(body: Body, angle: Image, z: float) -> Image:
    """Distance of the liver's edge from its middle, by direction and height."""
    waves = np.zeros_like(angle)
    for harmonic, (amplitude, phase) in zip(_HARMONICS, body.radii, strict=True):
        waves = waves + amplitude * np.cos(harmonic * angle + phase)
    # A left lobe that reaches over the spine, and fewer pixels at either end of the stack.
    lobe = 0.28 * np.exp(-(((np.angle(np.exp(1j * (angle + 0.25)))) / 0.45) ** 2))
    result: Image = body.radius * (1.0 + waves + lobe) * (1.0 - 0.5 * (z - 1.5 * GAP) ** 2)
    return result


def _depth(body: Body, grid: Grid, z: float) -> Image:
    """0 in the liver's middle, 1 at its edge."""
    x, y = grid.x - body.middle[0], grid.y - body.middle[1]
    result: Image = np.hypot(x, y) / _outline(body, np.arctan2(y, x), z)
    return result


def _distance(lesion: Lesion, grid: Grid, z: float) -> Image:
    """0 in a lesion's middle, 1 at its edge."""
    x, y = grid.x - lesion.centre[0], grid.y - lesion.centre[1]
    along = (x * np.cos(lesion.angle) + y * np.sin(lesion.angle)) / lesion.aspect
    across = (y * np.cos(lesion.angle) - x * np.sin(lesion.angle)) * lesion.aspect
    result: Image = np.sqrt(along**2 + across**2 + (z - lesion.centre[2]) ** 2) / lesion.radius
    return result


def _organs(picture: Image, grid: Grid, z: float) -> Image:
    """Spine with its canal, aorta, spleen, stomach and a kidney."""
    for x, y, across, along, value in (
        (0.0, 0.34, 0.12, 0.10, 0.38),  # vertebra
        (0.0, 0.47, 0.045, 0.035, 0.95),  # spinal canal
        (0.03, 0.18, 0.045, 0.045, 0.08),  # aorta: flowing blood is dark
        (0.60, 0.10, 0.17, 0.24, 0.62),  # spleen
        (0.36, -0.22, 0.20, 0.15 + 0.2 * z, 0.15),  # stomach
        (0.34, 0.30, 0.11, 0.13, 0.72),  # kidney
    ):
        organ = np.hypot((grid.x - x) / across, (grid.y - y) / along)
        picture = _blend(picture, value, _soft(organ, 0.08))
    return picture


def _tissue(body: Body, grid: Grid, z: float) -> Image:
    """The liver's texture around 1, with vessels that run on from slice to slice."""
    # A generator of its own: texture and vessels belong to the patient, not to the picture.
    rng = np.random.default_rng(body.texture)
    coarse = rng.normal(size=(20, 20))
    places = [np.clip((axis + 1.1) / 2.2 * 19, 0, 19) for axis in (grid.y, grid.x)]
    texture: Image = 1.0 + 0.07 * ndimage.map_coordinates(coarse, places, order=1, mode="nearest")
    for _ in range(4):
        angle, far = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.05, 0.8) * body.radius
        drift = rng.uniform(-0.3, 0.3, 2)
        x = body.middle[0] + far * np.cos(angle) + drift[0] * z
        y = body.middle[1] + far * np.sin(angle) + drift[1] * z
        slope, length = rng.uniform(0.0, np.pi), rng.uniform(0.03, 0.16)
        along = (grid.x - x) * np.cos(slope) + (grid.y - y) * np.sin(slope)
        across = (grid.y - y) * np.cos(slope) - (grid.x - x) * np.sin(slope)
        texture = _blend(texture, 1.45, _soft(np.hypot(along / length, across / 0.022), 0.2))
    return texture


def _scan(
    picture: Image, look: SliceLook, grid: Grid, side: float, rng: np.random.Generator
) -> Image:
    """Blur, coil, brightness and noise: what the scanner makes of a slice, in [0, 1]."""
    picture = ndimage.gaussian_filter(picture, look.blur * picture.shape[1], mode="nearest")
    # A coil lies in front of the patient, a little to one side.
    near = np.exp(-((grid.x - side) ** 2 + (grid.y + 0.7) ** 2) / 1.2)
    picture = picture * (1.0 + look.coil * (near - 0.5))
    picture = np.clip(picture, 0.0, 1.0) ** look.gamma
    # The size of a complex number with noise in both parts (Gudbjartsson and Patz 1995,
    # doi:10.1002/mrm.1910340618), hence never black around the patient.
    noise = rng.normal(0.0, look.noise, (2, *picture.shape))
    picture = np.hypot(picture + noise[0], noise[1])
    result: Image = np.clip(look.black + (look.white - look.black) * picture, 0.0, 1.0)
    return result
