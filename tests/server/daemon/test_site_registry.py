"""The registry follows the store: who may come in, under which key, as which node."""

from __future__ import annotations

from datetime import UTC, datetime

from server.daemon.site_registry import SiteRegistry
from server.store.rows import SiteRecord, SiteState

NOW = datetime.now(UTC)


def site(state: SiteState = SiteState.ACTIVE, key: str = "key") -> SiteRecord:
    return SiteRecord("north", state, key, "00", NOW, NOW, None)


def test_nobody_is_known_before_they_were_entered() -> None:
    registry = SiteRegistry()
    assert registry.lookup(b"key") is None
    assert not registry.change(site())


def test_a_site_is_known_by_its_key() -> None:
    registry = SiteRegistry()
    registry.enter(site(), 7)
    found = registry.lookup(b"key")
    assert found is not None
    assert (found.name, found.node_id, found.state) == ("north", 7, "admitted")


def test_a_suspended_site_keeps_its_node_and_comes_back_to_it() -> None:
    registry = SiteRegistry()
    registry.enter(site(), 7)
    assert registry.heard(7) == "north"
    assert registry.change(site(SiteState.SUSPENDED))
    assert registry.gone("north") == (7,)
    found = registry.lookup(b"key")
    assert found is not None
    assert (found.node_id, found.state) == (7, "suspended")
    assert registry.heard(7) is None
    assert registry.online == {}
    assert registry.change(site())
    assert registry.heard(7) == "north"


def test_a_key_that_was_replaced_is_nobodys() -> None:
    registry = SiteRegistry()
    registry.enter(site(), 7)
    registry.enter(site(key="new"), 8)
    assert registry.lookup(b"key") is None
    assert registry.heard(7) is None
    assert registry.heard(8) == "north"


def test_only_the_first_call_after_a_while_is_a_coming() -> None:
    registry = SiteRegistry()
    registry.enter(site(), 7)
    assert [registry.heard(7), registry.heard(7)] == ["north", None]
    assert registry.online == {"north": True}
