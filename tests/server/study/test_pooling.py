"""A figure is all sites' figure, or it says whose word it is."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from common.figures import metrics
from common.tasks.classification import Classification
from common.tasks.regression import Regression
from common.tasks.tasks import KINDS
from server.study import pooling
from server.study.pooling import Pooled, SiteCounts, nothing, shown
from tests.common.studies import classification, study_of

CLASSES = ("normal", "pneumonia")
TASK = Classification(classes=CLASSES)


def pool(releases: Mapping[str, SiteCounts]) -> Pooled:
    bins = next(iter(releases.values())).counts.shape[2]
    return pooling.pool(releases, TASK, bins)


def release(positives: list[int], negatives: list[int], noise: float = 0.0) -> SiteCounts:
    """A histogram of two classes; scores ascend from left to right."""
    counts = np.array([[negatives], [positives]], dtype=np.int64)
    return SiteCounts(counts, noise)


CHANCE = release([5] * 10, [5] * 10)
"""50 patients of each class, whose scores say nothing: an AUC of one half."""
GOOD = release([0, 0, 1, 2, 4, 5, 7, 9, 11, 11], [11, 11, 9, 7, 5, 4, 2, 1, 0, 0])
"""50 of each class, as a good model scores them."""


def test_the_sum_and_its_noise_are_those_of_all_sites() -> None:
    releases = {"north": release([1, 2], [3, 4], 3.0), "south": release([-5, 6], [0, 1], 4.0)}
    pooled = pool(releases)
    assert pooled.counts.tolist() == [[[3, 5]], [[-4, 8]]]
    assert pooled.variance == pytest.approx(9 + 16 + 2 / 12)


def test_sites_that_agree_leave_the_figures_as_they_are() -> None:
    releases = dict.fromkeys(("east", "north", "south", "west"), GOOD)
    whole = metrics.evaluate(4 * GOOD.counts, noise_variance=0.0, classes=CLASSES)
    assert pool(releases).figures == whole
    assert whole.values["auc"].meaningful


def test_two_sites_that_agree_are_enough() -> None:
    figures = pool({"north": GOOD, "south": GOOD}).figures
    assert figures.values["auc"].meaningful
    assert figures.values["accuracy"].meaningful


def test_a_figure_that_one_site_moves_is_that_sites_word() -> None:
    """Nine hospitals at chance, and one, no larger than two of them, that claims perfection."""
    perfect = release([0] * 9 + [100], [100] + [0] * 9)
    honest = {f"honest-{number}": CHANCE for number in range(9)}
    assert pool(honest).figures.values["auc"].meaningful
    auc = pool({**honest, "mallory": perfect}).figures.values["auc"]
    # Of 550 x 550 pairs 450 x 450 are at one half; with one of mallory's hardly any is lost.
    assert auc.value == pytest.approx(0.65, abs=0.02)
    assert not auc.meaningful
    assert str(auc.why).startswith("mallory alone decides it: without mallory it is 0.500 (0.46")


def test_whoever_lies_downwards_is_named_too() -> None:
    worst = release([100] + [0] * 9, [0] * 9 + [100])
    honest = dict.fromkeys(("east", "north", "south", "west"), GOOD)
    auc = pool({**honest, "mallory": worst}).figures.values["auc"]
    assert not auc.meaningful
    assert str(auc.why).startswith("mallory alone decides it: without mallory it is 0.9")


def test_a_figure_for_which_only_one_site_speaks_rests_on_it() -> None:
    """Nine tiny hospitals under noise say nothing; what one large one says is its own."""
    tiny = release([0, 1], [1, 0], 6.0)
    few = {f"tiny-{number}": tiny for number in range(9)}
    large = release([10, 190], [190, 10], 6.0)
    assert not pool(few).figures.values["sensitivity"].meaningful
    found = pool({**few, "large": large}).figures.values["sensitivity"]
    assert not found.meaningful
    assert str(found.why).startswith("it rests on large alone: without large, noise exceeds signal")


def test_where_the_others_know_too_little_one_site_makes_no_figure() -> None:
    """Three hospitals under noise, and a fourth with a third of the patients, all told apart."""
    chance = release([2, 1, 2, 1, 2, 1, 2, 1, 2, 1], [1, 2, 1, 2, 1, 2, 1, 2, 1, 2], 2.0)
    honest = dict.fromkeys(("east", "north", "south"), chance)
    perfect = release([0] * 9 + [22], [22] + [0] * 9, 2.0)
    assert not pool(honest).figures.values["auc"].meaningful
    auc = pool({**honest, "mallory": perfect}).figures.values["auc"]
    assert auc.value is not None
    assert auc.value > 0.65
    assert not auc.meaningful
    assert str(auc.why).startswith("mallory alone decides it")


def test_the_figures_of_a_single_site_are_its_own() -> None:
    figures = pool({"north": GOOD}).figures
    assert figures.values["auc"].why == "only north was counted; no other site confirms it"
    assert not any(each.meaningful for each in (figures.values["accuracy"], *figures.of["auc"]))
    assert figures.patients.value == 100


def test_chance_alone_moves_no_figure() -> None:
    """Four sites of 40 patients from one distribution, a hundred times: hardly any is accused."""
    generator = np.random.default_rng(7)
    ill, well = np.linspace(1, 10, 10) / 55, np.linspace(10, 1, 10) / 55
    accused = 0
    for _ in range(100):
        releases = {
            name: SiteCounts(
                np.array([[generator.multinomial(20, well)], [generator.multinomial(20, ill)]])
                + np.rint(generator.normal(0, 1, (2, 1, 10))).astype(np.int64),
                1.0,
            )
            for name in "abcd"
        }
        why = pool(releases).figures.values["auc"].why
        accused += why is not None and "alone" in why
    assert accused <= 3


def test_where_nothing_could_be_counted_every_figure_says_why() -> None:
    pooled = nothing(classification(classes=3), 4, "nobody")
    assert pooled.counts.shape == (3, 3, 4)
    figures = pooled.figures
    each = (
        figures.patients,
        figures.values["auc"],
        figures.values["f1"],
        *figures.of["auc"],
        *figures.of["prevalence"],
    )
    assert {(one.value, one.meaningful, one.why) for one in each} == {(None, False, "nobody")}
    assert len(figures.of["auc"]) == 3


def test_an_event_tells_the_figures_under_their_names_and_what_to_doubt() -> None:
    pooled = pool({"north": CHANCE, "south": CHANCE})
    told = shown(pooled.figures, TASK)
    assert told["headline"] == "auc"
    assert told["names"][0] == ("auc", "AUC")
    assert {name for name, _ in told["names"]} == set(told["values"])
    assert told["values"]["auc"]["value"] == 0.5
    assert told["tables"]["confusion"] == pooled.figures.tables["confusion"]
    assert told["doubts"] == list(TASK.doubts(pooled.figures)) != []
    assert "series" not in told
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_names_no_figure_that_it_does_not_hold(kind: str) -> None:
    """Some figures are of a simulation alone: a coordinator's table asked for them, and ended."""
    task = study_of(kind).task
    counts = np.ones(task.release(4).shape, dtype=np.int64)
    told = shown(task.figures(counts, noise_variance=0.0), task)
    assert [name for name, _ in told["names"]] == [
        name for name in task.names if name in told["values"]
    ]
    assert told["names"][0][0] == told["headline"] in told["values"]


def test_of_a_figure_with_a_unit_one_site_may_move_a_share_of_its_range() -> None:
    """Errors of about two years of a reach of twelve; in the east they are half a year larger."""
    task = Regression(lowest=20.0, highest=68.0)

    def errors(first: list[int]) -> SiteCounts:
        counts = np.zeros(task.release(10).shape, dtype=np.int64)
        counts[0, 1, 6:] = first
        counts[1, 0, :10] = sum(first) // 10
        return SiteCounts(counts, 0.0)

    usual, more, most = [200, 200, 0, 0, 0, 0], [150, 250, 0, 0, 0, 0], [0, 0, 0, 0, 0, 400]
    sites = {"north": errors(usual), "south": errors(usual), "west": errors(usual)}
    agreed = pooling.pool(sites | {"east": errors(more)}, task, 10).figures
    assert agreed.values["mean_error"].meaningful
    moved = pooling.pool(sites | {"east": errors(most)}, task, 10).figures
    for name in ("mean_error", "bias"):
        assert str(moved.values[name].why).startswith("east alone decides it: without east")
