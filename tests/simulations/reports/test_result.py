from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import CheckpointError
from simulations.reports.result import Result, read_result, write_result


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path, made_result: Result) -> None:
    write_result(tmp_path, made_result)

    assert read_result(tmp_path) == made_result


def test_keys_are_sorted_and_the_same_result_has_the_same_bytes(
    tmp_path: Path, made_result: Result
) -> None:
    first = write_result(tmp_path / "a", made_result).read_bytes()
    second = write_result(tmp_path / "b", made_result).read_bytes()

    document = json.loads(first)
    assert first == second
    assert list(document) == sorted(document)
    assert list(document["metrics"]) == sorted(document["metrics"])


def test_a_folder_without_a_result_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no result yet"):
        read_result(tmp_path)


def test_a_result_of_another_format_is_refused(tmp_path: Path, made_result: Result) -> None:
    path = write_result(tmp_path, made_result)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))

    with pytest.raises(CheckpointError, match="another version"):
        read_result(tmp_path)


def test_the_best_baseline_has_the_largest_auc_and_may_be_missing(made_result: Result) -> None:
    best = made_result.best("alone-private")

    assert best is not None
    assert best.site == "west"
    assert made_result.model_copy(update={"baselines": ()}).best("pooled") is None
