"""The roster of a run: its hospitals, and what their site files declare."""

from __future__ import annotations

from client.keys import keys_of_seed
from client.sitefile import SiteFile
from server.study.simulation_roster import Member, Roster
from simulations.archives.manifest import Hospitals


def roster(hospitals: Hospitals, seed: int) -> Roster:
    """The hospitals; what their site files declare is what is agreed on."""
    return Roster(sites={name: _member(file, seed) for name, file in hospitals.files.items()})


def _member(file: SiteFile, seed: int) -> Member:
    # Without opening the site: a thousand of them are opened when they are asked.
    patients = {name: data.declared_patients for name, data in file.data.items()}
    return Member(key=keys_of_seed(file.site.name, seed).signing.public, patients=patients)
