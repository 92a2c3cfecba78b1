"""What can be chosen of an audit on a command line; imports nothing that takes time."""

from __future__ import annotations

from enum import StrEnum


class Which(StrEnum):
    """One of the two audits."""

    ONE_RUN = "one-run"
    MECHANISM = "mechanism"


class CanaryKind(StrEnum):
    """What the canaries of the one-run audit look like.

    ``pattern``: bright and dark gratings that no scanner makes, labelled at random.
    ``mislabelled``: an image of the kept-apart test set with another class.
    """

    PATTERN = "pattern"
    MISLABELLED = "mislabelled"
