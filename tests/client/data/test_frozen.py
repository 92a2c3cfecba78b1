"""A study keeps what was decoded for it: an update of a decoder changes no bit that it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from client.consent import disk
from client.data import cache
from client.records.approvals import Approval
from client.site import Site
from common.plan import Plan
from tests.client.site_fixtures import Hospital, answered, approved, asking, code_of
from tests.common.studies import small_study

STUDY, NEXT = small_study(), small_study(study={"name": "next"})
Update = Callable[..., None]


@pytest.fixture
def update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Update]:
    """Installs another version of a decoder; ``shade`` is added to every pixel it decodes."""
    prepared = cache._prepared  # noqa: SLF001 - what a decoder's update would change

    def install(version: str, shade: float = 0.0) -> None:
        place = tmp_path / version / f"pillow-{version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: pillow\nVersion: {version}\n"
        )
        monkeypatch.syspath_prepend(place.parent)
        monkeypatch.setattr(cache, "_prepared", lambda *image: prepared(*image) + np.float16(shade))
        forgotten()

    def forgotten() -> None:
        cache.decoders.cache_clear()
        cache._version.cache_clear()  # noqa: SLF001 - a process looks once

    yield install
    monkeypatch.undo()
    forgotten()


def seen(site: Site, plan: Plan) -> tuple[bytes, tuple[str, ...]]:
    """The pixels that a plan's next round reads, and whom they are of."""
    cohort = site.cohorts.of(approval_of(site, plan))
    return cohort.images.tobytes(), tuple(each.digest for each in cohort.patients)


def approval_of(site: Site, plan: Plan) -> Approval:
    found = site.approvals.find(plan.hash)
    assert found is not None
    return found


def test_after_an_update_a_study_that_runs_reads_the_old_pixels_and_a_new_one_the_new(
    tmp_path: Path, update: Update
) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = approved(site, STUDY)
        assert code_of(site, asking(plan)) == "ok"
        before = seen(site, plan)
    update("99.1", shade=0.25)
    with hospital.open() as site:
        disk.tidy(site)
        assert seen(site, plan) == before
        assert code_of(site, asking(plan, 2)) == "ok"
        after = approved(site, NEXT)
        assert code_of(site, asking(after)) == "ok"
        assert seen(site, after)[0] != before[0]
        assert seen(site, plan) == before
        assert code_of(site, asking(plan, 3)) == "ok"
    assert {row["until"] for row in hospital.rows("members")} == {None}


@pytest.mark.parametrize("shade", [0.0, 0.25])
def test_where_the_cache_is_lost_too_only_who_is_decoded_otherwise_leaves(
    tmp_path: Path, update: Update, shade: float
) -> None:
    """Noise is keyed to what was decoded: the same noise never meets other pixels."""
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = approved(site, STUDY)
        assert code_of(site, asking(plan)) == "ok"
        before = seen(site, plan)
    shutil.rmtree(hospital.state / "cache")
    update("99.2", shade)
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "ok"
        assert (seen(site, plan) == before) == (shade == 0)
    whys = {row["why"] for row in hospital.rows("members")}
    assert whys == ({""} if shade == 0 else {"images or label changed"})


def test_what_could_not_be_decoded_stays_out_of_the_study_that_runs(
    tmp_path: Path, update: Update
) -> None:
    hospital = Hospital(tmp_path / "north")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_prepared", _cannot)
        with hospital.open() as site:
            plan = approved(site, STUDY)
            assert answered(site, asking(plan)).arrays is not None
            assert seen(site, plan) == (b"", ())
    update("99.3")
    with hospital.open() as site:
        assert seen(site, plan) == (b"", ())
        assert seen(site, approved(site, NEXT))[1]


def _cannot(image: object, shape: object) -> object:
    raise ValueError("a decoder that is not there")
