"""What a mask file is, and what its marks mean in a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from client.data.label_files.spelling import class_of, simple_label

Kind = Literal["seg", "nifti", "png"]
Meaning = int | str
"""What a file calls a layer: a pixel value, or the label of a segment."""

BACKGROUND: Final = "background"
"""What a site says of a layer that is of no class."""


@dataclass(frozen=True)
class MaskFolder:
    """Where a site keeps masks, and what they say.

    Args:
        path: the folder, which is read recursively.
        meanings: by pixel value or label of a segment: the class, or ``background``.
    """

    path: Path
    meanings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class MaskFile:
    """A file that holds masks.

    Attributes:
        file: where it is. Sensitive: a name may hold a patient's.
        path: relative to the folder of masks, with ``/``. Sensitive.
        sha256: of the content, 64 hexadecimal digits. Sensitive.
        kind: told by the content.
        patient: PatientID of a DICOM SEG. Sensitive.
        instances: SOPInstanceUIDs of the images that a DICOM SEG is of. Sensitive.
    """

    file: Path = field(repr=False)
    path: str = field(repr=False)
    sha256: str = field(repr=False)
    kind: Kind
    patient: str = field(default="", repr=False)
    instances: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def shown(self) -> str:
        """Its path as a person finds it: with the name of its folder."""
        return shown(self.file, self.path)


def shown(file: Path, path: str) -> str:
    """A path below a folder, with the name of the folder."""
    above = file.parts[-1 - len(Path(path).parts) : -len(Path(path).parts)]
    return "/".join((*above, path))


@dataclass(frozen=True)
class MaskRules:
    """Which class a layer of a mask is.

    Args:
        classes: the study's, in its order: class k of them is k + 1 in a decoded mask.
        meanings: what the site says of its files, sorted.
    """

    classes: tuple[str, ...]
    meanings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, folder: MaskFolder, classes: tuple[str, ...]) -> MaskRules:
        """What a site says of its masks, for a study."""
        return cls(classes, tuple(sorted(folder.meanings.items())))

    def name(self, meaning: Meaning) -> str | None:
        """What a layer is called, in the site's words; None where a value has no name.

        Without a word of the site, the label of a segment is a name, and the value k is the k-th
        class. Where the site explains any value, others mean nothing.
        """
        spelt = simple_label(str(meaning))
        given = [name for key, name in self.meanings if simple_label(key) == spelt]
        if given:
            return given[0] if len(set(given)) == 1 else None
        if isinstance(meaning, str):
            return meaning
        return None if self.explains or not self._has(meaning) else self.classes[meaning - 1]

    @property
    def explains(self) -> bool:
        """Whether the site says what values mean, so that others are mistakes."""
        return any(key.strip().isdecimal() for key, _ in self.meanings)

    def place(self, meaning: Meaning) -> int | None:
        """The value of a layer in a decoded mask; None where it is no class of the study."""
        name = self.name(meaning)
        if name is None:
            return None
        if simple_label(name) == BACKGROUND and BACKGROUND not in self.classes:
            return 0
        index = class_of(name, self.classes)
        return None if index is None else index + 1

    def _has(self, value: int) -> bool:
        return 1 <= value <= len(self.classes)
