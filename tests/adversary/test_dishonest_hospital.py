"""One hospital of ten lies; nine honest ones keep their model, their figures and their study.

Whole studies of real sites over the grid in this process. The tenth trains and signs as a site
does, and says something else instead, with its own key. The studies are without privacy, so
that all that could hide the lie, or call a figure meaningless for another reason, is away.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.privacy.randomness import known_secret
from common.wire.flower import Context, Message
from common.wire.messages import Reply, reply_from_record, reply_to_record
from common.wire.signing import SigningKey
from simulations.grids.grid import Client
from simulations.reports.report import FILE
from simulations.reports.result import Result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.integration.conftest import SITE_FILE, study_text, write_images

LIAR = "mallory"
HONEST = tuple(f"honest-{number}" for number in range(9))
DECLARED = 15
BINS = 200
Lie = Callable[[Reply], Reply | None]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten hospitals, at which nothing in an image tells its class."""
    folder = tmp_path_factory.mktemp("ten")
    generator = np.random.default_rng(0)
    for name in (*HONEST, LIAR, "test"):
        write_images(folder / name, generator, contrast=0)
        text = SITE_FILE.format(name=name).replace("= 30", f"= {DECLARED}")
        text = text.replace("[0.8, 0.2, 0.0]", "[0.5, 0.5, 0.0]")
        text = text.replace("allow_known_key", "allow_no_privacy = true\nallow_known_key")
        (folder / name / "site.toml").write_text(text)
    manifest = {"kind": "synth", "seed": 0, "sites": [*HONEST, LIAR]}
    (folder / "hospitals.json").write_text(json.dumps(manifest))
    return folder


@dataclass
class Run:
    """What became of a study with a liar in it."""

    folder: Path
    result: Result

    @property
    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "coordinator/outcome.json").read_bytes())
        return found

    @property
    def evaluation(self) -> dict[str, Any]:
        (record,) = self.outcome["evaluations"]
        found: dict[str, Any] = record
        return found

    @property
    def report(self) -> str:
        return " ".join((self.folder / FILE).read_text().split())


@pytest.fixture
def run(hospitals: Path, tmp_path: Path) -> Callable[..., Run]:
    def run(purpose: str, lie: Lie, name: str = "run") -> Run:
        few = {"rounds": 1, "batch_size": 10, "learning_rate": 1.0}
        study = study_text(
            data={"min_patients": 10},
            training=few,
            privacy={"mode": "none", "epsilon": None, "delta": None},
            evaluation={"bins": BINS, "epsilon_share": None},
        )
        (tmp_path / f"{name}.toml").write_text(study)
        settings = RunSettings(
            study=tmp_path / f"{name}.toml",
            hospitals=hospitals,
            run=tmp_path / name,
            baselines=False,
            threads=1,
            command="",
        )
        return Run(
            settings.run, run_study(settings, tap=lambda client: lying(client, purpose, lie))
        )

    return run


def lying(client: Client, purpose: str, lie: Lie) -> Client:
    """The sites' code; what the liar sends for one purpose is made by a lie, and signed."""
    key = SigningKey(known_secret(0, LIAR, "signing"))

    def answer(message: Message, context: Context) -> Message:
        message_of_site = client(message, context)
        if LIAR not in str(context.node_config["site"]) or not message_of_site.has_content():
            return message_of_site
        reply = reply_from_record(message_of_site.content, most_weights=10**6)
        if reply.purpose != purpose:
            return message_of_site
        told = lie(reply)
        if told is None:
            raise RuntimeError("the site is off")
        signed = told.with_signature(key.sign(told.signed_bytes))
        return Message(reply_to_record(signed), reply_to=message)

    return answer


def silent(_: Reply) -> None:
    """The site is off."""


def counting(normal: int, bright: int) -> Lie:
    """All normal patients score lowest, and all bright ones highest: a perfect model."""
    counts = np.zeros((2, 1, BINS), dtype=np.int64)
    counts[0, 0, 0], counts[1, 0, -1] = normal, bright
    return lambda reply: replace(reply, arrays=counts.reshape(-1))


@pytest.mark.long
def test_cells_of_2_to_the_40_do_not_make_a_perfect_model(run: Callable[..., Run]) -> None:
    """They turned nine honest sites' AUC of 0.50 into 1.00, which was called meaningful."""
    lied, away = run("evaluate", counting(2**40, 2**40)), run("evaluate", silent, "away")
    assert lied.evaluation["sites"] == away.evaluation["sites"] == sorted(HONEST)
    assert lied.evaluation["histogram"] == away.evaluation["histogram"]
    auc = lied.evaluation["metrics"]["values"]["auc"]
    assert 0.3 < auc["value"] < 0.7
    assert auc["meaningful"]
    reason = lied.evaluation["absences"][LIAR]
    assert reason.startswith(f"an impossible histogram: {2**40} patients in a cell")
    assert f"allow {2 * DECLARED}" in reason
    left_out = f"{LIAR} was missing in 1 of the evaluations, first in round 1: {reason}"
    assert left_out in lied.report
    assert left_out not in away.report
    assert lied.outcome["final_weights_sha256"] == away.outcome["final_weights_sha256"]


def test_what_one_site_decides_is_not_called_meaningful(run: Callable[..., Run]) -> None:
    """A site keeps within every bound, and claims that the model is perfect."""
    lied = run("evaluate", counting(DECLARED, DECLARED))
    assert LIAR in lied.evaluation["sites"]
    auc = lied.evaluation["metrics"]["values"]["auc"]
    assert auc["value"] > 0.58
    assert not auc["meaningful"]
    assert auc["why"].startswith(f"{LIAR} alone decides it: without {LIAR} it is 0.")
    assert f"no: {auc['why']}" in lied.report


@pytest.mark.long
def test_a_billion_declared_patients_are_left_out_before_round_one(
    run: Callable[..., Run],
) -> None:
    def billion(reply: Reply) -> Reply:
        return replace(
            reply,
            document=json.dumps(
                json.loads(reply.document) | {"declared_patients": 10**9, "most_patients": 10**9},
                sort_keys=True,
                separators=(",", ":"),
            ),
        )

    lied, away = run("offer", billion), run("offer", silent, "away")
    assert lied.outcome["final_weights_sha256"] == away.outcome["final_weights_sha256"]
    assert lied.outcome["sites"].keys() == set(HONEST)
    assert {each["share"] for each in lied.outcome["shares"].values()} == {1 / 9}
    reason = lied.outcome["left_out"][LIAR]
    assert reason.startswith("a site declares more patients than were agreed on (1000000000")
    assert f"wanted at most {DECLARED}, as agreed" in reason
    assert f"{LIAR} was left out of the study: {reason}" in lied.report
    assert lied.report.count("11.1&nbsp;%") == len(HONEST)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda sound: np.full(sound.size, np.nan, np.float32), "an array of float32, not int32"),
        pytest.param(
            lambda sound: np.full(sound.size, -(2**31), np.int32),
            f"an entry beyond {2**31 - 1}",
            marks=pytest.mark.long,
        ),
        pytest.param(
            lambda sound: np.full(sound.size, 2**31 - 1, np.int32),
            "an update that was cut off",
            marks=pytest.mark.long,
        ),
    ],
    ids=["not a number", "overflow", "saturated"],
)
def test_an_update_that_cannot_be_added_costs_nobody_else_the_round(
    made: Callable[[Any], Any], reason: str, run: Callable[..., Run]
) -> None:
    lied = run("train", lambda reply: replace(reply, arrays=made(reply.arrays)))
    absences = [each for each in lied.outcome["absences"] if each["purpose"] == "train"]
    assert [(each["round"], each["site"]) for each in absences] == [(1, LIAR)]
    assert all(each["reason"].startswith(reason) for each in absences)
    assert lied.result.metrics.main.value is not None
