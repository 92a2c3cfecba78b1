"""A checkpoint is whole or passed over, and belongs to one study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from common.checkpoint import (
    KEPT,
    Checkpoint,
    demand_fresh,
    demand_same,
    newest,
    read,
    write,
)
from common.errors import CheckpointError
from common.files import canonical_json, sha256
from common.wire.messages import LedgerHead


def state(number: int) -> Checkpoint:
    return Checkpoint(
        study="a" * 64,
        seed=3,
        plans={"north": "b" * 64},
        round=number,
        weights=np.array([number, 0.1], dtype=np.float32),
        average=np.array([0.1, 1 / 3]),
        optimiser={"m_t": np.array([1e-300, 0.1]), "v_t": np.array([2.0, 3.0])},
        ledgers={"north": LedgerHead(number, "c" * 64)},
        evaluations=({"round": 1, "metrics": {"auc": 0.75}},),
        rounds=tuple({"round": past, "absences": {}} for past in range(1, number + 1)),
    )


def filled(folder: Path, rounds: int) -> Path:
    for number in range(1, rounds + 1):
        write(folder, state(number))
    return folder


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Every bit of every field."""
    return _plain(one) == _plain(other)


def _plain(checkpoint: Checkpoint) -> dict[str, object]:
    """The fields, arrays as type and bytes."""
    arrays = {
        "weights": checkpoint.weights,
        "average": checkpoint.average,
        **checkpoint.optimiser,
    }
    others = {"study", "seed", "plans", "round", "ledgers", "evaluations", "rounds"}
    return {name: getattr(checkpoint, name) for name in others} | {
        name: None if array is None else (str(array.dtype), array.tobytes())
        for name, array in arrays.items()
    }


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    found = newest(filled(tmp_path, 2))
    assert found is not None
    assert same(found, state(2))


def test_an_empty_folder_has_no_newest(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None


def test_only_the_last_are_kept_and_what_a_crash_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".round-000001.json.7.tmp").write_bytes(b"half")
    filled(tmp_path, KEPT + 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    numbers = range(3, KEPT + 3)
    assert names == [
        f"round-{number:06d}.{end}" for number in numbers for end in ("json", "safetensors")
    ]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_falls_back_and_the_log_says_which(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    filled(tmp_path, 3)
    path = tmp_path / f"round-000003{suffix}"
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "flip":
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(data[:middle])
    else:
        path.unlink()
    with capture_logs() as logs:
        found = newest(tmp_path)
    assert found is not None
    assert found.round == 2
    skipped = [entry["file"] for entry in logs if entry["event"] == "checkpoint.skipped"]
    without_state = suffix == ".json" and damage == "remove"
    assert skipped == ([] if without_state else ["round-000003.json"])


def test_arrays_of_another_round_are_not_taken_for_its_own(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    arrays = (tmp_path / "round-000001.safetensors").read_bytes()
    (tmp_path / "round-000002.safetensors").write_bytes(arrays)
    with pytest.raises(CheckpointError, match="its arrays changed"):
        read(tmp_path / "round-000002.json")


def test_a_number_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    path = filled(tmp_path, 1) / "round-000001.json"
    document = json.loads(path.read_bytes())
    document["state"]["seed"] = 4
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="its state changed"):
        read(path)


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    (filled(tmp_path, 1) / "round-000001.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="none of the checkpoints can be read"):
        newest(tmp_path)


@pytest.mark.parametrize("state", [[], 1, {"ledgers": [], "evaluations": [], "rounds": []}])
def test_a_state_of_another_shape_is_damaged_though_its_checksum_fits(
    tmp_path: Path, state: object
) -> None:
    path = filled(tmp_path, 1) / "round-000001.json"
    if isinstance(state, dict):
        arrays = path.with_suffix(".safetensors").read_bytes()
        state = state | {"arrays_sha256": sha256(arrays)}
    document = {"format": 1, "checksum": sha256(canonical_json(state)), "state": state}
    path.write_bytes(canonical_json(document))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read(path)
    assert "backup" in caught.value.details["do"]


def test_starting_over_an_older_run_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    demand_fresh(tmp_path)
    filled(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"--resume .* another --out"):
        demand_fresh(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("study", "d" * 64), ("seed", 4), ("plans", {"north": "e" * 64})]
)
def test_a_checkpoint_of_another_study_is_refused_by_what_differs(name: str, value: object) -> None:
    ours = {"study": "a" * 64, "seed": 3, "plans": {"north": "b" * 64}}
    demand_same(state(1), **ours)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="another study") as caught:
        demand_same(state(1), **{**ours, name: value})  # type: ignore[arg-type]
    assert caught.value.details["where"] == name
    assert caught.value.details["wanted"] == str(value)
