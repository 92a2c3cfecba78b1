"""The grid of this process opens its sites from what another process could read."""

from __future__ import annotations

import ast
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from client.site import Site
from common.errors import SiteError
from common.numerics import EngineChoice, Ticks, record
from simulations.grids.grid import SimulationGrid, SiteDescription
from simulations.grids.local import LocalSites
from simulations.grids.pool import PoolSites
from tests.client.site_fixtures import Hospital
from tests.common.studies import small_study

RECORDED = record(1, EngineChoice(tile=2), Ticks(train=300))


def described(folder: Path, name: str = "north") -> SiteDescription:
    hospital = Hospital(folder / name, seed=3)
    hospital.open().close()
    return SiteDescription(
        name,
        hospital.folder / "site.toml",
        folder / "states" / name,
        3,
        threads=1,
        workers=2,
        recorded=RECORDED,
    )


@pytest.mark.parametrize("kind", [LocalSites, PoolSites])
def test_a_site_is_what_its_description_says_after_a_way_through_another_process(
    kind: type[SimulationGrid], tmp_path: Path
) -> None:
    description = described(tmp_path)
    sent: SiteDescription = pickle.loads(pickle.dumps(description))
    assert sent == description
    with kind([sent]) as grid:
        assert grid.at("north", lambda site: site.name) == "north"
        assert grid.at("north", lambda site: site.file.device.threads) == 1
        assert grid.at("north", lambda site: site.cohorts.workers) == 2
        assert grid.at("north", lambda site: site.state) == description.state
        # A record that is kept to: nothing is measured, and the run's plan has the same hash.
        assert grid.at("north", lambda site: site.numerics(small_study())) == RECORDED


def test_a_site_is_opened_when_it_is_first_asked_and_then_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    closed: list[str] = []
    close = Site.close

    def watched(site: Site) -> None:
        closed.append(site.name)
        close(site)

    first = described(tmp_path)
    monkeypatch.setattr(Site, "close", watched)
    lost = replace(first, name="south", file=tmp_path / "nowhere.toml")
    with LocalSites([first, lost]) as grid:
        assert grid.at("north", lambda site: site.name) == "north"
        assert grid.at("north", id) == grid.at("north", id)
        with pytest.raises(SiteError):
            grid.at("south", lambda site: opened.append(site.name))
        assert closed == []
    assert (opened, closed) == ([], ["north"])


def changing(source: str) -> list[int]:
    """Lines that set an attribute of something else than the object itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(target, ast.Attribute) and not (
                isinstance(root, ast.Name) and root.id == "self"
            ):
                found.append(target.lineno)
    return found


def test_a_simulation_changes_no_site_that_is_open(root: Path) -> None:
    """What differs from a deployment is said when a site is opened, and so can be sent."""
    found = [
        f"{path.relative_to(root)}:{line}"
        for folder in ("runs", "grids", "audit")
        for path in sorted((root / "simulations" / folder).glob("*.py"))
        for line in changing(path.read_text())
    ]
    assert found == []
    assert changing("site.cohorts.workers = 3\nself.x = 1\n") == [1]
