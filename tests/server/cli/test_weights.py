"""``consilium-coordinator weights``: out of a checkpoint, without running what it holds."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from common.errors import StudyError
from common.models.networks import initial_weights, sketch
from common.study.study_file import load_initial, load_study
from server.cli.app import app
from server.cli.weights import TAKEN, match, read_checkpoint
from tests.common.studies import document, small_study, toml

ABOUT = ("--source", "here", "--licence", "CC0-1.0", "--trained-on", "phantoms")
MODEL = {"widths": [4, 6], "hidden": 5}


def state(prefix: str = "") -> dict[str, torch.Tensor]:
    named = sketch(small_study(model=MODEL)).named_parameters()
    return {f"{prefix}{name}": torch.full(each.shape, 0.5) for name, each in named}


def study_file(folder: Path, **model: Any) -> Path:  # noqa: ANN401 - as TOML gives
    path = folder / "study.toml"
    path.write_text(toml(document(model=MODEL | model)))
    return path


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_fits_by_name_and_shape_is_taken_and_the_study_begins_with_it(
    tmp_path: Path, nested: str | None, prefix: str
) -> None:
    held = state(prefix)
    other = next(name for name in held if name.endswith("0.weight"))
    held[other] = torch.zeros(4, 3, 3, 3)  # of a model for colour
    held[f"{prefix}fc.weight"] = torch.zeros(1000, 9)
    torch.save({nested: held, "epoch": 3} if nested else held, tmp_path / "public.pth")
    study, out = study_file(tmp_path, initial="start.safetensors"), tmp_path / "start.safetensors"
    told = CliRunner().invoke(
        app, ["weights", str(tmp_path / "public.pth"), str(study), "--out", str(out), *ABOUT]
    )
    assert told.exit_code == 0, told.output
    named = len(state())
    assert f"{named - 1} of {named} weights taken" in told.output
    assert "another shape there: 4 x 3 x 3 x 3" in told.output
    one = load_study(study)
    weights, seeded = initial_weights(one, 0, load_initial(one, tmp_path)), initial_weights(one, 0)
    first = 4 * 9
    assert np.array_equal(weights[:first], seeded[:first])
    assert (weights[first:] == 0.5).all()


def test_a_published_network_is_folded_also_behind_a_wrapper_s_prefix(tmp_path: Path) -> None:
    """Scale 2 over the root of 3.999 + 0.001 is 1: the bias is 0.25 - 0.5."""
    held = {"_conv_stem.weight": torch.ones(32, 3, 3, 3)}
    parts = {"weight": 2.0, "bias": 0.25, "running_mean": 0.5, "running_var": 3.999}
    held |= {f"_bn0.{part}": torch.full((32,), each) for part, each in parts.items()}
    held["_bn0.num_batches_tracked"] = torch.tensor(7)
    torch.save({f"module.{name}": each for name, each in held.items()}, tmp_path / "public.pth")
    one = small_study(model={"name": "efficientnet_lite0", "blocks": 1})
    taken, told = match(one, read_checkpoint(tmp_path / "public.pth"))
    assert taken.keys() == {"stem.weight", "stem.bias"}
    assert np.allclose(taken["stem.weight"], 1)
    assert np.allclose(taken["stem.bias"], -0.25)
    assert {each.verdict for each in told} == {TAKEN, "not in the checkpoint"}


def test_what_is_frozen_or_adapted_does_not_matter() -> None:
    plain = match(small_study(model=MODEL), {name: each.numpy() for name, each in state().items()})
    parts = small_study(model=MODEL | {"trainable": ["head"], "adapters": 2})
    found = match(parts, {name: each.numpy() for name, each in state().items()})
    assert found[1] == plain[1]
    assert {each.verdict for each in found[1]} == {TAKEN}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:  # noqa: ANN401 - as pickle has it
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_holds_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(1), "more": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(StudyError, match="weights alone") as caught:
        read_checkpoint(tmp_path / "evil.pth")
    assert "state_dict()" in caught.value.details["do"]
    assert not (tmp_path / "ran").exists()


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    for name, data in (("a.pth", b""), ("b.pth", b"no"), ("c.safetensors", b"{}")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StudyError, match="weights alone"):
            read_checkpoint(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "d.pth", "w") as packed:
        packed.writestr("x", "y")
    with pytest.raises(StudyError, match="weights alone"):
        read_checkpoint(tmp_path / "d.pth")
    torch.save([1, 2], tmp_path / "e.pth")
    with pytest.raises(StudyError, match="holds no weights"):
        read_checkpoint(tmp_path / "e.pth")
    with pytest.raises(StudyError, match="cannot be read"):
        read_checkpoint(tmp_path / "absent.pth")


def test_where_nothing_fits_nothing_is_written(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(2)}, tmp_path / "public.pth")
    out = tmp_path / "start.safetensors"
    told = CliRunner().invoke(
        app,
        [
            "weights",
            str(tmp_path / "public.pth"),
            str(study_file(tmp_path)),
            "--out",
            str(out),
            *ABOUT,
        ],
    )
    assert isinstance(told.exception, StudyError)
    assert "nothing in the checkpoint fits" in told.exception.what
    assert not out.exists()


def test_a_file_that_is_another_since_the_study_was_read_is_refused(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "public.pth")
    study, out = study_file(tmp_path, initial="start.safetensors"), tmp_path / "start.safetensors"
    made = ["weights", str(tmp_path / "public.pth"), str(study), "--out", str(out), *ABOUT]
    assert CliRunner().invoke(app, made).exit_code == 0
    one = load_study(study)
    torch.save({name: each * 2 for name, each in state().items()}, tmp_path / "public.pth")
    out.unlink()
    assert CliRunner().invoke(app, made).exit_code == 0
    with pytest.raises(StudyError, match="SHA-256") as caught:
        load_initial(one, tmp_path)
    assert str(out) in str(caught.value)


def test_a_file_of_starting_weights_without_end_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(), tmp_path / "public.pth")
    study, out = study_file(tmp_path, initial="start.safetensors"), tmp_path / "start.safetensors"
    made = ["weights", str(tmp_path / "public.pth"), str(study), "--out", str(out), *ABOUT]
    assert CliRunner().invoke(app, made).exit_code == 0
    monkeypatch.setattr("common.study.study_file.LARGEST", 100)
    with pytest.raises(StudyError, match="more than 0 MiB"):
        load_study(study)
