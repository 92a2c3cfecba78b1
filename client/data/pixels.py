"""The pixels of a DICOM file: decoded as pydicom does, then brought to [0, 1].

Grey images take the way of :mod:`client.data.display.greyscale`. Colour is taken as it is over the
range of its bits: palettes are looked up and YBR is turned into RGB (PS3.3, C.7.6.3.1).
Every frame of a file is an image of its own. A header is read by
:mod:`client.data.display.elements`; what contradicts it is a verdict, as is a file of which nothing
can be seen.

An image comes to the study's size in :mod:`client.data.display.placement`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
)

from client.data.dicom import NO_VERDICT, PIXELS, Reason, Unusable, translated
from client.data.display.agreement import require_length, require_shape, used_bits
from client.data.display.elements import (
    DESCRIPTORS,
    PALETTES,
    SEGMENTED,
    Layout,
    Module,
    reject,
    signed_as,
)
from client.data.display.greyscale import Greyscale
from client.data.display.lookup import Lookup, Values, lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

    Pipeline = Callable[[int], NDArray[np.float32]]

MOST_PIXELS: Final = 2**26
"""Of a frame: 8192 x 8192, twice the largest detector's."""
MOST_FRAMES: Final = 4096
"""Of a file."""
MOST_DECODED: Final = 2**30
"""Bytes of a file's pixels as stored, decoded: 1 GiB."""

_NATIVE: Final = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_PLAIN: Final = ("MONOCHROME1", "MONOCHROME2", "RGB")
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_LUMA: Final = (0.299, 0.587, 0.114)


def images(dataset: Dataset) -> Iterator[NDArray[np.float32]]:
    """Every frame, ``(rows, columns)`` or ``(rows, columns, 3)``, float32 in [0, 1].

    Raises:
        Unusable: undecodable, or of a kind that no display knows.
    """
    stored, layout = stored_values(dataset)
    with translated("reading its lookup tables"):
        axes = 3 if layout.samples > 1 else 2
        frames = stored.reshape(-1, *stored.shape[-axes:])
        shown = _pipeline(dataset, frames, layout)
    blank = True
    for frame in range(len(frames)):
        # Yielded outside: an exception of the caller must not become a verdict on the file.
        with translated("applying its window"):
            image = shown(frame)
            blank = blank and bool((image == image[0, 0]).all())
        yield image
    # Of all frames: a volume may begin and end with empty ones.
    if blank:
        raise Unusable(Reason.BLANK, "all its pixels come out as one and the same value")


def is_plain(dataset: Dataset) -> bool:
    """Whether pixels are numbers that NumPy reads as they stand: no decoder, no palette.

    Then whatever is wrong with them is an exception, and they take memory in proportion to
    the file.
    """
    syntax, colours = dataset.file_meta.get("TransferSyntaxUID"), "PhotometricInterpretation"
    return syntax in _NATIVE and dataset.get(colours) in _PLAIN


def to_channels(image: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """An image ``(h, w)`` or ``(h, w, 3)`` as ``(channels, h, w)``; channels are 1 or 3.

    Grey fills three channels alike; colour becomes luminance (ITU-R BT.601).
    """
    if image.ndim == 2:
        return np.repeat(image[np.newaxis], channels, axis=0)
    if channels == 3:
        return np.ascontiguousarray(np.moveaxis(image, -1, 0))
    red, green, blue = (weight * image[..., i] for i, weight in enumerate(_LUMA))
    return np.asarray(red + green + blue, dtype=np.float32)[np.newaxis]


def stored_values(dataset: Dataset) -> tuple[Values, Layout]:
    """The pixels as stored, before any lookup or window: what ``dataset.pixel_array`` gives.

    Returns:
        ``(rows, columns)`` or ``(frames, rows, columns)``, with a last axis of samples for colour,
        in the number type of the file; and how they are stored: YBR is already RGB.

    Raises:
        Unusable: undecodable, or the header contradicts itself or the pixels.
    """
    with translated("looking for its transfer syntax"):
        syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Unusable(Reason.UNDECODABLE, "the transfer syntax (0002,0010) is missing")
    with translated("reading its header"):
        module = Module(dataset)
        layout = Layout.of(module, integer="PixelData" in dataset)
        _refuse_giants(layout)
    with translated(f"decoding {_shown_syntax(syntax)}"):
        data = next(dataset[keyword].value for keyword in PIXELS if keyword in dataset)
        if syntax in _NATIVE:
            require_length(data, layout)
        else:
            require_shape(data, layout, syntax)
        stored, properties = _decoded(dataset, syntax, layout.photometric)
        decoded = replace(layout, photometric=str(properties["photometric_interpretation"]))
        stored = used_bits(stored, module, decoded)
    return stored, decoded


def _decoded(
    dataset: Dataset, syntax: str, photometric: str
) -> tuple[Values, dict[str, str | int]]:
    """What pydicom's choice of a decoder gives; if it fails in any way, what another one gives."""
    decoder = get_decoder(syntax)
    if syntax in JPEG2000TransferSyntaxes:
        _refuse_endless(dataset.PixelData)
    failure: BaseException | None = None
    # By itself pydicom goes on to the next decoder after an Exception, but not after the panic of a
    # decoder in Rust, nor where the pixels are too few or too many.
    for plugin in ("", *decoder.available_plugins):
        try:
            # Spelt as the decoders know it: some files have it in small letters.
            return decoder.as_array(
                dataset,
                decoding_plugin=plugin,
                photometric_interpretation=photometric,  # type: ignore[arg-type]  # pydicom says of each option what is true of all of them
                # Here bits that belong to no value must be seen; colours are turned without them.
                correct_unused_bits=photometric.startswith("YBR"),  # type: ignore[arg-type]  # as above
            )
        except NO_VERDICT:
            raise
        except BaseException as error:  # noqa: BLE001 - raised below, if no other decoder reads it
            failure = failure or error
    assert failure is not None
    raise failure


def _refuse_endless(pixels: bytes) -> None:
    """Refuse a JP2 header (ISO/IEC 15444-1, Annex I) in which pydicom would go round for ever.

    It goes from box to box by their lengths, and stays where that is 0.
    """
    start, seen = pixels.find(_JP2), set[int]()
    while start >= 0:
        at = start
        # Boxes that another header led to already are not followed again: with many headers in one
        # chain that would take hours.
        while at not in seen and pixels[at + 4 : at + 8] not in (b"jp2c", b""):
            seen.add(at)
            length = int.from_bytes(pixels[at : at + 4], "big")
            if not length:
                raise Unusable(Reason.UNDECODABLE, "a box of its JPEG 2000 header has no length")
            at += length
        start = pixels.find(_JP2, start + 1)


def _refuse_giants(layout: Layout) -> None:
    """Hold what the header claims against what is opened at most, before any of it is made."""
    # From the header, before memory is allocated: a file of a few bytes can claim 65535 x 65535.
    pixels = layout.rows * layout.columns
    if pixels > MOST_PIXELS:
        raise Unusable(Reason.TOO_LARGE, f"a frame has more than {MOST_PIXELS >> 20} MiPixels")
    if layout.frames > MOST_FRAMES:
        raise Unusable(Reason.TOO_LARGE, f"more than {MOST_FRAMES} frames")
    if pixels * layout.frames * layout.samples * layout.allocated > 8 * MOST_DECODED:
        raise Unusable(Reason.TOO_LARGE, f"more than {MOST_DECODED >> 20} MiB of pixels")


def _pipeline(dataset: Dataset, frames: Values, layout: Layout) -> Pipeline:
    """What turns a frame, named by its index, into an image."""
    module, little_endian = Module(dataset), dataset.file_meta.TransferSyntaxUID.is_little_endian
    if layout.photometric == "PALETTE COLOR":
        tables = _palette(dataset, module, layout, little_endian=little_endian)
        top = _white(tables)
        return lambda frame: _scaled(
            np.stack([table(frames[frame]) for table in tables], axis=-1), 0, top
        )
    if layout.samples == 1:
        return Greyscale(module, layout, frames, little_endian=little_endian).image
    return lambda frame: _scaled(frames[frame], *layout.limits)


def _palette(
    dataset: Dataset, module: Module, layout: Layout, *, little_endian: bool
) -> list[Lookup]:
    """The tables of red, green and blue."""
    if any(map(module.has, SEGMENTED)) and not any(map(module.has, PALETTES)):
        return _segmented(dataset, module, layout)
    return [
        lookup(module, place, data, little_endian=little_endian, signed=layout.signed)
        for place, data in zip(DESCRIPTORS, PALETTES, strict=True)
    ]


def _segmented(dataset: Dataset, module: Module, layout: Layout) -> list[Lookup]:
    """Segmented tables (PS3.3, C.7.9.2) are a small program to unpack: pydicom does that."""
    descriptor, *others = map(module.numbers, DESCRIPTORS)
    if any(other != descriptor for other in others):
        reject(DESCRIPTORS[0], "is not that of green and blue")
    count, first, bits = map(int, descriptor)
    # In tables of bytes pydicom's own places are bytes, too.
    if bits not in (8, 16) or not 0 <= count <= 2**bits or (count == 0 and bits == 8):
        reject(DESCRIPTORS[0], "is not one that is supported")
    count = count or 2**16
    # Asked at the stored first value, whatever its sign, and then placed where its sign belongs.
    colours = apply_color_lut(np.arange(first, first + count), dataset)
    first = int(signed_as(first, signed=layout.signed))
    return [Lookup(colours[:, colour].astype(np.float64), first, bits) for colour in range(3)]


def _white(tables: list[Lookup]) -> float:
    """The entry of a palette that is white.

    Not its highest: one without bright colours is meant to be dark. But bytes may be said to be
    of 16 bits.
    """
    bits = max(table.bits for table in tables)
    most = max(float(table.entries.max()) for table in tables)
    return 2.0**8 - 1 if bits > 8 and most < 2**8 else max(2.0**bits - 1, most)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return scaled.astype(np.float32)


def _shown_syntax(syntax: Any) -> str:  # noqa: ANN401 - pydicom's UID, which mypy sees as str
    """A transfer syntax by its registered name; the rest is a file's own text and not shown."""
    name = str(syntax.name)
    return name if name != str(syntax) else "an unknown transfer syntax"
