"""Which parts of a network are trained, its adapters, and public starting weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ModelError, StudyError
from common.files import sha256
from common.models.initial import arrays_of, written
from common.models.networks import (
    build_model,
    initial_weights,
    join,
    load_flat,
    load_trained,
    split,
    trained_count,
    weights_count,
)
from common.models.parts import Adapted, head_of
from common.study.study_file import Study, load_initial, load_study
from tests.common.studies import document, small_study, toml

ABOUT = {"source": "https://example.org/w", "licence": "CC0-1.0", "trained_on": "phantoms"}


def study(**model: Any) -> Study:  # noqa: ANN401 - as TOML gives
    return small_study(model={"widths": [4, 6], "hidden": 5, "norm": "group", **model})


def trained_names(one: Study) -> list[str]:
    return [name for name, each in build_model(one).named_parameters() if each.requires_grad]


def test_without_a_word_all_is_trained_and_the_plan_s_text_is_as_it_was() -> None:
    whole = study()
    assert trained_count(whole) == weights_count(whole)
    assert not {"initial", "trainable", "adapters"} & set(whole.model.model_dump(mode="json"))
    weights = initial_weights(whole, 3)
    assert join(whole, weights, None) is weights


def test_a_part_is_named_as_head_as_norms_or_by_its_module() -> None:
    names = [name for name, _ in build_model(study()).named_parameters()]
    head, _ = head_of(build_model(study()))
    assert trained_names(study(trainable=["head"])) == [f"{head}.weight", f"{head}.bias"]
    assert head == names[-1].removesuffix(".bias")
    norms = [
        name
        for name, module in build_model(study()).named_modules()
        if isinstance(module, nn.GroupNorm)
    ]
    found = trained_names(study(trainable=["norms"]))
    assert found == [f"{name}.{part}" for name in norms for part in ("weight", "bias")] != []
    assert trained_names(study(trainable=["0", "head"]))[:2] == ["0.weight", "0.bias"]


def test_a_part_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no such part") as caught:
        build_model(study(trainable=["layer9"]))
    assert caught.value.details["found"] == "layer9"
    assert "head, norms, or one of 0, " in caught.value.details["wanted"]


def test_trained_and_frozen_weights_are_taken_apart_and_put_together_in_place() -> None:
    one = study(trainable=["norms", "head"])
    weights = np.arange(weights_count(one), dtype=np.float32)
    trained, frozen = split(one, weights)
    assert trained.size == trained_count(one) < weights_count(one)
    assert np.array_equal(join(one, trained, frozen), weights)
    model = build_model(one)
    load_trained(model, trained)
    there = dict(
        zip((name for name, _ in model.named_parameters()), model.parameters(), strict=True)
    )
    assert all(each.requires_grad == (name in trained_names(one)) for name, each in there.items())
    held = np.concatenate(
        [each.detach().numpy().ravel() for each in there.values() if each.requires_grad]
    )
    assert np.array_equal(held, trained)
    with pytest.raises(ValueError, match="do not fit"):
        join(one, trained, None)


def test_an_adapted_network_begins_as_the_one_it_adapts_and_trains_two_narrow_layers() -> None:
    plain, adapted = study(trainable=["head"]), study(trainable=["head"], adapters=2)
    images = torch.rand(3, *plain.shape)
    models = [build_model(each) for each in (plain, adapted)]
    arrays = {name: value.detach().numpy() for name, value in models[0].named_parameters()}
    begun = build_model(adapted)
    load_flat(begun, initial_weights(adapted, 0, arrays))
    assert torch.equal(begun(images), models[0](images))
    layers = [each for each in begun.modules() if isinstance(each, Adapted)]
    assert [type(each.base).__name__ for each in layers] == ["Conv2d", "Conv2d", "Linear"]
    assert all(each.down.weight.shape[0] == 2 for each in layers)  # type: ignore[index]
    names = trained_names(adapted)
    assert all(name.split(".")[-2] in ("down", "up") for name in names[:-2])
    assert len(names) == 2 * 3 + 2
    with torch.no_grad():
        layers[0].up.weight.fill_(1.0)
    assert not torch.equal(begun(images), models[0](images))


def test_adapters_without_a_frozen_layer_are_refused() -> None:
    with pytest.raises(ValueError, match='write trainable = \\["head"\\]'):
        study(adapters=2)
    with pytest.raises(ModelError, match="no frozen layer"):
        build_model(_linear())


def _linear() -> Study:
    model = {"name": "scattering", "widths": None, "hidden": None, "norm": None}
    return small_study(
        data={"image_size": (16, 16)}, model=model | {"trainable": ["head"], "adapters": 1}
    )


def written_beside(folder: Path, arrays: dict[str, np.ndarray], **about: str) -> Path:
    said = document(model={"widths": [4, 6], "hidden": 5, "initial": "start.safetensors"})
    (folder / "study.toml").write_text(toml(said))
    (folder / "start.safetensors").write_bytes(written(arrays, **ABOUT | about))
    return folder / "study.toml"


def test_a_study_names_a_file_and_carries_what_it_says_of_itself(tmp_path: Path) -> None:
    conv = np.full((4, 1, 3, 3), 0.25, dtype=np.float32)
    path = written_beside(tmp_path, {"0.weight": conv})
    one = load_study(path)
    named = one.model.initial
    assert named is not None
    assert named.model_dump() == ABOUT | {
        "file": "start.safetensors",
        "sha256": sha256((tmp_path / "start.safetensors").read_bytes()),
    }
    assert Study.model_validate(one.model_dump(mode="json")) == one
    initial = load_initial(one, tmp_path)
    assert initial is not None
    weights, seeded = initial_weights(one, 7, initial), initial_weights(one, 7)
    assert np.array_equal(weights[: conv.size], conv.ravel())
    assert np.array_equal(weights[conv.size :], seeded[conv.size :])


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"0.weight": np.zeros((4, 1, 5, 5), np.float32)}, "shape (4, 1, 3, 3)"),
        ({"conv1.weight": np.zeros((4, 1, 3, 3), np.float32)}, "the name of a weight"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], told: str
) -> None:
    one = load_study(written_beside(tmp_path, arrays))
    with pytest.raises(ModelError, match="do not fit") as caught:
        initial_weights(one, 0, load_initial(one, tmp_path))
    assert told in caught.value.details["wanted"]
    assert next(iter(arrays)) in caught.value.details["where"]


def test_the_same_arrays_and_words_are_the_same_file() -> None:
    """A study's hash holds the file's: who makes it again has the same study."""
    arrays = {name: np.ones(size, np.float32) for size, name in enumerate("abcdef", 1)}
    files = {written(arrays, **ABOUT) for _ in range(8)}
    assert len(files) == 1
    assert {name: each.size for name, each in arrays_of(files.pop()).items()} == {
        name: each.size for name, each in arrays.items()
    }


def test_a_file_that_was_changed_says_nothing_or_is_missing_is_refused(tmp_path: Path) -> None:
    path = written_beside(tmp_path, {"0.weight": np.zeros((4, 1, 3, 3), np.float32)})
    one, file = load_study(path), tmp_path / "start.safetensors"
    file.write_bytes(written({"0.weight": np.ones((4, 1, 3, 3), np.float32)}, **ABOUT))
    with pytest.raises(StudyError, match="cannot be used") as caught:
        load_initial(one, tmp_path)
    assert (
        "not " + (one.model.initial.sha256[:16] if one.model.initial else "")
        in caught.value.details["found"]
    )
    file.write_bytes(written({"a": np.ones(1, np.float32)}, **ABOUT | {"licence": ""}))
    with pytest.raises(StudyError, match="cannot be used") as caught:
        load_study(path)
    assert "does not say its licence" in caught.value.details["found"]
    file.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(path)


@pytest.mark.parametrize(
    "name", ["../start.safetensors", "a/b.safetensors", "start.pt", ".s.safetensors"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    path = written_beside(tmp_path, {"0.weight": np.zeros((4, 1, 3, 3), np.float32)})
    path.write_text(path.read_text().replace("start.safetensors", name))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert "beside the study file" in caught.value.details["found"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.",
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (60).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',
    ],
    ids=["nothing", "a pickle", "a header of exabytes", "a list", "numbers that are not there"],
)
def test_bytes_that_are_no_weights_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"safetensors|arrays"):
        arrays_of(data)


@pytest.mark.parametrize("bad", [np.float64(1.0), np.float32(np.nan), np.float32(np.inf)])
def test_numbers_that_no_model_takes_are_refused(bad: np.floating[Any]) -> None:
    import safetensors.numpy

    with pytest.raises(ValueError, match="float32 and finite"):
        arrays_of(safetensors.numpy.save({"a": np.array([bad])}))
