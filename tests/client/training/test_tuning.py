"""How a study's gradients are formed is measured once on a machine, kept, and checked."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from client.training import tuning
from client.training.tuning import (
    MOST_KEPT,
    Choices,
    check,
    choose,
    modelled,
    rehearsed,
    room,
    tile_of,
)
from common.devices.devices import DEVICES
from common.errors import ModelError
from common.numerics import LARGEST_TILE, EngineChoice, record
from common.study.study_file import Study
from tests.common.studies import small_study

MEMORY = 2**30


def study(**training: Any) -> Study:  # noqa: ANN401 - keys of a section
    return small_study(training=training)


def test_what_was_measured_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    choices = Choices(tmp_path / "choices.json")
    first = choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    written = choices.path.read_bytes()
    assert choices.of(study(), threads=1, memory=MEMORY, kernels="measured") == first
    assert Choices(choices.path).of(study(), threads=1, memory=MEMORY, kernels="measured") == first
    assert choices.path.read_bytes() == written


def test_what_is_kept_decides(tmp_path: Path) -> None:
    """A choice that no measurement would make is taken from the file."""
    choices = Choices(tmp_path / "choices.json")
    choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    odd = EngineChoice(tile=3, memory_format="channels_last")
    kept = dict.fromkeys(json.loads(choices.path.read_bytes()), odd.model_dump(mode="json"))
    choices.path.write_text(json.dumps(kept))
    found = choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    assert found == record(1, odd)


@pytest.mark.matrix(damaged=type)
@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"x": 1}', b'{"x": {"tile": 0}}'],
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damaged: bytes) -> None:
    choices = Choices(tmp_path / "choices.json")
    choices.path.write_bytes(damaged)
    found = choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    kept = json.loads(choices.path.read_bytes())
    assert [EngineChoice.model_validate(each) for each in kept.values()] == [found.choice]


def test_a_damaged_entry_is_measured_anew(tmp_path: Path) -> None:
    choices = Choices(tmp_path / "choices.json")
    choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    kept = {key: {"tile": "many"} for key in json.loads(choices.path.read_bytes())}
    choices.path.write_text(json.dumps(kept))
    found = choices.of(study(), threads=1, memory=MEMORY, kernels="measured")
    assert found.choice.tile == modelled(study(), MEMORY).tile


def test_another_shape_of_study_is_measured_by_itself(tmp_path: Path) -> None:
    choices = Choices(tmp_path / "choices.json")
    for each, memory in (
        (study(), MEMORY),
        (study(), 2 * MEMORY),
        (study(images_per_patient=2), MEMORY),
        (small_study(model={"widths": [6]}), MEMORY),
        (study(learning_rate=0.1), MEMORY),  # no matter of shape
        (small_study(task={"classes": ["no", "yes"], "class_weights": [1.0, 2.0]}), MEMORY),
        (small_study(task={"classes": ["no", "yes", "perhaps"]}), MEMORY),
    ):
        choices.of(each, threads=1, memory=memory, kernels="measured")
    assert len(json.loads(choices.path.read_bytes())) == 5


def test_who_asks_about_many_shapes_has_one_of_them_measured_and_few_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not measured then is not measured later: a plan must find what its offer said."""
    timed: list[Study] = []

    def counting(study: Study, *, memory: int, blank: EngineChoice) -> EngineChoice:
        timed.append(study)
        return choose(study, memory=memory, blank=blank)

    monkeypatch.setattr("client.training.tuning.choose", counting)
    choices = Choices(tmp_path / "choices.json")
    asked = [study(batch_size=size) for size in range(1, MOST_KEPT + 3)]
    found = [choices.of(each, threads=1, memory=MEMORY, kernels="measured") for each in asked]
    assert timed == asked[:1]
    assert found[1] == record(1, modelled(asked[1], MEMORY))
    assert len(json.loads(choices.path.read_bytes())) == MOST_KEPT
    later = Choices(choices.path)
    for each, before in zip(asked[2:], found[2:], strict=True):
        assert later.of(each, threads=1, memory=MEMORY, kernels="measured") == before
    assert timed == asked[:1]


def test_after_a_rest_another_shape_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = EngineChoice(tile=3, memory_format="channels_last")
    monkeypatch.setattr("client.training.tuning.choose", lambda *_, **__: odd)
    choices = Choices(tmp_path / "choices.json", rest=0.0)
    for size in (1, 2):
        found = choices.of(study(batch_size=size), threads=1, memory=MEMORY, kernels="measured")
        assert found.choice == odd


def test_what_is_modelled_is_not_kept_and_always_the_same(tmp_path: Path) -> None:
    choices = Choices(tmp_path / "choices.json")
    found = [choices.of(study(), threads=2, memory=MEMORY, kernels="modelled") for _ in range(2)]
    assert found[0] == found[1] == record(2, modelled(study(), MEMORY))
    assert found[0].choice.kernels == {}
    assert not choices.path.exists()


@pytest.mark.parametrize(
    ("batch", "fits", "tile"), [(1, 99, 1), (5, 99, 4), (64, 99, 64), (64, 63, 32), (999, 999, 64)]
)
def test_a_tile_is_a_power_of_two_that_a_batch_fills_and_memory_holds(
    batch: int, fits: int, tile: int
) -> None:
    assert tile_of(batch, fits) == tile


def test_a_machine_that_computes_a_patient_otherwise_beside_others_takes_them_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.training.tuning.is_alone", lambda *_: False)
    given = small_study(data={"image_size": [12, 20]})  # a shape that no other test has tried
    assert modelled(given, MEMORY).tile == 1
    assert choose(given, memory=MEMORY) == modelled(given, MEMORY)


def test_less_memory_makes_smaller_tiles() -> None:
    wide = study(batch_size=512)
    found = [modelled(wide, memory).tile for memory in (MEMORY, 200_000, 50_000)]
    assert found[0] == LARGEST_TILE
    assert found[0] > found[1] > found[2] > 0


def test_a_patients_images_that_do_not_fit_at_once_are_an_error() -> None:
    with pytest.raises(ModelError, match="do not fit into memory"):
        modelled(study(images_per_patient=64), 60_000)


def test_what_would_take_hours_to_try_is_not_tried_for_an_offer() -> None:
    """Patients are taken one by one then, which needs no trial."""
    wide = small_study(
        model={"widths": [128, 256, 256], "norm": "none", "pooling": "average"},
        data={"image_size": [384, 384]},
    )
    assert room(wide).work > DEVICES["cpu"].tried_work
    assert modelled(wide, 2**33).tile == 1
    assert choose(wide, memory=2**33) == EngineChoice(tile=1)


def test_what_takes_longer_to_try_has_a_smaller_tile() -> None:
    given = study(batch_size=64)
    each = room(given).work
    found = [modelled(given, MEMORY, work=work).tile for work in (64 * each, 20 * each, 1)]
    assert found == [64, 16, 1]


def test_what_is_chosen_is_sound() -> None:
    check(study(), choose(study(), memory=MEMORY))
    check(study(images_per_patient=3), modelled(study(images_per_patient=3), MEMORY))


@pytest.mark.parametrize("name", ["cnn", "scattering"])
def test_models_that_a_study_may_name_are_sound(name: str) -> None:
    """The larger ones are checked where studies with them are run, and in small."""
    model = {"name": name} if name != "cnn" else {"name": name, "widths": [4], "norm": "group"}
    given = small_study(model=model, data={"image_size": [32, 32]})
    for layout in ("contiguous", "channels_last"):
        choice = EngineChoice.model_validate({"memory_format": layout})
        check(given, choice)


@pytest.mark.parametrize("part", ["probe", "rehearsal"])
def test_a_step_that_does_not_fit_is_said_in_words_and_holds_nothing(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """For as long as its error is known, a tensor of a trial would stay on the card."""
    kept: list[weakref.ref[torch.Tensor]] = []

    def fails(*_: object) -> None:
        tensor = torch.zeros(9)
        kept.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError(f"CUDA out of memory, with {len(tensor)}")

    study, choice = small_study(study={"name": part}), EngineChoice(tile=3)
    monkeypatch.setattr(tuning, "require_sound", fails)
    with pytest.raises(ModelError, match="does not fit into the memory of the gra") as caught:
        if part == "probe":
            check(study, choice)
        else:
            rehearsed(choice, fails)
    assert caught.value.details["do"].startswith("lower memory_mib")
    assert [one() for one in kept] == [None]
