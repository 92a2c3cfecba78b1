"""Each way to divide patients: nobody is lost, nobody is at two hospitals, and what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import DataError, StudyError
from simulations.partitions.partition import Partition, Subjects
from simulations.partitions.partitions import PARTITIONS, partitioning

LABELS = np.repeat([0, 1, 2], [300, 200, 100])
IMAGES = np.random.default_rng(0).integers(0, 256, (600, 4, 4)).astype(np.uint8)
PLACES = np.array(["St. Mary's", "Old Town", "Old Town"])[np.arange(600) % 3]
SUBJECTS = Subjects(LABELS, IMAGES, PLACES)
OWN = """
def divide(labels, images, sites, rng):
    order = rng.permutation(len(labels))
    return [order[number::sites] for number in range(sites)]
"""
OPTIONS: dict[str, dict[str, Any]] = {
    "dirichlet": {"alpha": 5.0, "patients": 10, "per_class": 1},
    "shards": {"shards_per_site": 1},
}


def divided(kind: str, sites: int = 3, seed: int = 0, **options: Any) -> Partition:  # noqa: ANN401
    how = partitioning(kind, options or OPTIONS.get(kind, {}))
    return how.divide(SUBJECTS, sites, np.random.default_rng(seed))


def own(folder: Path, text: str = OWN) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", sorted(PARTITIONS))
def test_everybody_goes_to_one_hospital_and_the_same_from_the_same_seed(
    kind: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"file": own(tmp_path)} if kind == "own" else {}
    first, again = (divided(kind, **options) for _ in range(2))
    assert sorted(np.concatenate(first.sites).tolist()) == list(range(600))
    assert [each.tolist() for each in first.sites] == [each.tolist() for each in again.sites]
    if kind != "natural":
        other = divided(kind, seed=1, **options)
        assert [each.tolist() for each in first.sites] != [each.tolist() for each in other.sites]


def test_alike_hospitals_are_alike() -> None:
    for members in divided("iid", sites=7).sites:
        assert len(members) in (85, 86)


def test_sizes_differ_with_a_small_alpha_and_classes_do_not() -> None:
    sizes = sorted(len(each) for each in divided("quantity", sites=4, alpha=0.5).sites)
    assert sizes[-1] > 3 * sizes[0]
    largest = max(divided("quantity", sites=4, alpha=0.5).sites, key=len)
    shares = np.bincount(LABELS[largest], minlength=3) / len(largest)
    assert np.abs(shares - [0.5, 1 / 3, 1 / 6]).max() < 0.08


def test_a_hospital_of_one_shard_sees_hardly_more_than_one_class() -> None:
    found = divided("shards", sites=6, shards_per_site=1)
    assert [len(set(LABELS[each].tolist())) for each in found.sites] == [1] * 6


def test_noise_grows_from_hospital_to_hospital() -> None:
    how = partitioning("noisy", {"noise": 0.2})
    grey = np.full((50, 8, 8), 128, np.uint8)
    found = [how.changed(grey, site, 3, np.random.default_rng(0)).std() / 255 for site in range(3)]
    assert found[0] == 0
    assert found[1] == pytest.approx(0.1, rel=0.1)
    assert found[2] == pytest.approx(0.2, rel=0.1)


def test_institutions_become_hospitals_with_usable_names() -> None:
    found = divided("natural")
    assert found.names == ("old-town", "st-mary-s")
    assert [len(each) for each in found.sites] == [400, 200]
    with pytest.raises(DataError, match="which institution"):
        partitioning("natural", {}).divide(Subjects(LABELS, IMAGES), 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("def divide(labels, images, sites, rng):\n    return [[0, 1], [1], []]", DataError),
        ("def divide(labels, images, sites, rng):\n    return [[0], [600], [2]]", DataError),
        ("def divide(labels, images, sites, rng):\n    return [[0]]", DataError),
        ("def divide(labels, images, sites, rng):\n    return 3", DataError),
        ("divide = 3", StudyError),
        ("1 / 0", StudyError),
    ],
)
def test_a_file_that_divides_wrongly_is_told(
    text: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        divided("own", file=own(tmp_path, text))


@pytest.mark.parametrize("kind", sorted(set(PARTITIONS) - {"natural", "own"}))
def test_more_hospitals_than_patients_are_refused(kind: str) -> None:
    with pytest.raises(DataError):
        divided(kind, sites=601)


def test_another_name_or_option_is_refused() -> None:
    with pytest.raises(DataError, match="no such way"):
        partitioning("fair", {})
    with pytest.raises(DataError):
        partitioning("quantity", {"alpha": -1.0})
    with pytest.raises(DataError):
        partitioning("iid", {"alpha": 1.0})
