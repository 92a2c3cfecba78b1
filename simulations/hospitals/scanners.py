"""The four scanners of the synthetic hospitals: name plate, look, and how they store.

The looks differ in exposure, contrast, blur, noise, collimation and in how an opacity
shows, so that a model that has seen one hospital does less well at the others. Every name
is made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from client.data.labels import Key
from simulations.hospitals.dicom_writer import Equipment, Storage
from simulations.hospitals.phantom import Scanner


@dataclass(frozen=True)
class SyntheticHospital:
    """What is special about one synthetic hospital.

    Attributes:
        name: of the site.
        look: what its scanner makes of a chest.
        equipment: the scanner's name plate.
        storages: ways to store, taken in turn from patient to patient.
        scale: rows and columns of an image, as multiples of the size asked for.
        prevalence: share of patients with pneumonia.
        key: what a row of its label file is about.
        paths: how its archive names files; see :class:`simulations.hospitals.synth.Visit`.
    """

    name: str
    look: Scanner
    equipment: Equipment
    storages: tuple[Storage, ...]
    scale: tuple[float, float]
    prevalence: float
    key: Key
    paths: str


NORTH: Final = SyntheticHospital(
    name="north",
    look=Scanner(
        contrast=0.42,
        lesion_size=0.13,
        lesions=(1, 3),
        left=0.75,
        level=-0.25,
        noise=0.045,
        blur=0.006,
        gamma=0.80,
        black=0.25,
        white=1.0,
        collimation=0.0,
        collimator=0.0,
        ribs=0.08,
        # Here and at west, ill patients are more often pictured in bed: a shortcut for a model.
        bedside=(0.10, 0.50),
    ),
    equipment=Equipment("Exampla Imaging", "Aurora CR-1", "EI 3.1", "CR", "CHEST"),
    storages=(Storage("explicit", 12, low=200, high=3700, shown="window"),),
    scale=(1.0, 1.0),
    prevalence=0.35,
    key="SOPInstanceUID",
    paths="{study}/{instance}.dcm",
)
EAST: Final = SyntheticHospital(
    name="east",
    look=Scanner(
        contrast=0.34,
        lesion_size=0.17,
        lesions=(1, 2),
        left=0.25,
        level=0.30,
        noise=0.05,
        blur=0.018,
        gamma=0.75,
        black=0.10,
        white=0.90,
        collimation=0.05,
        collimator=0.98,
        ribs=0.06,
        # The other way round: a model that has learned the bed fails here.
        bedside=(0.50, 0.20),
    ),
    equipment=Equipment("Fictiva Medical", "Meridian DX", "8.0.2", "DX", "CHEST"),
    # MONOCHROME1: a reader that ignores it sees negatives.
    storages=(Storage("implicit", 10, low=60, high=960, inverted=True),),
    scale=(1.125, 1.0),
    prevalence=0.55,
    key="PatientID",
    # No file extension, as on DICOM media (PS3.10, 8.2): a reader must look inside.
    paths="{patient}/ST{visit:03d}/IM{number:03d}",
)
SOUTH: Final = SyntheticHospital(
    name="south",
    look=Scanner(
        contrast=0.48,
        lesion_size=0.10,
        lesions=(1, 4),
        left=0.75,
        level=0.30,
        noise=0.045,
        blur=0.003,
        gamma=1.35,
        black=0.0,
        white=1.0,
        collimation=0.0,
        collimator=0.0,
        ribs=0.12,
        bedside=(0.10, 0.10),
    ),
    equipment=Equipment("Placebo Radiography", "Sol DX 900", "sol-4.7", "DX", "CHEST"),
    storages=(
        Storage(
            "jpeg-2000",
            16,
            low=-20000,
            high=20000,
            signed=True,
            slope=0.5,
            intercept=10000,
            shown="window-exact",
        ),
    ),
    scale=(1.5, 1.5),
    prevalence=0.45,
    key="filename",
    paths="cxr_{serial:05d}_{number}.dcm",
)
WEST: Final = SyntheticHospital(
    name="west",
    look=Scanner(
        contrast=0.40,
        lesion_size=0.15,
        lesions=(1, 3),
        left=0.25,
        level=-0.25,
        noise=0.06,
        blur=0.012,
        gamma=1.0,
        black=0.05,
        white=0.65,
        collimation=0.07,
        collimator=0.02,
        ribs=0.08,
        bedside=(0.30, 0.60),
    ),
    equipment=Equipment("Specimen Systems", "Vesper CR", "2.9-B", "CR", "CHEST"),
    storages=(
        # Two ways to store in one archive, as after a software update.
        Storage("rle", 8, low=0, high=255, shown="lookup", gamma=1.4),
        Storage("jpeg-ls", 8, low=0, high=255, shown="lookup", gamma=1.4),
    ),
    scale=(1.0, 1.0),
    prevalence=0.65,
    key="StudyInstanceUID",
    paths="{year}/{month:02d}/{serial:05d}/{number}.ima",
)
FOUR: Final = (NORTH, EAST, SOUTH, WEST)


def site_names(count: int) -> tuple[str, ...]:
    """Names of ``count`` sites: the four winds, then numbers."""
    names = [hospital.name for hospital in FOUR]
    return tuple([*names, *(f"site-{number:02d}" for number in range(5, count + 1))][:count])


def hospitals(count: int) -> Iterator[tuple[str, SyntheticHospital]]:
    """``count`` sites and what is special about each: the four in turn."""
    return zip(site_names(count), islice(cycle(FOUR), count), strict=True)
