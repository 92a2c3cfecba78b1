"""Another project's parser, dcmjs, reads in an object what was written into it.

It runs where Node is installed and ``CONSILIUM_NODE_MODULES``, or ``NODE_PATH``, names a folder
with the package: ``npm install dcmjs`` makes one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.objects.capture import capture
from client.objects.report import report
from client.objects.segmentation import segmentation
from common.scores.finding import Finding
from tests.client.objects.object_files import (
    CLASSES,
    MAKER,
    NAMES,
    WHEN,
    image,
    many_frames,
    marks,
    named,
    series,
    written,
)

SCRIPT = Path(__file__).with_name("read_back.mjs")


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where Node finds dcmjs."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    named_folders = (os.environ.get(each, "") for each in ("CONSILIUM_NODE_MODULES", "NODE_PATH"))
    for each in ":".join(filter(None, named_folders)).split(":"):
        if each and (Path(each) / "dcmjs" / "package.json").is_file():
            return Path(each)
    pytest.skip("no folder in CONSILIUM_NODE_MODULES or NODE_PATH has dcmjs (npm install dcmjs)")


def read_back(modules: Path, folder: Path, *datasets: Dataset) -> list[dict[str, Any]]:
    paths = [written(each, folder / f"{number}.dcm") for number, each in enumerate(datasets)]
    said = subprocess.run(
        ["node", str(SCRIPT), str(modules), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    found: list[dict[str, Any]] = json.loads(said.stdout.splitlines()[-1])
    return found


def identifiers(dataset: Dataset, sources: list[Dataset]) -> dict[str, Any]:
    return {
        "patient": "P-0042",
        "study": sources[0].StudyInstanceUID,
        "series": dataset.SeriesInstanceUID,
        "instance": dataset.SOPInstanceUID,
        "instances": sorted(each.SOPInstanceUID for each in sources),
    }


def test_segments_have_the_labels_and_as_many_pixels_as_were_written(
    modules: Path, tmp_path: Path
) -> None:
    kinds: list[list[Dataset]] = [series("CT"), [many_frames()], [image("DX", plane=False)]]
    made, wanted = [], []
    for sources in kinds:
        frames = sum(int(each.get("NumberOfFrames", 1)) for each in sources)
        masks = marks(frames)
        dataset = segmentation(sources, masks, CLASSES, MAKER, when=WHEN)
        assert dataset is not None
        made.append(dataset)
        counts = [int(np.count_nonzero(masks == value)) for value in (1, 2, 3)]
        wanted.append(
            {
                **identifiers(dataset, sources),
                "frameOfReference": sources[0].get("FrameOfReferenceUID"),
                "segments": [
                    {"number": number, "label": label, "pixels": count}
                    for number, (label, count) in enumerate(zip(CLASSES, counts, strict=True), 1)
                ],
            }
        )

    found = read_back(modules, tmp_path, *made)

    assert [
        {key: each[key] for key in expected} for each, expected in zip(found, wanted, strict=True)
    ] == wanted


def test_findings_have_the_names_scores_and_units_that_were_written(
    modules: Path, tmp_path: Path
) -> None:
    sources = series("MR")
    findings = [
        Finding("pneumonia", 0.83, present=True, threshold=0.5),
        Finding("Erguß 胸水", 0.125, present=False),
        Finding("age", 63.25, unit="years"),
    ]
    dataset = report(sources, findings, MAKER, when=WHEN)

    (found,) = read_back(modules, tmp_path, dataset)

    assert found["findings"] == [
        {"name": "pneumonia", "score": 0.83, "unit": "1", "present": "Present"},
        {"name": "Erguß 胸水", "score": 0.125, "unit": "1", "present": "Absent"},
        {"name": "age", "score": 63.25, "unit": "{years}", "present": None},
    ]
    wanted = identifiers(dataset, sources)
    assert {key: found[key] for key in wanted} == wanted


def test_patients_have_the_names_that_were_written_in_any_script(
    modules: Path, tmp_path: Path
) -> None:
    picture = np.zeros((5, 4, 3), np.uint8)
    made = [
        capture(named(image("CT"), script), picture, MAKER, "overlay", when=WHEN)
        for script in NAMES
    ]

    found = read_back(modules, tmp_path, *made)

    assert [each["name"] for each in found] == [name.rstrip("=") for _, name in NAMES.values()]
    assert [each["bytes"] for each in found] == [picture.nbytes] * len(NAMES)
