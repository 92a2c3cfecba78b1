from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from client.data.cohort import Split
from client.data.labels import LabelFile
from client.data.masks.sources import MaskFolder
from client.prediction import evaluation_report, own
from client.prediction.evaluate import evaluate
from client.prediction.limits import profile
from client.prediction.local import Local, read_local, write_local
from client.prediction.own import OwnSources
from client.prediction.predict import Wanted, predict
from client.prediction.reader import compare, kappa
from client.prediction.scoring import choice_for, outputs_of_weights
from common.errors import DataError, LabelError, PackageError
from common.package.package import Package
from tests.client.prediction.models import NUMBERS, OUTLINES, PATIENTS, QUIET, archive, opened

HALVES = Split(0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return opened(tmp_path_factory.mktemp("package"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return archive(tmp_path / "archive")


def labelled(
    images: Path, column: str = "label", *, new: bool = True, **changes: object
) -> OwnSources:
    file = LabelFile(images.parent / "labels.csv", "SOPInstanceUID", "SOPInstanceUID", column)
    new = new and "split" not in changes
    return replace(own.of_folders(images, file, new=new), **changes)  # type: ignore[arg-type]


def with_reader(images: Path, wrong: int) -> None:
    """A second reader, who is wrong about the first patients."""
    path = images.parent / "labels.csv"
    header, *rows = path.read_text().splitlines()
    other = {"normal": "pneumonia", "pneumonia": "normal"}
    said = [
        f"{row},{other[row.split(',')[1]] if number < wrong else row.split(',')[1]}"
        for number, row in enumerate(rows)
    ]
    path.write_text("\n".join([f"{header},reader", *said]) + "\n")


def test_a_site_is_judged_on_patients_who_were_not_in_training(
    model: Package, images: Path, tmp_path: Path
) -> None:
    sources = labelled(images, split=HALVES)

    found = evaluate(model, sources, cache=tmp_path / "cache", progress=QUIET, alone=False)

    judged = {HALVES.part_of(each.pseudonym) for each in found.patients}
    assert judged == {"validation", "test"}
    assert found.held_out


def test_everyone_is_judged_on_only_where_that_is_asked_for_and_said(
    model: Package, images: Path, tmp_path: Path
) -> None:
    found = evaluate(
        model,
        labelled(images, split=HALVES),
        cache=tmp_path / "cache",
        progress=QUIET,
        alone=False,
        everyone=True,
    )

    assert len(found.patients) == len(PATIENTS)
    assert not found.held_out


def test_without_a_site_nobody_claims_that_patients_were_held_out(
    model: Package, images: Path, tmp_path: Path
) -> None:
    sources = labelled(images, new=False)

    found = evaluate(model, sources, cache=tmp_path / "cache", progress=QUIET)

    assert len(found.patients) == len(PATIENTS)
    assert not found.held_out
    assert found.alone is None
    assert found.notes
    assert found.threshold is None  # sets made of patients of training would hold too seldom


def test_a_model_of_its_own_is_trained_on_the_patients_of_training(
    model: Package, images: Path, tmp_path: Path
) -> None:
    sources = labelled(images, split=Split(0.7, 0.3, 0.0))
    given = own.read(sources, model.study, everyone=False, cache=tmp_path / "cache", progress=QUIET)
    assert len(given.train) >= 10

    found = evaluate(model, sources, cache=tmp_path / "cache", progress=QUIET)

    assert found.alone is not None
    assert not np.array_equal(found.alone.numbers, found.shared.numbers)
    if found.ahead is not None:
        ours, theirs = (each.figures.values["auc"].value for each in (found.shared, found.alone))
        assert ours is not None
        assert theirs is not None
        assert found.ahead.value == pytest.approx(ours - theirs)
        assert found.ahead.low <= found.ahead.high


def test_a_training_alone_that_is_stopped_leaves_the_figures_of_the_shared_model(
    model: Package, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.prediction.evaluate.train_alone", stopped)
    sources = labelled(images, split=Split(0.7, 0.3, 0.0))

    found = evaluate(model, sources, cache=tmp_path / "cache", progress=QUIET)

    assert found.alone is None
    assert found.shared.figures.values
    assert "The training alone was stopped, so nothing is said of it" in found.notes


def test_figures_are_those_of_the_judged_patients(
    model: Package, images: Path, tmp_path: Path
) -> None:
    found = evaluate(model, labelled(images), cache=tmp_path / "cache", progress=QUIET)

    named = found.shared.numbers.argmax(axis=1)
    accuracy = float((named == found.shared.truths).mean())
    assert found.shared.figures.values["accuracy"].value == pytest.approx(accuracy)


def test_a_second_reader_is_compared_on_the_same_patients(
    model: Package, images: Path, tmp_path: Path
) -> None:
    with_reader(images, wrong=0)

    found = evaluate(
        model, labelled(images), cache=tmp_path / "cache", progress=QUIET, column="reader"
    )

    assert found.reading is not None
    assert found.reading.patients == len(PATIENTS)
    assert found.reading.reader.value == 1.0
    assert found.reading.only_model == 0


def test_a_reader_who_is_no_column_is_an_error(
    model: Package, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match="column"):
        evaluate(model, labelled(images), cache=tmp_path / "c", progress=QUIET, column="nobody")


def test_masks_have_no_second_reader(tmp_path: Path) -> None:
    images = archive(tmp_path / "archive", masks=True)
    sources = own.of_folders(images, _masks(tmp_path))

    with pytest.raises(PackageError, match="classifies"):
        evaluate(
            opened(tmp_path / "p", OUTLINES),
            sources,
            cache=tmp_path / "c",
            progress=QUIET,
            column="reader",
        )


def _masks(tmp_path: Path) -> MaskFolder:
    return MaskFolder(
        tmp_path / "archive" / "masks", {"0": "background", "1": "liver", "2": "lesion"}
    )


def test_masks_are_judged_by_their_dice(tmp_path: Path) -> None:
    images = archive(tmp_path / "archive", masks=True)

    found = evaluate(
        opened(tmp_path / "p", OUTLINES),
        own.of_folders(images, _masks(tmp_path), new=True),
        cache=tmp_path / "c",
        progress=QUIET,
    )

    assert len(found.patients) == len(PATIENTS)
    assert found.shared.figures.values["dice"].value is not None
    assert found.threshold is None


def test_numbers_are_judged_by_their_errors(tmp_path: Path) -> None:
    images = archive(tmp_path / "archive")
    path = images.parent / "labels.csv"
    lines = path.read_text().replace("normal", "30").replace("pneumonia", "60")
    path.write_text(lines)

    found = evaluate(
        opened(tmp_path / "p", NUMBERS), labelled(images), cache=tmp_path / "c", progress=QUIET
    )

    assert set(found.shared.truths) == {30.0, 60.0}
    assert found.threshold == pytest.approx(
        float(np.sort(np.abs(found.shared.numbers[:, 0] - found.shared.truths))[-2])
    )


def test_a_patient_of_whom_label_and_model_differ_most_comes_first(
    model: Package, images: Path, tmp_path: Path
) -> None:
    found = evaluate(model, labelled(images), cache=tmp_path / "cache", progress=QUIET)

    evaluation_report.write(tmp_path / "out", model, found, 0.1)

    with (tmp_path / "out" / "patients.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["patient"] for row in rows} == set(PATIENTS)
    order = [(row["model contradicts it firmly"] == "False", -float(row["apart"])) for row in rows]
    assert order == sorted(order)
    assert all(row["files"] for row in rows)


def test_a_flipped_label_is_suspected_by_a_model_that_knows_better() -> None:
    from tests.common.studies import task_of

    task = task_of("classification", classes=("a", "b"))
    scores = np.linspace(0.02, 0.2, 20)
    numbers = np.concatenate([np.stack([1 - scores, scores], 1), np.stack([scores, 1 - scores], 1)])
    truths = np.repeat([0.0, 1.0], 20)
    truths[[3, 25]] = 1 - truths[[3, 25]]

    suspects = task.suspects(numbers, truths, np.zeros(40))

    assert list(np.flatnonzero(suspects)) == [3, 25]


def test_what_was_measured_is_the_hospitals_alone(
    model: Package, images: Path, tmp_path: Path
) -> None:
    found = evaluate(model, labelled(images), cache=tmp_path / "cache", progress=QUIET)
    files = evaluation_report.write(tmp_path / "out", model, found, 0.1)

    assert all(each.stat().st_mode & 0o077 == 0 for each in files)
    local = read_local(files[-1], model)
    assert local.patients == len(PATIENTS)
    assert "must not leave" in local.about

    predict(
        model,
        Wanted(images, tmp_path / "predictions", dicom=False, local=local),
        QUIET,
    )
    with (tmp_path / "predictions" / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    sets = [row["set that holds the truth for 90% of patients"] for row in rows]
    assert all(
        each in ("normal", "pneumonia", "normal, pneumonia", "pneumonia, normal") for each in sets
    )


@pytest.mark.parametrize("of_another", ["weights", "study"])
def test_what_was_measured_with_another_model_is_refused(
    model: Package, tmp_path: Path, of_another: str
) -> None:
    own = {"weights": model.statement.weights, "study": model.statement.study}
    other = Local(
        **own | {of_another: "1" * 64},
        alpha=0.1,
        threshold=0.4,
        patients=20,
        profile=profile([], ()),
    )
    path = write_local(tmp_path, other)

    with pytest.raises(PackageError, match="another model"):
        read_local(path, model)


@pytest.mark.parametrize(
    "change",
    [{"middle": {}}, {"spread": dict.fromkeys(("mean", "contrast", "detail", "empty"), 0)}],
)
def test_what_nobody_measured_is_refused(
    model: Package, tmp_path: Path, change: dict[str, object]
) -> None:
    sound = Local(
        weights=model.statement.weights,
        study=model.statement.study,
        alpha=0.1,
        threshold=0.4,
        patients=20,
        profile=profile([], ()),
    ).model_dump(mode="json")
    path = tmp_path / "local.json"
    path.write_text(json.dumps(sound))
    assert read_local(path, model).patients == 20
    path.write_text(json.dumps(sound | {"profile": sound["profile"] | change}))

    with pytest.raises(PackageError, match="evaluate"):
        read_local(path, model)


def test_too_few_patients_for_sets_do_not_hide_the_figures(
    model: Package, images: Path, tmp_path: Path
) -> None:
    found = evaluate(model, labelled(images), cache=tmp_path / "cache", progress=QUIET, alpha=0.01)

    assert found.threshold is None
    assert "too few" in found.why
    assert found.shared.figures.values


def test_nobody_to_judge_on_is_an_error(model: Package, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no patient to judge"):
        evaluate(
            model,
            labelled(images, split=Split(1.0, 0.0, 0.0)),
            cache=tmp_path / "cache",
            progress=QUIET,
        )


def test_a_patient_who_opted_out_is_not_looked_at(
    model: Package, images: Path, tmp_path: Path
) -> None:
    sources = labelled(images)
    out = sources.pseudonyms.of("P001")

    found = evaluate(
        model,
        replace(sources, without=frozenset({out})),
        cache=tmp_path / "cache",
        progress=QUIET,
    )

    assert len(found.patients) == len(PATIENTS) - 1


def test_kappa_is_that_of_scikit_learn() -> None:
    draws = np.random.default_rng(3)
    ours, theirs = draws.integers(0, 3, (2, 50))

    assert kappa(ours, theirs) == pytest.approx(cohen_kappa_score(ours, theirs))


def test_mcnemars_test_by_hand() -> None:
    labels = np.zeros(10, dtype=np.int64)
    model = np.array([0] * 9 + [1])
    reader = np.array([1] * 5 + [0] * 5)

    found = compare(labels, model, reader)

    assert (found.only_model, found.only_reader) == (5, 1)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)


def test_the_last_rounds_are_scored_as_the_package_names_them(model: Package) -> None:
    images, choice = [np.full((1, 1, 8, 8), 0.5, dtype=np.float16)], choice_for(model)

    same = outputs_of_weights(model, model.earlier[0], images, choice)[0]

    np.testing.assert_array_equal(same, outputs_of_weights(model, model.weights, images, choice)[0])


def test_an_image_unlike_the_hospitals_own_is_said() -> None:
    draws = np.random.default_rng(1)
    usual = [draws.uniform(0.3, 0.7, (1, 8, 8)).astype(np.float16) for _ in range(200)]
    found = profile(usual, ["ACME One"])

    assert found.most is not None
    assert found.scanners == ("ACME One",)
    assert max(found.far(np.zeros((1, 8, 8))).values()) > found.most
    more = [draws.uniform(0.3, 0.7, (1, 8, 8)).astype(np.float16) for _ in range(1000)]
    said = np.mean([max(found.far(image).values()) > found.most for image in more])
    assert said < 0.03


def test_too_few_images_tell_nothing_of_what_is_usual() -> None:
    assert profile([np.full((1, 8, 8), 0.5)] * 98, ()).most is None
