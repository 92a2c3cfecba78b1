from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch

from common.errors import PackageError
from common.models.models import MODELS
from common.models.networks import build_model, initial_weights, load_flat
from common.package import archive, graph
from common.package.package import read
from common.package.statement import Figure, FigureSet
from common.study.study_file import load_study
from tests.common.package.packages import KEY, forged, kept, members, package
from tests.common.studies import DENSE, small_study

STUDIES = Path(__file__).resolve().parents[3] / "simulations" / "studies"
NAMES = [kind.model_fields["name"].default for kind in MODELS]


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


@pytest.mark.matrix
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_of_every_model_gives_its_scores(name: str) -> None:
    dense = next(kind for kind in MODELS if kind.model_fields["name"].default == name).dense
    size = [32, 32]
    study = small_study(
        task={"kind": "segmentation", "classes": ["liver", "lesion"]} if dense else {},
        model={"name": name},
        data={"image_size": size, "channels": 1},
    )
    model = build_model(study)
    load_flat(model, initial_weights(study, 3))
    images = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(
        graph.export(study, model), providers=["CPUExecutionProvider"]
    )

    (scores,) = session.run(None, {graph.INPUT: images.numpy()})

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
        on="hospitals", patients=40, headline="dice", figures={"dice": each[0]}, of={"dice": each}
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
