"""What is the same in every object: who made it, what it says of itself, and why it was not made.

UIDs are name-based UUIDs under 2.25 (PS3.5, B.2): the same package, images and predictions give the
same UIDs, so an archive recognises an object that it has already.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Final

RESEARCH: Final = "Research use only. Not for diagnosis or treatment."
"""What every object says of itself in words."""
MANUFACTURER: Final = "Consilium"
SCHEME: Final = "99CONSILIUM"
"""Coding Scheme Designator (0008,0102) of codes for a study's own words: 99 begins a private one
(PS3.16, 8.2)."""
LONGEST_NAME: Final = 64
"""Characters of an LO (PS3.5, 6.2)."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Unmade(Exception):  # noqa: N818 - a verdict on the images, not an error a person sees
    """No object can be made of these images or predictions.

    Args:
        reason: a sentence composed by this project, about "it" or "they": the images. Never a
            value from a file.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Maker:
    """The model that predicted, as objects name it. It says nothing of the hospital.

    Attributes:
        name: of the package, at most 64 characters.
        version: of Consilium.
        sha256: of the package, 64 hexadecimal digits.
        run: what tells one prediction from another of the same images; an object that differs must
            have a UID of its own.

    Raises:
        ValueError: one of them is none.
    """

    name: str
    version: str
    sha256: str
    run: str = ""

    def __post_init__(self) -> None:
        for text in (self.name, self.version):
            if not 0 < len(text) <= LONGEST_NAME or "\\" in text or not text.isprintable():
                raise ValueError(f"of 1 to {LONGEST_NAME} characters, without a backslash: {text}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("a package's SHA-256 has 64 hexadecimal digits in small letters")

    @property
    def parameters(self) -> str:
        """What tells this model from another of the same name."""
        return f"package_sha256={self.sha256}"

    @property
    def series_description(self) -> str:
        """Series Description (0008,103E)."""
        return f"Research use only: {self.name}"[:LONGEST_NAME]

    def uid(self, *parts: str | bytes) -> str:
        """A UID that follows from this model and the parts."""
        whole = hashlib.sha256()
        for part in (self.name, self.version, self.sha256, self.run, *parts):
            data = part.encode() if isinstance(part, str) else part
            whole.update(len(data).to_bytes(8, "big") + data)
        name = f"consilium/objects/{whole.hexdigest()}"
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def code_value(words: str) -> str:
    """The Code Value (0008,0100) of a study's words: 12 hexadecimal digits of their SHA-256.

    An SH has at most 16 characters (PS3.5, 6.2).
    """
    return hashlib.sha256(words.encode()).hexdigest()[:12].upper()
