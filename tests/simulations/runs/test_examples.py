"""Which test patients a report shows, and what of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from client.data.cohort import Patient
from simulations.reports.overlays import FILE, Examples
from simulations.runs.examples import SHOWN, Looked
from simulations.runs.testset import Mapped, TestSet
from tests.common.studies import study_of

STUDY = study_of("segmentation", task={"classes": ["lesion"]})
SIDE, PATIENTS = 8, 13


def mapped(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Mapped:
    values.tofile(path)
    return Mapped.of(np.memmap(path, values.dtype, "r", 0, values.shape))


def made(folder: Path) -> tuple[TestSet, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Two images a patient, the second with the larger mask; of patient n, n rows are found."""
    masks = np.zeros((2 * PATIENTS, SIDE, SIDE), dtype=np.uint8)
    masks[0::2, :1], masks[1::2] = 1, 1
    images = np.arange(2 * PATIENTS, dtype=np.float16).reshape(-1, 1, 1, 1) / 100
    patients = tuple(
        Patient(f"{n:064x}", 0, (2 * n, 2 * n + 1), f"{n:064x}") for n in range(PATIENTS)
    )
    outputs, targets = [], []
    for number in range(PATIENTS):
        found = np.zeros((2, SIDE, SIDE), dtype=np.int64)
        found[1, : min(number, SIDE)] = 1
        logits = functional.one_hot(torch.from_numpy(found), 1 + len(STUDY.task.classes))
        outputs.append(10.0 * logits.permute(0, 3, 1, 2).float())
        targets.append(torch.from_numpy(masks[2 * number : 2 * number + 2].astype(np.int64)))
    everyone = images * np.ones((1, 1, SIDE, SIDE), dtype=np.float16)
    test = TestSet(mapped(folder / "i", everyone), patients, mapped(folder / "m", masks))
    return test, list(zip(outputs, targets, strict=True))


def test_patients_are_shown_from_the_worst_to_the_best(tmp_path: Path) -> None:
    test, given = made(tmp_path)
    looked = Looked(test)
    exact = STUDY.task.exact(looked.at(iter(given)))
    looked.keep(tmp_path, exact.each["dice"])
    found = Examples.load(tmp_path / FILE)
    assert found is not None
    assert len(found.values) == SHOWN
    assert found.values[0] == 0.0
    assert list(found.values) == sorted(found.values)
    assert found.truth.all(), "the image in which the mask is largest"
    rows = np.rint(found.images[:, 0, 0] * 100).astype(int)
    assert (rows % 2 == 1).all()
    assert found.found[0].sum() == 0
    assert [each.sum() / SIDE for each in found.found] == [min(row // 2, SIDE) for row in rows]


def test_without_masks_there_is_nothing_to_show(tmp_path: Path) -> None:
    test, given = made(tmp_path)
    looked = Looked(TestSet(test.images, test.patients))
    assert [*looked.at(iter(given))] == given
    assert looked.examples([[0.5] * PATIENTS]) is None


def test_a_patient_without_a_figure_is_not_shown(tmp_path: Path) -> None:
    test, given = made(tmp_path)
    looked = Looked(test)
    (values,) = STUDY.task.exact(looked.at(iter(given))).each["dice"]
    found = looked.examples([[None, *values[1:]]])
    assert found is not None
    assert found.values[0] > 0.0
    assert looked.examples([[None] * PATIENTS]) is None
