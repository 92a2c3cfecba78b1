"""``local.json``: what ``evaluate`` measured at a hospital and ``predict`` uses there.

It follows from the hospital's patients without any noise, so it must not leave; only the owner
can read it, and the file says so itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from client.prediction.limits import Profile
from common.errors import PackageError, of_system
from common.files import write_atomic
from common.package.package import Package
from common.settings import Section
from common.text import Digest

FILE: Final = "local.json"
_MOST: Final = 2**24


class Local(Section):
    """What was measured. Sensitive.

    Attributes:
        about: what a person must know of this file.
        weights: SHA-256 of the model's weights.
        study: SHA-256 of its study, which says what a score means.
        alpha: share of patients whose set of answers may miss the truth.
        threshold: that sets are made by; None where there are none.
        patients: on whom it was measured.
        profile: what the hospital's images are like.
    """

    about: str = "Measured on this hospital's patients, without noise: it must not leave."
    weights: Digest
    study: Digest
    alpha: float = Field(gt=0, lt=1)
    threshold: float | None
    patients: int
    profile: Profile


def write_local(folder: Path, local: Local) -> Path:
    """Write the file."""
    path = folder / FILE
    write_atomic(path, local.model_dump_json(indent=2).encode() + b"\n", mode=0o600)
    return path


def read_local(path: Path, package: Package) -> Local:
    """Read the file for a package.

    Raises:
        PackageError: it cannot be read, or was measured with another model.
    """
    try:
        with path.open("rb") as file:
            found = Local.model_validate_json(file.read(_MOST))
    except OSError as cause:
        raise of_system(cause, PackageError, where=path) from cause
    except ValidationError as cause:
        raise PackageError(
            "this is not what `consilium-site evaluate` wrote",
            where=path,
            wanted=f"{FILE} of its --out folder",
            remedy="evaluate the package again",
        ) from cause
    said = package.statement
    if (found.weights, found.study) != (said.weights, said.study):
        raise PackageError(
            "this was measured with another model",
            where=path,
            found=f"weights {found.weights[:16]}, study {found.study[:16]}",
            wanted=f"weights {said.weights[:16]}, study {said.study[:16]}, as in the package",
            remedy="evaluate this package: consilium-site evaluate PACKAGE",
        )
    return found
