from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.study.study_file import load_study
from simulations.audit.audit_settings import AuditSettings
from simulations.audit.findings import OneRunFinding
from simulations.audit.mechanism import Claim
from simulations.audit.one_run import Heard, audit_one_run, membership, prove
from simulations.runs.run_settings import Watcher
from tests.integration.conftest import SITES, study_text, write_hospitals

CLAIM = Claim(rate=0.25, noise_multiplier=2.25, steps=200, delta=1e-5, epsilon=8.0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> OneRunFinding:
    """Two runs of the tiny study with canaries, as the command would run them."""
    folder = tmp_path_factory.mktemp("one-run")
    (folder / "study.toml").write_text(study_text())
    write_hospitals(folder / "hospitals")
    settings = AuditSettings(
        study=folder / "study.toml",
        hospitals=folder / "hospitals",
        out=folder / "audit",
        canaries=8,
        runs=2,
        threads=1,
        processes=1,
    )
    return audit_one_run(settings, load_study(settings.study), 0.05, Watcher())


@pytest.mark.long
def test_a_finding_counts_the_canaries_of_all_hospitals_and_runs(found: OneRunFinding) -> None:
    assert found.sites == SITES
    assert found.canaries == 2 * 3 * 8
    assert found.inserted == found.membership.members
    assert found.canaries == found.membership.members + found.membership.others


@pytest.mark.long
def test_a_study_that_is_private_survives(found: OneRunFinding) -> None:
    assert found.survived
    assert 0 <= found.empirical < found.claimed <= 8.0


@pytest.mark.long
def test_the_runs_lie_where_they_were_asked_for(found: OneRunFinding, tmp_path: Path) -> None:
    assert [bound.source.split(",")[0] for bound in found.bounds] == [
        "Steinke",
        "Mahloujifar",
    ]


@pytest.mark.long
def test_a_ceiling_says_what_so_few_canaries_could_show_at_most(found: OneRunFinding) -> None:
    assert found.empirical <= found.ceiling < found.claimed


def heard(scores: list[float], members: list[bool]) -> Heard:
    return Heard(np.array(scores), np.array(members))


def test_scores_that_tell_everyone_apart_prove_what_their_number_allows() -> None:
    """400 of 400 right; of five numbers of guesses and two bounds each may fail in 0.5 %."""
    members = [True] * 200 + [False] * 200
    bounds = prove([CLAIM], heard([1.0] * 200 + [0.0] * 200, members), 0.05)

    share = 0.005 ** (1 / 400)
    assert bounds[0].epsilon == pytest.approx(math.log(share / (1 - share)), rel=0.25)
    assert bounds[0].epsilon < math.log(share / (1 - share))
    assert bounds[0].confidence == pytest.approx(0.975)


def test_scores_that_tell_nothing_prove_nothing() -> None:
    generator = np.random.default_rng(0)
    bounds = prove([CLAIM], Heard(generator.random(400), generator.random(400) < 0.5), 0.05)

    assert [bound.epsilon for bound in bounds] == [0.0, 0.0]


def test_the_membership_curve_of_four_scores_by_hand() -> None:
    """From the top: in, out, in, out. Of four pairs three are in the right order."""
    curve = membership(heard([4.0, 3.0, 2.0, 1.0], [True, False, True, False]))

    assert curve.auc == pytest.approx(0.75)
    assert curve.points == ((0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0))
    assert curve.caught == ((0.001, 0.5), (0.01, 0.5), (0.1, 0.5))
