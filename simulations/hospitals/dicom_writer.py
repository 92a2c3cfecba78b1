"""Writes one made-up image as a DICOM file (PS3.10), its pixels encoded by pydicom.

How a scanner stores grey values is described by :class:`Storage`. After rescale, window or VOI
LUT, and the inversion of MONOCHROME1 (PS3.3, C.11), a reader gets back the picture that was put
in, within the scanner's bits. The same arguments give the same bytes.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

Syntax = Literal["explicit", "implicit", "rle", "jpeg-ls", "jpeg-2000"]
Shown = Literal["as-stored", "window", "window-exact", "lookup"]
Picture = NDArray[np.float64]

SYNTAXES: Final[dict[Syntax, UID]] = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
STORAGE_CLASSES: Final[dict[str, UID]] = {
    "CR": ComputedRadiographyImageStorage,
    "CT": CTImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MR": MRImageStorage,
    "US": UltrasoundImageStorage,
}
"""SOP class of each modality; any other becomes a secondary capture."""

# Named: pydicom would otherwise take whichever plugin is installed, and the bytes would differ.
_ENCODERS: Final[dict[Syntax, str]] = {
    "rle": "pylibjpeg",
    "jpeg-ls": "pyjpegls",
    "jpeg-2000": "pylibjpeg",
}


@dataclass(frozen=True)
class Equipment:
    """The scanner's name plate. All names are made up.

    Attributes:
        manufacturer: Manufacturer (0008,0070).
        model: Manufacturer's Model Name (0008,1090).
        software: Software Versions (0018,1020).
        modality: Modality (0008,0060).
        body_part: Body Part Examined (0018,0015).
    """

    manufacturer: str
    model: str
    software: str
    modality: str
    body_part: str


@dataclass(frozen=True)
class Storage:
    """How a scanner stores a picture in [0, 1].

    Attributes:
        syntax: transfer syntax.
        bits: Bits Stored (0028,0101), 1 to 16.
        low, high: stored values of picture values 0 and 1.
        signed: Pixel Representation (0028,0103).
        inverted: MONOCHROME1: the stored values are turned over.
        slope, intercept: rescale; None leaves them out.
        shown: which VOI transformation the file carries.
        gamma: exponent of the VOI LUT, where there is one.
    """

    syntax: Syntax
    bits: int
    low: float
    high: float
    signed: bool = False
    inverted: bool = False
    slope: float | None = None
    intercept: float = 0.0
    shown: Shown = "as-stored"
    gamma: float = 1.0


@dataclass(frozen=True)
class Plane:
    """Where an axial slice lies in the patient (PS3.3, C.7.6.2). All lengths are mm.

    Attributes:
        spacing: between the middles of two rows, and of two columns.
        position: of the first pixel's middle: towards left, back and head.
        thickness: of the slice.
        frame: Frame of Reference UID, which the slices of a patient share.
    """

    spacing: tuple[float, float]
    position: tuple[float, float, float]
    thickness: float
    frame: str


@dataclass(frozen=True)
class Instance:
    """Which image of whom. Identifiers of made-up patients.

    Attributes:
        patient: Patient ID (0010,0020).
        study, series, instance: UIDs.
        date: Study Date, ``YYYYMMDD``.
        number: Instance Number.
        site: whose archive it is in.
        image_type: Image Type (0008,0008).
        burned_in: Burned In Annotation (0028,0301).
        comment: Image Comments (0020,4000).
        plane: where it lies, of a slice.
    """

    patient: str
    study: str
    series: str
    instance: str
    date: str
    number: int
    site: str
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY")
    burned_in: bool = False
    comment: str = ""
    plane: Plane | None = None


def uid(*parts: object) -> str:
    """A UID that follows from ``parts``: a name-based UUID under 2.25 (PS3.5, B.2)."""
    name = "/".join(["consilium", *(str(part) for part in parts)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def grey_dataset(
    instance: Instance, equipment: Equipment, storage: Storage, picture: Picture
) -> Dataset:
    """A grey image.

    Args:
        instance: whose it is.
        equipment: what took it.
        storage: how it is stored.
        picture: ``(rows, columns)`` in [0, 1], bright where it should be shown bright.

    Returns:
        The data set, encoded in ``storage.syntax``, with its file meta information.
    """
    dataset = _header(instance, equipment)
    dataset.PhotometricInterpretation = "MONOCHROME1" if storage.inverted else "MONOCHROME2"
    # The DX module requires it, and the photometric interpretation decides its value (PS3.3,
    # C.8.11.3).
    if equipment.modality == "DX":
        dataset.PresentationLUTShape = "INVERSE" if storage.inverted else "IDENTITY"
    _describe_grey(dataset, storage)
    return _with_pixels(dataset, stored_values(storage, picture), storage.bits, storage.syntax)


def byte_dataset(
    instance: Instance, equipment: Equipment, syntax: Syntax, pixels: NDArray[np.uint8]
) -> Dataset:
    """An image of bytes without a window: ``(rows, columns)``, or with a last axis of RGB."""
    dataset = _header(instance, equipment)
    colour = pixels.ndim == 3
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    return _with_pixels(dataset, pixels, 8, syntax)


def stored_values(storage: Storage, picture: Picture) -> NDArray[Any]:
    """What the file stores for a picture in [0, 1]: integers of the scanner's bits."""
    turned = 1.0 - picture if storage.inverted else picture
    if storage.shown == "lookup":
        # The VOI LUT in the file applies gamma, so what is stored is the inverse.
        turned = turned ** (1.0 / storage.gamma)
    values = np.rint(storage.low + (storage.high - storage.low) * turned)
    if storage.signed:
        least, most = -(2 ** (storage.bits - 1)), 2 ** (storage.bits - 1) - 1
    else:
        least, most = 0, 2**storage.bits - 1
    kind = ("i" if storage.signed else "u") + str(_bytes(storage.bits))
    return np.clip(values, least, most).astype(kind)


def to_bytes(dataset: Dataset) -> bytes:
    """The data set as a whole DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _bytes(bits: int) -> int:
    return 1 if bits <= 8 else 2


def _header(instance: Instance, equipment: Equipment) -> Dataset:
    """Everything but the image pixel module."""
    dataset = Dataset()
    dataset.SOPClassUID = STORAGE_CLASSES.get(equipment.modality, SecondaryCaptureImageStorage)
    dataset.SOPInstanceUID = instance.instance
    dataset.StudyInstanceUID = instance.study
    dataset.SeriesInstanceUID = instance.series
    # An SH has at most 16 characters (PS3.5, 6.2).
    dataset.StudyID = hashlib.sha256(instance.study.encode()).hexdigest()[:8].upper()
    dataset.SeriesNumber, dataset.InstanceNumber = 1, instance.number
    dataset.StudyDate = dataset.ContentDate = instance.date
    dataset.StudyTime = dataset.ContentTime = "120000"
    # Type 2 attributes must be present and may be empty (PS3.5, 7.4.3).
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.PatientID = instance.patient
    dataset.PatientName = "SYNTHETIC^PATIENT"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.InstitutionName = f"Synthetic hospital {instance.site}"
    dataset.Manufacturer, dataset.ManufacturerModelName = equipment.manufacturer, equipment.model
    dataset.SoftwareVersions, dataset.Modality = equipment.software, equipment.modality
    dataset.BodyPartExamined, dataset.PatientOrientation = equipment.body_part, ["L", "F"]
    dataset.ImageType = list(instance.image_type)
    dataset.BurnedInAnnotation = "YES" if instance.burned_in else "NO"
    if instance.comment:
        dataset.ImageComments = instance.comment
    if instance.plane:
        _describe_plane(dataset, instance.plane)
    return dataset


def _describe_plane(dataset: Dataset, plane: Plane) -> None:
    """An axial slice, seen from the feet."""
    dataset.PatientOrientation = ["L", "P"]
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = plane.frame, ""
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [f"{value:g}" for value in plane.position]
    dataset.PixelSpacing = [f"{value:g}" for value in plane.spacing]
    dataset.SliceThickness = f"{plane.thickness:g}"


def _describe_grey(dataset: Dataset, storage: Storage) -> None:
    """Rescale, window and VOI LUT such that a reader ends at the picture."""
    slope, intercept = 1.0, 0.0
    if storage.slope is not None:
        slope, intercept = storage.slope, storage.intercept
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:g}", f"{intercept:g}"
        # Unspecified units (PS3.3, C.11.1.1.2).
        dataset.RescaleType = "US"
    low, high = storage.low * slope + intercept, storage.high * slope + intercept
    if storage.shown == "window":
        # PS3.3, C.11.2.1.2.1: LINEAR maps centre - 0.5 to the middle of width - 1.
        # Two windows, as real files have them: a reader that takes another than the first is wrong.
        wide = (high - low) * 1.4
        # A DS has at most 16 characters (PS3.5, 6.2), which :g keeps to.
        dataset.WindowCenter = [f"{(low + high + 1) / 2:g}", f"{(low + high + 1) / 2:g}"]
        dataset.WindowWidth = [f"{high - low + 1:g}", f"{wide + 1:g}"]
        dataset.WindowCenterWidthExplanation = ["NORMAL", "WIDE"]
    elif storage.shown == "window-exact":
        dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:g}", f"{high - low:g}"
        dataset.VOILUTFunction = "LINEAR_EXACT"
    elif storage.shown == "lookup":
        dataset.VOILUTSequence = [_lookup(storage)]


def _lookup(storage: Storage) -> Dataset:
    """A VOI LUT with 12-bit entries (PS3.3, C.11.2.1.1) that undoes :func:`stored_values`."""
    entries = 2**storage.bits
    places = (np.arange(entries) - storage.low) / (storage.high - storage.low)
    values = np.rint(4095 * np.clip(places, 0.0, 1.0) ** storage.gamma).astype("<u2")
    item = Dataset()
    # A 16-bit field: 65536 entries are written as 0 (PS3.3, C.11.1.1.1).
    item.add_new("LUTDescriptor", "US", [entries % 65536, 0, 12])
    item.LUTExplanation = "CHEST"
    item.add_new("LUTData", "OW", values.tobytes())
    return item


def _with_pixels(
    dataset: Dataset, values: NDArray[np.integer[Any]], bits: int, syntax: Syntax
) -> Dataset:
    """Add the image pixel module (PS3.3, C.7.6.3), encoded as ``syntax`` says."""
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.file_meta = FileMetaDataset()
    if syntax in _ENCODERS:
        dataset.compress(
            SYNTAXES[syntax],
            values,
            encoding_plugin=_ENCODERS[syntax],
            # The label file names this UID; pydicom would draw a new one.
            generate_instance_uid=False,
        )
        return dataset
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    # Implicit VR always has OW (PS3.5, A.1); explicit VR may have OB for 8-bit pixels (A.2).
    dataset.add_new("PixelData", "OB" if bits <= 8 and syntax == "explicit" else "OW", data)
    # The length of every value is even (PS3.5, 7.1).
    if len(data) % 2:
        dataset.PixelData = data + b"\0"
    return dataset
