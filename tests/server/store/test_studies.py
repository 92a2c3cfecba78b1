"""Studies: a name for ever, sites that are admitted, and one state at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from common.errors import CoordinatorError
from server.store import CoordinatorStore
from server.store.rows import StudyRecord, StudyState
from server.store.studies import LARGEST_SEED
from tests.server.store.conftest import card


@pytest.fixture
def ready(store: CoordinatorStore) -> CoordinatorStore:
    """A store with two sites, and one that was removed."""
    for number, name in enumerate(("south", "north", "gone")):
        store.admit(card(name, number))
    store.suspend("gone")
    return store


def test_a_new_study_is_offered(ready: CoordinatorStore) -> None:
    document = '[study]\nname = "cxr"\ntitle = "Lungenentzündung"\n'
    study = ready.add_study("cxr", document, LARGEST_SEED, ["south", "north", "south"])

    assert (study.state, study.why) == (StudyState.OFFERED, "")
    assert (study.document, study.seed) == (document, LARGEST_SEED)
    assert study.sites == ("north", "south")
    assert ready.study("cxr") == study
    assert ready.studies() == (study,)


@pytest.mark.parametrize("state", [StudyState.OFFERED, StudyState.COMPLETED])
def test_a_name_is_used_once(ready: CoordinatorStore, state: StudyState) -> None:
    ready.add_study("cxr", "first", 1, ["north"])
    ready.set_state("cxr", state)
    with pytest.raises(CoordinatorError, match="a name is used once") as caught:
        ready.add_study("cxr", "second", 1, ["north"])
    assert caught.value.details["found"].startswith(state)
    assert ready.study("cxr").document == "first"


@pytest.mark.parametrize(
    ("sites", "says"), [([], "has no site"), (["north", "gone", "west"], "gone, west")]
)
def test_a_study_is_for_admitted_sites(
    ready: CoordinatorStore, sites: list[str], says: str
) -> None:
    with pytest.raises(CoordinatorError, match=says) as caught:
        ready.add_study("cxr", "", 1, sites)
    assert caught.value.details["wanted"] == "north, south"
    assert ready.studies() == ()


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_a_seed_that_no_database_holds_is_refused(ready: CoordinatorStore, seed: int) -> None:
    with pytest.raises(CoordinatorError, match="seed"):
        ready.add_study("cxr", "", seed, ["north"])


def test_a_study_that_is_not_there_is_named(ready: CoordinatorStore) -> None:
    with pytest.raises(CoordinatorError, match="no such study"):
        ready.study("cxr")
    with pytest.raises(CoordinatorError, match="no such study"):
        ready.set_state("cxr", "running")


def test_a_state_comes_with_its_reason(ready: CoordinatorStore) -> None:
    before = ready.add_study("cxr", "", 1, ["north"])
    after = ready.set_state("cxr", StudyState.STOPPED, "stopped by ada")

    assert (after.state, after.why) == (StudyState.STOPPED, "stopped by ada")
    assert after.created_at == before.created_at
    assert after.changed_at > before.changed_at
    with pytest.raises(ValueError, match="asleep"):
        ready.set_state("cxr", "asleep")


def test_studies_are_listed_by_state_oldest_first(ready: CoordinatorStore) -> None:
    for name in ("one", "two", "three"):
        ready.add_study(name, "", 1, ["north"])
    ready.set_state("two", "running")

    assert [study.name for study in ready.studies()] == ["one", "two", "three"]
    going = ready.studies([StudyState.WAITING, StudyState.RUNNING])
    assert [study.name for study in going] == ["two"]
    assert ready.studies([]) == ()


def test_of_two_that_would_change_a_state_one_does(ready: CoordinatorStore) -> None:
    ready.add_study("cxr", "", 1, ["north"])
    ready.set_state("cxr", "running")

    def change(state: str) -> StudyRecord | None:
        try:
            return ready.set_state("cxr", state, expected=["running"])
        except CoordinatorError:
            return None

    with ThreadPoolExecutor(2) as threads:
        done = [each for each in threads.map(change, ["stopped", "completed"]) if each]

    assert done == [ready.study("cxr")]
    with pytest.raises(CoordinatorError, match=f"the study is {done[0].state}"):
        ready.set_state("cxr", "failed", expected=["running", "waiting"])
