from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch

from common.errors import PackageError
from common.files import canonical_json, sha256
from common.models.models import MODELS
from common.models.networks import build_model, initial_weights, load_flat
from common.package import archive, card, graph
from common.package.package import read
from common.package.statement import FORMAT, Figure, FigureSet
from common.study.study_file import load_study
from tests.common.package.packages import KEY, forged, kept, members, package, statement
from tests.common.studies import DENSE, small_study

STUDIES = Path(__file__).resolve().parents[3] / "simulations" / "studies"


@pytest.fixture(scope="module")
def made() -> bytes:
    return package()


def test_a_package_gives_back_what_it_was_made_of(made: bytes, tmp_path: Path) -> None:
    found, study = read(kept(tmp_path, made)), small_study()

    assert found.study == study
    np.testing.assert_array_equal(found.weights, initial_weights(study, 1))
    np.testing.assert_array_equal(found.earlier[1], found.weights * np.float32(1.1))
    assert found.key == KEY.public
    assert found.statement.epsilon == 3.0
    assert found.statement.adjustment.scaling.slope == 2.0
    assert [each.name for each in found.statement.adjustment.points] == ["one half"]


def test_the_same_model_gives_the_same_bytes(made: bytes) -> None:
    assert package(rounds=3) == made


def test_nothing_names_the_machine_that_made_it(made: bytes) -> None:
    assert str(Path(__file__).resolve().parents[3]).encode() not in made


@pytest.mark.parametrize("name", [each for each in archive.MEMBERS if each != archive.SIGNATURE])
def test_a_member_that_was_changed_is_found(made: bytes, tmp_path: Path, name: str) -> None:
    inside = members(made)
    changed = archive.pack(inside | {name: inside[name] + b" "})

    with pytest.raises(PackageError, match="signed"):
        read(kept(tmp_path, changed))


def test_another_signature_shows_another_key(made: bytes, tmp_path: Path) -> None:
    found = read(kept(tmp_path, forged(made, {})))

    assert found.key != KEY.public


def settings() -> Iterator[tuple[str, dict[str, object]]]:
    """Each model as it is by default, and with each other choice of its settings."""
    for kind in MODELS:
        name = kind.model_fields["name"].default
        yield name, {}
        for setting, field in kind.model_fields.items():
            for choice in get_args(field.annotation) if get_origin(field.annotation) else ():
                if isinstance(choice, str) and choice not in (name, field.default):
                    yield name, {setting: choice}
    yield "cnn", {"hidden": 4, "widths": [3, 4]}
    yield "unet", {"residual_units": 0, "strides": [1, 4]}
    yield "resunet", {"residual_units": 0}
    yield "scattering", {"scales": 1, "orientations": 3}
    yield "vit", {"patch": 8, "features": 12, "blocks": 2}


@pytest.mark.matrix
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "chosen"), settings())
def test_the_graph_of_every_model_gives_its_scores(
    name: str, chosen: dict[str, object], channels: int
) -> None:
    if channels == 3 and name in ("densenet121", "resnet50", "seresnet50", "efficientnet_b0"):
        pytest.skip("takes long, and only its first layer is another one")
    size = [32, 48]
    dense = next(kind for kind in MODELS if kind.model_fields["name"].default == name).dense
    study = small_study(
        task={"kind": "segmentation", "classes": ["liver", "lesion"]} if dense else {},
        model={"name": name, **chosen},
        data={"image_size": size, "channels": channels},
    )
    model = build_model(study)
    load_flat(model, initial_weights(study, 3))
    images = torch.rand(3, channels, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(
        graph.export(study, model), providers=["CPUExecutionProvider"]
    )

    (scores,) = session.run(None, {graph.INPUT: images.numpy()})
    (first,) = session.run(None, {graph.INPUT: images[:1].numpy()})

    np.testing.assert_allclose(first, scores[:1], atol=1e-6)
    with torch.no_grad():
        wanted = study.task.readable(model.eval()((images - 0.5) / 0.25)).numpy()
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    if dense:
        ties = np.sort(wanted, axis=1)
        clear = ties[:, -1] - ties[:, -2] > 1e-5
        assert (scores.argmax(1) == wanted.argmax(1))[clear].all()


def test_a_number_is_within_its_range_in_the_graph_too() -> None:
    study = small_study(
        task={
            "kind": "regression",
            "quantity": "age in years",
            "lowest": 0.0,
            "highest": 90.0,
            "classes": None,
        }
    )
    model = build_model(study)
    load_flat(model, 100.0 * initial_weights(study, 3))
    session = onnxruntime.InferenceSession(
        graph.export(study, model), providers=["CPUExecutionProvider"]
    )

    (scores,) = session.run(None, {graph.INPUT: np.ones((1, 1, 8, 8), dtype=np.float32)})

    assert 0.0 <= scores.item() <= 90.0


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_preprocessing_is_stated_for_every_shipped_study(path: Path) -> None:
    study = load_study(path)
    stated = graph.preprocessing(study)

    assert repr(study.data.mean) in stated["within"][0]
    assert stated["input"]["shape"] == ["n", *study.shape]
    assert ("mm" in "".join(stated["before"])) == (study.data.spacing is not None)


def test_the_card_says_what_it_is_for_and_what_it_costs(made: bytes, tmp_path: Path) -> None:
    found = read(kept(tmp_path, made))
    text, page = found.card, found.members[archive.CARD_PAGE].decode()

    for words in ("Research use only", "Intended use", "3.000", "north", "one half", "Caveats"):
        assert words in text
        assert words in page


def test_the_card_has_the_figures_of_each_class(tmp_path: Path) -> None:
    study = small_study(task={"kind": "segmentation", "classes": ["liver", "lesion"]}, model=DENSE)
    each = tuple(Figure(value=value, low=0.1, high=0.9) for value in (0.7, 0.4))
    told = FigureSet(
        on="hospitals",
        patients=40,
        headline="dice",
        figures={"dice": each[0]},
        of={"missed": each, "dice": each},
    )

    text = read(kept(tmp_path, package(study, figures=(told,)))).card

    assert "| figure | liver | lesion |" in text
    assert "| Dice | 0.700 (0.100 to 0.900) | 0.400 (0.100 to 0.900) |" in text


def test_a_card_of_known_keys_does_not_claim_privacy(tmp_path: Path) -> None:
    text = read(kept(tmp_path, package(warnings=("NOT PRIVATE: KNOWN KEY",)))).card

    assert "**Not private**" in text
    assert "learns hardly more" not in text


def test_a_dense_model_has_a_package_too(tmp_path: Path) -> None:
    study = small_study(
        task={"kind": "segmentation", "classes": ["liver"]},
        model=DENSE,
        data={"image_size": [8, 8]},
    )

    assert read(kept(tmp_path, package(study))).study.heads.dense


def test_a_header_whose_length_begins_like_a_pickle_is_none(made: bytes, tmp_path: Path) -> None:
    """The length comes first, and 640 is 80 02 there."""
    arrays = safetensors.numpy.load(members(made)[archive.EARLIER])
    written = (safetensors.numpy.save(arrays, {"x": "x" * length}) for length in range(640))
    data = next(each for each in written if each[:2] == b"\x80\x02")

    found = read(kept(tmp_path, forged(made, {archive.EARLIER: data})))

    np.testing.assert_array_equal(found.earlier, arrays["weights"])


CARDS = {
    "classification": ({}, "ba7146442549b272"),
    "segmentation": (
        {"task": {"kind": "segmentation", "classes": ["liver", "lesion"]}, "model": DENSE},
        "bf57620174974f80",
    ),
    "regression": (
        {"task": {"kind": "regression", "quantity": "age in years", "classes": None}},
        "a59d38c5a45b9273",
    ),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_is_written_another_way_only_in_another_format(kind: str) -> None:
    """A reader holds a card to what it would write itself, so a change needs another number.

    Where this fails, raise ``FORMAT`` and record what the assertion shows.
    """
    changes, recorded = CARDS[kind]
    study = small_study(**changes)
    figure = Figure(value=0.7, low=0.6, high=0.8)
    measured = FigureSet(
        on="hospitals",
        patients=40,
        headline=study.task.headline,
        figures=dict.fromkeys(study.task.names, figure),
        of={study.task.headline: (figure,) * len(study.task.classes)},
    )
    text = card.markdown(statement(study, figures=(measured,)), study)

    assert (FORMAT, sha256((text + card.page(text, "x")).encode())[:16]) == (1, recorded)


def test_a_key_that_a_later_version_has_by_default_costs_no_package(
    made: bytes, tmp_path: Path
) -> None:
    """A study is held to one way of writing, not to the settings that this version knows."""
    study = json.loads(members(made)[archive.STUDY])
    del study["fixed_point"]
    text = canonical_json(study)

    older = forged(made, {archive.STUDY: text}, lambda said: said.update(study=sha256(text)))

    assert read(kept(tmp_path, older)).study == small_study()


def test_a_package_above_two_gibibytes_can_be_opened(
    made: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its archive ends in the records of the larger format."""
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 100)
    large = archive.pack(members(made))
    assert b"PK\x06\x07" in large[-100:]

    assert read(kept(tmp_path, large)).members == members(made)
