"""The roll follows the store: who may come in, under which key, as which node."""

from __future__ import annotations

from datetime import UTC, datetime

from server.daemon.site_registry import SiteRegistry
from server.store.rows import SiteRecord, SiteState

NOW = datetime.now(UTC)


def site(state: SiteState = SiteState.ACTIVE, key: str = "key") -> SiteRecord:
    return SiteRecord("north", state, key, "00", NOW, NOW, None)


def test_nobody_is_known_before_they_were_entered() -> None:
    roll = SiteRegistry()
    assert roll.lookup(b"key") is None
    assert not roll.change(site())


def test_a_site_is_known_by_its_key() -> None:
    roll = SiteRegistry()
    roll.enter(site(), 7)
    found = roll.lookup(b"key")
    assert found is not None
    assert (found.name, found.node_id, found.state) == ("north", 7, "admitted")


def test_a_suspended_site_keeps_its_node_and_comes_back_to_it() -> None:
    roll = SiteRegistry()
    roll.enter(site(), 7)
    assert roll.heard(7) == "north"
    assert roll.change(site(SiteState.SUSPENDED))
    assert roll.gone("north") == (7,)
    found = roll.lookup(b"key")
    assert found is not None
    assert (found.node_id, found.state) == (7, "suspended")
    assert roll.heard(7) is None
    assert roll.online == {}
    assert roll.change(site())
    assert roll.heard(7) == "north"


def test_a_key_that_was_replaced_is_nobodys() -> None:
    roll = SiteRegistry()
    roll.enter(site(), 7)
    roll.enter(site(key="new"), 8)
    assert roll.lookup(b"key") is None
    assert roll.heard(7) is None
    assert roll.heard(8) == "north"


def test_only_the_first_call_after_a_while_is_a_coming() -> None:
    roll = SiteRegistry()
    roll.enter(site(), 7)
    assert [roll.heard(7), roll.heard(7)] == ["north", None]
    assert roll.online == {"north": True}
