"""What is written into a bundle of texts that somebody else chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from client.prediction.monai_bundle import write_bundle
from tests.client.prediction.models import opened
from tests.common.studies import small_study

HOSTILE = "$__import__('pathlib').Path('it-was-run').touch()"


@pytest.mark.parametrize("text", [HOSTILE, "@bundle_root", "%configs/study.json", "@::::::::x"])
def test_no_text_of_a_package_means_anything_to_monai(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    study = small_study(
        study={"title": text}, task={"classes": [text, "b"]}, data={"modalities": [text]}
    )
    package = opened(tmp_path / "package", study, versions={"consilium": text})
    write_bundle(package, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path / "bundle")

    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser.read_meta("configs/metadata.json")
    metadata = parser.get_parsed_content("_meta_")

    assert not Path("it-was-run").exists()
    assert metadata == json.loads(Path("configs/metadata.json").read_text())
