"""What a study may say in words: names, and lines that are read by a person."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from common.visible import is_steering

HASH_DIGITS: Final = 8
"""Digits of a plan's hash that are enough to name the plan in a command."""


def _slug(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text) is None:
        raise ValueError("should be 1 to 63 lower-case letters, digits and hyphens")
    return text


def reads_as_hash(text: str) -> bool:
    """Whether a text is taken for the beginning of a plan's hash, and so never for a name."""
    return re.fullmatch(rf"[0-9a-fA-F]{{{HASH_DIGITS},64}}", text) is not None


def _no_hash(text: str) -> str:
    if reads_as_hash(text):
        raise ValueError(
            f"should not look like a plan's hash: {HASH_DIGITS} or more characters, all 0-9 or a-f"
        )
    return text


def _words(text: str) -> str:
    if not 1 <= len(text) <= 200 or any(map(is_steering, text)):
        raise ValueError("should be one line of 1 to 200 characters, none a control character")
    return text


Slug = Annotated[str, AfterValidator(_slug)]
StudyName = Annotated[Slug, AfterValidator(_no_hash)]
"""A plan may be named by the first digits of its hash: no study may be called so."""
Words = Annotated[str, AfterValidator(_words)]
"""Text that is shown to the person who approves a plan: it is read as it is written."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in hexadecimal digits."""
