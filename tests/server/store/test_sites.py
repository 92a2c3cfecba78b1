"""Sites and their keys: who is let in, who no more, and whose key is whose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from common.errors import CoordinatorError
from common.wire.enrolment import SiteCard
from server.store import CoordinatorStore, open_store
from server.store.rows import SiteState
from tests.server.store.conftest import card, node_key


def told(store: CoordinatorStore, refused: SiteCard) -> str:
    before = store.sites()
    with pytest.raises(CoordinatorError) as caught:
        store.admit(refused)
    assert "do" in caught.value.details
    assert store.sites() == before
    return str(caught.value)


def test_an_admitted_site_is_known_by_name(store: CoordinatorStore) -> None:
    admitted = store.admit(card("north", 1))

    assert admitted.state is SiteState.ACTIVE
    assert admitted.card == card("north", 1)
    assert abs(admitted.admitted_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert store.site("north") == admitted
    assert store.sites() == (admitted,)


def test_admitting_twice_changes_nothing(store: CoordinatorStore) -> None:
    assert store.admit(card("north", 1)) == store.admit(card("north", 1))
    assert len(store.keys("north")) == 1


def test_an_unknown_site_is_named_with_those_there_are(store: CoordinatorStore) -> None:
    store.admit(card("north", 1))
    for ask in (store.site, store.suspend, store.keys):
        with pytest.raises(CoordinatorError, match="no such site") as caught:
            ask("nort")
        assert (caught.value.details["found"], caught.value.details["wanted"]) == ("nort", "north")


def test_a_removed_site_stays_with_its_history_and_can_come_back(store: CoordinatorStore) -> None:
    store.admit(card("north", 1))
    removed = store.suspend("north")

    assert removed.state is SiteState.SUSPENDED
    assert store.suspend("north") == removed
    assert store.site("north") == removed
    assert store.admit(card("north", 1)).state is SiteState.ACTIVE
    assert len(store.keys("north")) == 1


def test_other_keys_for_a_name_need_the_old_ones_removed_first(store: CoordinatorStore) -> None:
    store.admit(card("north", 1))
    assert "consilium-coordinator remove north" in told(store, card("north", 2))
    assert "remove" in told(store, card("north", 2, signing=1))

    store.suspend("north")
    changed = store.admit(card("north", 2))

    assert (changed.state, changed.card) == (SiteState.ACTIVE, card("north", 2))
    assert store.site("north").node_key == node_key(2)
    old, new = store.keys("north")
    assert (old.node_key, new.node_key) == (node_key(1), node_key(2))
    assert old.retired_at == new.added_at
    assert new.retired_at is None


@pytest.mark.parametrize("refused", [card("south", 1, signing=7), card("south", 7, signing=1)])
def test_a_key_of_another_site_is_refused(store: CoordinatorStore, refused: SiteCard) -> None:
    store.admit(card("north", 1))
    store.suspend("north")

    assert "a key of north" in told(store, refused)


@pytest.mark.parametrize("refused", [card("south", 1, signing=7), card("north", 1)])
def test_a_retired_key_never_comes_back(store: CoordinatorStore, refused: SiteCard) -> None:
    store.admit(card("north", 1))
    store.suspend("north")
    store.admit(card("north", 2))
    store.suspend("north")

    told(store, refused)


def test_a_node_key_alone_may_be_changed(store: CoordinatorStore) -> None:
    store.admit(card("north", 1))
    store.suspend("north")

    assert store.admit(card("north", 2, signing=1)).node_key == node_key(2)


def test_a_known_node_key_with_another_signing_key_is_refused(store: CoordinatorStore) -> None:
    store.admit(card("north", 1))
    store.suspend("north")

    assert "never accepted again" in told(store, card("north", 1, signing=2))


def test_when_a_site_called_is_written_down_but_not_each_time(store_url: str) -> None:
    with open_store(store_url) as store:
        store.admit(card("north", 1))
        assert store.site("north").last_seen is None
        store.seen("north")
        first = store.site("north").last_seen
        assert first is not None
        assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
        store.seen("north")
        store.seen("nobody")
        assert store.site("north").last_seen == first
    with open_store(store_url) as again:
        again.seen("north")
        later = again.site("north").last_seen
        assert later is not None
        assert later > first


def test_of_two_sites_that_want_one_key_one_gets_it(store: CoordinatorStore) -> None:
    def admit(name: str) -> str:
        try:
            return store.admit(card(name, 1)).name
        except CoordinatorError as refused:
            return refused.what

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(admit, ["a", "b", "c", "d"]))

    assert sorted(answers)[1:] == ["this key belongs to another site"] * 3
    assert [site.name for site in store.sites()] == [sorted(answers)[0]]


def declaring(**patients: int) -> SiteCard:
    return card("north", 1).model_copy(update={"patients": patients})


def test_what_a_card_declares_is_agreed_on_where_nothing_else_was(store: CoordinatorStore) -> None:
    admitted = store.admit(declaring(xray=400, retina=70))
    assert admitted.agreed == admitted.declared == {"retina": 70, "xray": 400}
    assert admitted.card == declaring(xray=400, retina=70)
    assert store.sites() == (admitted,)
    assert store.site("north") == admitted


def test_another_number_may_be_agreed_on(store: CoordinatorStore) -> None:
    admitted = store.admit(declaring(xray=10**9), {"xray": 400, "retina": 50})
    assert admitted.agreed == {"retina": 50, "xray": 400}
    assert admitted.declared == {"xray": 10**9}
    assert store.agree("north", "xray", 500).agreed == {"retina": 50, "xray": 500}
    assert store.site("north").declared == {"xray": 10**9}


def test_no_later_card_raises_what_was_agreed_on(store: CoordinatorStore) -> None:
    store.admit(declaring(xray=400))
    store.suspend("north")
    again = store.admit(declaring(xray=10**9, skin=10))
    assert again.agreed == {"skin": 10, "xray": 400}
    assert again.declared == {"skin": 10, "xray": 10**9}
    assert store.admit(declaring(skin=20)).declared == {"skin": 20}
    assert store.site("north").agreed == {"skin": 10, "xray": 400}


def test_nothing_is_agreed_with_a_site_that_is_not_there(store: CoordinatorStore) -> None:
    with pytest.raises(CoordinatorError, match="no such site"):
        store.agree("north", "xray", 500)
