"""What is found wrong before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import SiteError
from common.study.study_file import load_study
from simulations.archives.manifest import read_hospitals
from simulations.runs import preflight
from tests.integration.conftest import study_text, write_hospitals


def test_a_range_of_a_policy_forbids_a_study_before_an_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hospitals(tmp_path / "hospitals")
    hospitals = read_hospitals(tmp_path / "hospitals")
    file = hospitals.site_file(hospitals.sites[0])
    text = file.read_text() + "\n[policy.ranges]\nrounds = [500, 501]\n"
    file.write_text(text)
    study = tmp_path / "study.toml"
    study.write_text(study_text())
    monkeypatch.setattr(preflight, "examine", lambda *_, **__: pytest.fail("an image was read"))

    with pytest.raises(SiteError, match=r"policy forbids the study") as refused:
        preflight.check_study(load_study(study), hospitals)

    assert "[policy.ranges] rounds" in str(refused.value)
