"""Features at a site: computed once, kept for one plan alone, erased with the patient."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import structlog

from client.administration import service
from client.consent import disk
from client.consent.decisions import freeze_pending
from client.consent.features import are_due
from client.consent.problems import last_failures
from client.data.cohort import Part
from client.requests import round as round_
from client.site import Site
from client.training import features
from client.training.features import Stem, in_rounds, time_of
from client.training.pacing import Pace
from common.numerics import EngineChoice
from common.plan import Plan
from common.study.study_file import Study
from common.wire.messages import Request
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    frozen_of,
    plan_for,
    proposal,
    write_image,
)
from tests.common.studies import exit_code, small_study

STUDY = small_study(model={"widths": [4], "trainable": ["head"]}, evaluation={"rounds": [1, 2, 3]})
FROZEN = frozen_of(STUDY)


class Counting:
    """Counts the images whose features are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        real = Stem.of

        def of(stem: Stem, images: npt.NDArray[Any], rows: tuple[int, ...]) -> npt.NDArray[Any]:
            self.images += len(rows)
            return real(stem, images, rows)

        monkeypatch.setattr(Stem, "of", of)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def provided(site: Site, study: Study = STUDY) -> Plan:
    """A plan that the site has approved, and whose frozen weights it has."""
    plan = approved(site, study)
    arrays = frozen_of(study)
    request = Request(study.study.name, plan.hash, 0, "provide", arrays=arrays)
    assert code_of(site, request) == "ok"
    return plan


def trained(site: Site, plan: Plan, round_number: int = 1) -> npt.NDArray[Any]:
    arrays = answered(site, asking(plan, round_number)).arrays
    assert arrays is not None
    return arrays


def files(site: Site, plan: Plan) -> list[Path]:
    return sorted(site.features.home(plan).glob("*.f32"))


def test_the_first_round_computes_them_and_no_other(tmp_path: Path, counting: Counting) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = provided(site)
        assert counting.images == 0
        first = trained(site, plan)
        assert counting.images == sum(hospital.patients.values())
        assert np.abs(first).max() > 0
        assert code_of(site, asking(plan, 1, "evaluate")) == "ok"
        second = trained(site, plan, 2)
        (file,) = files(site, plan)
        assert file.stat().st_mode & 0o077 == 0
        index = (site.features.home(plan) / "index.json").read_text()
    assert counting.images == sum(hospital.patients.values())
    assert not any(row["patient"] in index for row in hospital.rows("members"))
    with hospital.open() as site:  # after a restart, too
        again = trained(site, plan, 3)
    assert counting.images == sum(hospital.patients.values())
    assert len({reply.tobytes() for reply in (first, second, again)}) == 3


def test_a_site_that_serves_computes_them_after_its_reply_until_a_tick(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(Pace, "begin", lambda _, milliseconds: begun.append(milliseconds))
    asked: list[int] = []

    def timed(study: Study, choice: EngineChoice, patients: int) -> int:
        asked.extend((patients, time_of(study, choice, patients)))
        return asked[-1]

    monkeypatch.setattr(features, "time_of", timed)
    hospital = Hospital(tmp_path / "north", seed=None, policy={"allow_known_key": False})
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
        assert counting.images == 0  # the weights have not come
        begun.clear()
        freeze_pending(site)
        assert begun == []
        request = Request(STUDY.study.name, plan.hash, 0, "provide", arrays=FROZEN)
        assert code_of(site, request) == "ok"
        freeze_pending(site)
        assert counting.images > sum(hospital.patients.values())  # a made-up one is timed, too
        most, given = asked
        assert (most, begun) == (54, [plan.numerics.ticks.train, given])  # of public numbers alone
        computed = counting.images
        begun.clear()
        freeze_pending(site)
        assert begun == []
        assert code_of(site, asking(plan)) == "ok"
    assert counting.images == computed


def test_what_fails_is_told_to_the_staff_and_tried_again(
    tmp_path: Path, counting: Counting
) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = provided(site)
        weights = site.state / "frozen" / plan.frozen
        weights.write_bytes(weights.read_bytes()[:-4])
        freeze_pending(site)
        (problem,) = last_failures(site)
        assert "frozen weights" in str(problem)
        request = Request(STUDY.study.name, plan.hash, 0, "provide", arrays=FROZEN)
        assert code_of(site, request) == "ok"
        freeze_pending(site)
        assert list(last_failures(site)) == []
    assert counting.images > 0


def test_a_study_that_augments_keeps_none(tmp_path: Path) -> None:
    study = small_study(
        model={"widths": [4], "trainable": ["head"]}, training={"augmentation": {"flip": True}}
    )
    with Hospital(tmp_path / "north").open() as site:
        plan = provided(site, study)
        freeze_pending(site)
        trained(site, plan)
        assert not site.features.home(plan).exists()


def test_whoever_opts_out_leaves_the_file_and_nobody_else_is_computed_again(
    tmp_path: Path, counting: Counting
) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = provided(site)
        trained(site, plan)
        computed, (before,) = counting.images, files(site, plan)
        whole = np.fromfile(before, dtype="<f4").reshape(sum(hospital.patients.values()), -1)
        service.opt_out(site, ["P02"], by="staff")
        trained(site, plan, 2)
        (after,) = files(site, plan)
        rest = np.fromfile(after, dtype="<f4").reshape(-1, whole.shape[1])
        again = trained(site, plan, 3)
        assert files(site, plan) == [before]
    assert counting.images == computed
    assert np.isfinite(again).all()
    assert after == before  # it is not written anew
    assert len(rest) == len(whole)
    gone = (rest == 0.0).all(axis=1)
    assert gone.sum() == hospital.patients["P02"]
    assert np.array_equal(rest[~gone], whole[~gone])
    assert not (whole[gone] == 0.0).all(axis=1).any()


def test_rows_of_who_left_are_erased_also_where_that_was_interrupted(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = provided(site)
        trained(site, plan)
        (file,) = files(site, plan)
        index = site.features.home(plan) / "index.json"
        whole, text = file.read_bytes(), index.read_text()
        service.opt_out(site, ["P02"], by="staff")
        trained(site, plan, 2)
        # Killed after the names were changed, and before the rows were.
        file.write_bytes(whole)
        index.write_text(index.read_text().replace("gone-", "going-"))
        trained(site, plan, 3)
        assert file.read_bytes() != whole
        assert "going-" not in index.read_text()
        assert index.read_text() != text


def newcomer(hospital: Hospital, name: str) -> None:
    instance = write_image(hospital.folder / "images" / f"{name}-0.dcm", name, 0)
    with (hospital.folder / "labels.csv").open("a") as labels:
        labels.write(f"{instance},normal\n")


def test_what_a_person_approves_anew_is_computed_in_the_time_that_is_given_to_it(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newcomers must not show by a round that takes longer than its own tick."""
    hospital = Hospital(tmp_path / "north", policy={"approval": "ask"})
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == "pending"
        service.approve(site, STUDY.study.name, by="staff")
        arrays = FROZEN
        request = Request(STUDY.study.name, plan.hash, 0, "provide", arrays=arrays)
        assert code_of(site, request) == "ok"
        freeze_pending(site)
        trained(site, plan)
        for number in range(30, 40):
            newcomer(hospital, f"P{number}")
        before = counting.images
        service.approve(site, STUDY.study.name, by="staff")
        monkeypatch.setattr(round_, "tick", lambda *_: 123_400)
        begun: list[int] = []
        monkeypatch.setattr(site.pace, "begin", begun.append)
        assert code_of(site, asking(plan, 2)) == "ok"
        assert 123_400 in begun
        assert counting.images == before + 10
        begun.clear()
        assert code_of(site, asking(plan, 3)) == "ok"
        assert 123_400 not in begun


def test_a_plan_without_a_member_is_not_computed_again_and_again(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", patients={"P01": 1}, split=(1.0, 0.0, 0.0))
    with hospital.open() as site:
        service.opt_out(site, ["P01"], by="staff")
        plan = provided(site)
        assert are_due(site, site.approvals.require(plan.hash))
        freeze_pending(site)
        assert not are_due(site, site.approvals.require(plan.hash))
        freeze_pending(site)
        assert not are_due(site, site.approvals.require(plan.hash))


def test_a_study_that_is_stopped_is_not_computed_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan, seen, real = provided(site), list[int](), Stem.of

        def stopping(stem: Stem, images: npt.NDArray[Any], rows: tuple[int, ...]) -> Any:  # noqa: ANN401 - as the stem's
            seen.extend(rows)
            if len(seen) == len(rows):
                return real(stem, images, rows)
            service.stop(site, STUDY.study.name, by="staff")
            return real(stem, images, rows)

        monkeypatch.setattr(features, "time_of", lambda *_: 100)
        monkeypatch.setattr(Stem, "of", stopping)
        freeze_pending(site)
        assert 0 < len(seen) < 24
        assert list(last_failures(site)) == []
        assert not files(site, plan)


def test_neighbouring_sites_have_the_same_features_but_for_one_patient(tmp_path: Path) -> None:
    found = []
    for name, without in (("all", None), ("one-less", "P02")):
        hospital = Hospital(tmp_path / name)
        for path in (tmp_path / name / "images").glob(f"{without}-*"):
            path.unlink()
        with hospital.open() as site:
            plan = provided(site)
            trained(site, plan)
            (file,) = files(site, plan)
            rows = np.fromfile(file, dtype="<f4").reshape(-1, plan.weights // 2 - 1)
        found.append([row.tobytes() for row in rows])
    everyone, fewer = found
    assert set(fewer) < set(everyone)
    assert len(everyone) - len(fewer) == 3


def test_the_end_of_the_plan_deletes_them_and_a_running_one_keeps_its_own(tmp_path: Path) -> None:
    other = small_study(
        study={"name": "other"}, model={"widths": [4], "trainable": ["head"], "projection": 2}
    )
    with Hospital(tmp_path / "north", policy={"max_open_studies": 2}).open() as site:
        first, second = provided(site), provided(site, other)
        trained(site, first)
        trained(site, second)
        assert files(site, first)
        assert files(site, second)
        service.stop(site, STUDY.study.name, by="staff")
        assert not site.features.home(first).exists()
        assert files(site, second)


@pytest.mark.parametrize("damage", ["short", "gone", "no-index"])
def test_a_damaged_file_is_computed_again(damage: str, tmp_path: Path, counting: Counting) -> None:
    replies = []
    for name in ("whole", "damaged"):
        with Hospital(tmp_path / name / "north").open() as site:
            plan = provided(site)
            trained(site, plan)
            (file,) = files(site, plan)
            once = counting.images
            if name == "damaged":
                if damage == "short":
                    file.write_bytes(file.read_bytes()[:-4])
                elif damage == "gone":
                    file.unlink()
                else:
                    (site.features.home(plan) / "index.json").unlink()
            replies.append(trained(site, plan, 2))
    assert np.array_equal(replies[0], replies[1])
    assert counting.images == 2 * (once // 2) + once // 2


def test_another_arithmetic_has_features_of_its_own(tmp_path: Path, counting: Counting) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = provided(site)
        trained(site, plan)
        once = counting.images
        cohort = site.cohorts.of(site.approvals.require(plan.hash))
        members = {each.pseudonym: each.digest for each in cohort.patients}
        site.features.of(plan, cohort, members, FROZEN, plan.numerics)
        assert counting.images == once
        changed = plan.numerics.model_copy(update={"versions": {"torch": "0"}})
        site.features.of(plan, cohort, members, FROZEN, changed)
        assert counting.images == 2 * once


def test_a_site_that_is_killed_while_it_computes_ends_in_the_same_bits(tmp_path: Path) -> None:
    replies = []
    for name, kill in (("undisturbed", None), ("killed", "features.written:7")):
        hospital = Hospital(tmp_path / name / "north")
        with hospital.open() as site:
            plan = provided(site)

        def work(hospital: Hospital = hospital, plan: Plan = plan) -> None:
            with hospital.open() as site:
                trained(site, plan)

        code = exit_code(work, kill_at=kill)
        assert code == (0 if kill is None else -signal.SIGKILL)
        with hospital.open() as site:
            replies.append(trained(site, plan))
            assert len(files(site, plan)) == 1
        assert len(hospital.rows("charges")) == 1
    assert np.array_equal(replies[0], replies[1])


def test_room_is_kept_for_them_when_images_are_decoded(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        whole = disk.bytes_free_for(site, small_study())
        image, beside = 8 * 8 * 2, 4 * in_rounds(STUDY).data.channels
        assert disk.bytes_free_for(site, STUDY) == whole * image // (image + beside)
        rows = disk.look(site, small_study()).bytes // image
        assert disk.look(site, STUDY).bytes == rows * (image + beside)


def test_what_is_logged_names_nobody(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site, structlog.testing.capture_logs() as logged:
        trained(site, provided(site))
        pseudonyms = [each.pseudonym for each in site.cohorts.read(STUDY).patients]
    assert any(line["event"] == "features.kept" for line in logged)
    assert not any(each in str(line) for line in logged for each in pseudonyms)


def test_a_record_that_changed_since_the_approval_is_not_looked_at(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
        write_image(hospital.folder / "images" / "P02-0.dcm", "P02", 77)
        labels = hospital.folder / "labels.csv"
        instance = f"1.2.3.{int.from_bytes(b'P02', 'big')}"
        labels.write_text(labels.read_text().replace(f"{instance}.0,", f"{instance}.77,"))
        request = Request(STUDY.study.name, plan.hash, 0, "provide", arrays=FROZEN)
        assert code_of(site, request) == "ok"
        freeze_pending(site)
        (file,) = files(site, plan)
        rows = file.stat().st_size // (4 * in_rounds(STUDY).data.channels)
    assert rows == sum(hospital.patients.values()) - hospital.patients["P02"]


def test_test_patients_have_none(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", split=(0.5, 0.25, 0.25))
    with hospital.open() as site:
        plan = provided(site)
        trained(site, plan)
        cohort = site.cohorts.read(STUDY)
        (file,) = files(site, plan)
        rows = file.stat().st_size // (4 * in_rounds(STUDY).data.channels)
    parts = {part: sum(len(each.images) for each in cohort.part(part)) for part in get_args(Part)}
    assert parts["test"] > 0
    assert rows == parts["train"] + parts["validation"]
