"""Every DICOM file at hand is used and right, or rightly rejected; the page says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.dicom import Reason
from tests.dicom_files import FOLDERS, Outcome, expected, outcomes, page, speed_in


@pytest.fixture(scope="module")
def shipped() -> list[Outcome]:
    return list(outcomes(FOLDERS["pydicom"]))


@pytest.fixture(scope="module")
def varied(shared_data: Path) -> list[Outcome]:
    return list(outcomes(shared_data / "dicom_varied"))


def require_right(folder: str, found: list[Outcome]) -> None:
    rejected = {each.name: each.reason for each in found if each.reason is not None}
    unlike = [
        each for each in found if each.reason in (None, Reason.NO_PATIENT_ID) and not each.equal
    ]

    assert rejected == {name: reason for name, (reason, _) in expected()[folder].items()}
    assert unlike == []


@pytest.mark.long
def test_pydicoms_files_are_used_and_right_or_rightly_rejected(shipped: list[Outcome]) -> None:
    require_right("pydicom", shipped)


@pytest.mark.long
def test_varied_files_are_used_and_right_or_rightly_rejected(varied: list[Outcome]) -> None:
    require_right("varied", varied)


@pytest.mark.long
def test_the_page_is_what_is_found(
    root: Path, shipped: list[Outcome], varied: list[Outcome]
) -> None:
    written = (root / "docs" / "dicom.md").read_text()

    found = {"pydicom": shipped, "varied": varied}
    assert written == page(found, speed_in(written)), "run make pages"
