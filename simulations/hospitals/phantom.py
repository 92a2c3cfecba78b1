"""Draws stylised frontal chest radiographs: anatomy, opacities, and what a scanner makes of them.

A picture is a sum of analytic shapes in thorax coordinates (x to the viewer's right, y
downwards, both in [-1, 1]), followed by a scanner's chain: collimation, blur, exposure,
noise. The label decides only whether opacities are drawn into the lungs; everything
else (ribs, heart, vessels, nipple shadows, lines) occurs in both classes. The pictures
resemble radiographs enough to train on; they show no real patient and have no clinical value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]

LUNG_LEFT: Final = (-0.40, -0.02)
LUNG_RIGHT: Final = (0.42, -0.04)
RIB_SPACING: Final = 0.215
FAINT: Final = 0.10
"""Share of ill patients whose opacities hardly show: no reader finds them all."""
MIMICS: Final = 0.05
"""Share of healthy patients with an old scar that looks like an opacity."""


@dataclass(frozen=True)
class Scanner:
    """How one scanner, and the way it is used, shapes a picture.

    Attributes:
        contrast: height of an opacity above the lung, in units of full scale.
        lesion_size: radius of an opacity in thorax units (the half width is 1).
        lesions: least and most opacities of an affected patient.
        left: share of opacities on the left of the picture: whom a hospital sees, not only with
            what, decides what it can learn.
        level: height at which most opacities lie, from -0.45 (apex) to 0.42 (base).
        noise: standard deviation of the quantum noise at mid exposure, of full scale.
        blur: standard deviation of the system's blur, in shares of the picture's width.
        gamma: curve from attenuation to brightness; above 1 darkens the lungs.
        black, white: brightness that attenuation 0 and 1 come out as.
        collimation: share of the width that the collimator covers on each side.
        collimator: brightness of the covered border.
        ribs: contrast of the bones.
        bedside: share of patients without and with opacities who are pictured in bed: a
            larger heart, a shallower breath, a tube. Where it goes with being ill, a model
            that sees one hospital alone learns it instead, and fails elsewhere (Zech et al.
            2018, doi:10.1371/journal.pmed.1002683).
    """

    contrast: float
    lesion_size: float
    lesions: tuple[int, int]
    left: float
    level: float
    noise: float
    blur: float
    gamma: float
    black: float
    white: float
    collimation: float
    collimator: float
    ribs: float
    bedside: tuple[float, float]


@dataclass(frozen=True)
class Opacity:
    """One lesion: a soft elliptic blob with a ragged edge."""

    x: float
    y: float
    radius: float
    aspect: float
    angle: float
    contrast: float


@dataclass(frozen=True)
class Anatomy:
    """What stays the same over all pictures of one patient."""

    width: float
    height: float
    lung_depth: float
    heart: float
    diaphragm: float
    rib_phase: float
    rib_slope: float
    vessels: int
    nipples: bool
    bedside: bool
    opacities: tuple[Opacity, ...]


@dataclass(frozen=True)
class Grid:
    """Thorax coordinates of a picture's pixel centres, each ``(rows, columns)``."""

    x: Image
    y: Image


def draw_anatomy(rng: np.random.Generator, scanner: Scanner, *, affected: bool) -> Anatomy:
    """A patient's anatomy, with opacities if ``affected``; a few others have a scar."""
    rare = rng.random()
    if affected:
        # Without faint opacities and scars a model could be perfect, and figures would compare
        # nothing.
        strength, (least, most) = (0.2 if rare < FAINT else 1.0), scanner.lesions
        count = int(rng.integers(least, most + 1))
    else:
        strength, count = 1.0, int(rare < MIMICS)
    bedside = bool(rng.random() < scanner.bedside[affected])
    return Anatomy(
        width=rng.normal(1.0, 0.05),
        height=rng.normal(1.0, 0.05),
        lung_depth=rng.normal(0.34, 0.03),
        heart=rng.normal(1.18 if bedside else 1.0, 0.10),
        diaphragm=rng.normal(0.50 if bedside else 0.58, 0.05),
        rib_phase=rng.uniform(0.0, RIB_SPACING),
        rib_slope=rng.normal(0.45, 0.08),
        vessels=int(rng.integers(2**31)),
        nipples=bool(rng.random() < 0.35),
        bedside=bedside,
        opacities=tuple(_draw_opacity(rng, scanner, strength) for _ in range(count)),
    )


def _draw_opacity(rng: np.random.Generator, scanner: Scanner, strength: float) -> Opacity:
    """An opacity somewhere in the lungs, mostly where the hospital's patients have them."""
    side = -1.0 if rng.random() < scanner.left else 1.0
    return Opacity(
        x=side * rng.uniform(0.26, 0.56),
        y=rng.triangular(-0.45, scanner.level, 0.42),
        radius=scanner.lesion_size * rng.uniform(0.75, 1.25),
        aspect=rng.uniform(0.7, 1.4),
        angle=rng.uniform(0.0, np.pi),
        contrast=scanner.contrast * strength * rng.uniform(0.75, 1.25),
    )


def render(
    anatomy: Anatomy, scanner: Scanner, shape: tuple[int, int], rng: np.random.Generator
) -> Image:
    """One picture of ``anatomy``, ``(rows, columns)`` in [0, 1], dense tissue bright.

    ``rng`` draws what differs between two exposures of one patient: position, breath,
    lines, quantum noise.
    """
    grid = place(shape, rng)
    attenuation = _thorax(anatomy, scanner, grid)
    for opacity in anatomy.opacities:
        attenuation += _opacity(opacity, grid, anatomy)
    if anatomy.bedside:
        attenuation += _line(grid, rng)
    return _expose(attenuation, scanner, rng)


def place(shape: tuple[int, int], rng: np.random.Generator) -> Grid:
    """Where the patient stands: a small shift, rotation and magnification."""
    rows, columns = shape
    y, x = np.meshgrid(
        (np.arange(rows) + 0.5 - rows / 2) / (columns / 2),
        (np.arange(columns) + 0.5) / columns * 2 - 1,
        indexing="ij",
    )
    angle, scale = rng.normal(0.0, 0.035), rng.normal(1.0, 0.03)
    x, y = x * scale - rng.normal(0.0, 0.035), y * scale - rng.normal(0.0, 0.035)
    return Grid(
        x=x * np.cos(angle) - y * np.sin(angle),
        y=x * np.sin(angle) + y * np.cos(angle),
    )


def _edge(distance: Image, softness: float) -> Image:
    """1 where ``distance`` is well below 1, 0 well above, with a smooth edge between."""
    result: Image = 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) / softness, -30.0, 30.0)))
    return result


def _ellipse(grid: Grid, centre: tuple[float, float], axes: tuple[float, float]) -> Image:
    """Elliptic distance from ``centre``: 1 on the ellipse with half ``axes``."""
    result: Image = np.hypot((grid.x - centre[0]) / axes[0], (grid.y - centre[1]) / axes[1])
    return result


def _lungs(anatomy: Anatomy, grid: Grid) -> Image:
    """The aerated share of each pixel in [0, 1]: two ellipses cut off by the diaphragm."""
    axes = (0.30 * anatomy.width, 0.66 * anatomy.height)
    left = _edge(_ellipse(grid, LUNG_LEFT, axes), 0.07)
    right = _edge(_ellipse(grid, LUNG_RIGHT, (axes[0] * 0.95, axes[1])), 0.07)
    dome = anatomy.diaphragm - 0.16 * np.cos((np.abs(grid.x) - 0.38) * 3.0)
    below = 1.0 / (1.0 + np.exp(-np.clip((grid.y - dome) / 0.03, -30.0, 30.0)))
    return np.maximum(left, right) * (1.0 - 0.95 * below)


def _thorax(anatomy: Anatomy, scanner: Scanner, grid: Grid) -> Image:
    """Attenuation of a thorax without lesions."""
    lungs = _lungs(anatomy, grid)
    body = _edge(_ellipse(grid, (0.0, 0.25), (0.98 * anatomy.width, 1.35)), 0.05)
    neck = _edge(_ellipse(grid, (0.0, -1.0), (0.28, 0.5)), 0.06)
    picture = 0.62 * np.maximum(body, neck) - anatomy.lung_depth * lungs
    picture += _mediastinum(anatomy, grid)
    picture += scanner.ribs * _ribs(anatomy, grid) * (0.35 + 0.65 * lungs) * body
    picture += 0.05 * lungs * _vessels(anatomy, grid)
    if anatomy.nipples:
        for side in (-0.47, 0.47):
            picture += 0.12 * _edge(_ellipse(grid, (side, 0.33), (0.045, 0.045)), 0.2)
    return picture


def _mediastinum(anatomy: Anatomy, grid: Grid) -> Image:
    """Spine with its vertebrae, aortic knob and heart."""
    spine = np.exp(-((grid.x / 0.11) ** 2)) * (0.20 + 0.035 * np.cos(grid.y * 24.0))
    heart = _edge(_ellipse(grid, (0.13, 0.30), (0.33 * anatomy.heart, 0.34 * anatomy.heart)), 0.09)
    knob = _edge(_ellipse(grid, (0.10, -0.25), (0.13, 0.14)), 0.15)
    result: Image = spine + 0.24 * heart + 0.12 * knob
    return result


def _ribs(anatomy: Anatomy, grid: Grid) -> Image:
    """Ribs as bright arcs that fall towards the side, and two clavicles."""
    fall = anatomy.rib_slope * np.abs(grid.x) ** 1.8
    phase = (grid.y - fall + anatomy.rib_phase) / RIB_SPACING
    ribs = np.exp(-(((phase - np.round(phase)) / 0.17) ** 2)) * (np.abs(grid.x) > 0.1)
    clavicle = np.exp(-(((grid.y + 0.66 + 0.22 * np.abs(grid.x)) / 0.045) ** 2))
    result: Image = ribs + 0.9 * clavicle * (np.abs(grid.x) < 0.8)
    return result


def _vessels(anatomy: Anatomy, grid: Grid) -> Image:
    """Smooth texture that fades from the hila outwards; the same in every picture of a patient."""
    # A generator of its own: the vessels belong to the patient, not to the exposure.
    rng = np.random.default_rng(anatomy.vessels)
    coarse = rng.normal(size=(24, 24))
    rows = np.clip((grid.y + 1.2) / 2.4 * 23, 0, 23)
    columns = np.clip((grid.x + 1.2) / 2.4 * 23, 0, 23)
    texture = ndimage.map_coordinates(coarse, [rows, columns], order=1, mode="nearest")
    hila = 0.5 + 1.2 * np.exp(-(((np.abs(grid.x) - 0.25) / 0.15) ** 2 + (grid.y / 0.3) ** 2))
    result: Image = texture * hila
    return result


def _opacity(opacity: Opacity, grid: Grid, anatomy: Anatomy) -> Image:
    """A lesion's attenuation, kept to the lungs and a rim around them."""
    u, v = grid.x - opacity.x, grid.y - opacity.y
    along = (u * np.cos(opacity.angle) + v * np.sin(opacity.angle)) / opacity.aspect
    across = (v * np.cos(opacity.angle) - u * np.sin(opacity.angle)) * opacity.aspect
    blob = np.exp(-0.5 * (along**2 + across**2) / opacity.radius**2)
    result: Image = opacity.contrast * blob * (0.15 + 0.85 * _lungs(anatomy, grid))
    return result


def _line(grid: Grid, rng: np.random.Generator) -> Image:
    """A thin bright tube or electrode line across the chest."""
    slope, offset = rng.uniform(-0.8, 0.8), rng.uniform(-0.6, 0.6)
    bend = 0.15 * np.sin(grid.y * rng.uniform(1.0, 3.0) + rng.uniform(0.0, 6.3))
    result: Image = 0.16 * np.exp(-(((grid.x - offset - slope * grid.y - bend) / 0.02) ** 2))
    return result


def _expose(attenuation: Image, scanner: Scanner, rng: np.random.Generator) -> Image:
    """Blur, exposure curve, quantum noise and collimator: attenuation to brightness in [0, 1]."""
    rows, columns = attenuation.shape
    picture = ndimage.gaussian_filter(attenuation, scanner.blur * columns, mode="nearest")
    picture = np.clip(picture + rng.normal(0.0, 0.02), 0.0, 1.0) ** scanner.gamma
    grain = ndimage.gaussian_filter(rng.normal(size=picture.shape), columns / 160)
    # Quantum noise grows with the root of the photons; more of them arrive where the picture is
    # dark.
    picture += scanner.noise * np.sqrt(1.2 - picture) * grain / max(grain.std(), 1e-6)
    picture = scanner.black + (scanner.white - scanner.black) * picture
    border = [int(scanner.collimation * side * rng.uniform(0.4, 1.4)) for side in (rows, columns)]
    open_field = np.zeros(picture.shape, bool)
    open_field[border[0] : rows - border[0], border[1] : columns - border[1]] = True
    result: Image = np.clip(np.where(open_field, picture, scanner.collimator), 0.0, 1.0)
    return result
