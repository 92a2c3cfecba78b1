"""Features of a frozen network, kept beside the decoded images while their study runs.

They are as sensitive as the images. Each plan has a folder of its own, in the form of
:mod:`client.data.cache`, whose name and entries are keyed by the site; an entry is a patient's
record. When they are computed: :mod:`client.consent.features`. The rows of whoever leaves the plan
become zeros at the next round, and the folder goes when the plan ends
(:func:`client.consent.disk.tidy`).
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from client.data.cache_index import (
    FEATURES,
    CachedRows,
    CacheRefused,
    Index,
    data_file,
    locked,
    tidy,
)
from client.data.cohort import Cohort, Patient
from client.data.pseudonyms import Pseudonyms
from client.frozen import Flat
from common.errors import DataError
from common.files import canonical_json, sha256, sync_folder
from common.numerics import NumericsRecord, decisive
from common.plan import Plan
from common.process.killpoints import reach

if TYPE_CHECKING:
    from client.training.features import Features

_GOING: Final = "going-"
_GONE: Final = "gone-"
"""What the names of rows begin with whose patient has left: before they are zeros, and then."""

log = structlog.get_logger(__name__)


@dataclass
class FeatureStore:
    """Where a site keeps them.

    Attributes:
        cache: the folder of decoded images.
        pseudonyms: whose key hides which patients these are.
    """

    cache: Path
    pseudonyms: Pseudonyms = field(repr=False)

    def home(self, plan: Plan) -> Path:
        """The folder of a plan, which need not be there."""
        return self.cache / self.pseudonyms.of_folder(plan.hash, "features")

    def of(
        self,
        plan: Plan,
        cohort: Cohort,
        members: Mapping[str, str],
        frozen: Flat,
        numerics: NumericsRecord,
        *,
        going: Callable[[], object] = lambda: None,
    ) -> Cohort:
        """The members of a plan, and the features of their images in place of these.

        Args:
            plan: an approved one, of a linear probe.
            cohort: its patients of today.
            members: digests of the records that are in the plan, by pseudonym. Sensitive.
            frozen: the plan's frozen weights.
            numerics: what the arithmetic is.
            going: called before each patient; what it raises ends the work.

        Raises:
            DataError: they cannot be written.
        """
        from client.training.features import Stem, in_rounds

        here = [each for each in cohort.patients if members.get(each.pseudonym) == each.digest]
        recipe = json.dumps([plan.frozen, sha256(canonical_json(decisive(numerics)))])
        named = {
            self.pseudonyms.of_file(f"{each.pseudonym} {each.digest}", recipe): each
            for each in here
        }
        home, shape = self.home(plan), in_rounds(plan.study).shape
        stem = cache(lambda: Stem(plan.study, frozen, numerics.choice))  # built where one is new

        def features(patient: Patient) -> Features:
            going()
            return stem().of(cohort.images, patient.images)

        try:
            # The shared lock keeps others from deleting the folder, the second from filling it too.
            with locked(self.cache, fcntl.LOCK_SH), locked(home):
                index = Index.load(home, shape, dtype=FEATURES)
                if named.keys() <= index.entries.keys():
                    index = _without(home, index, named, shape)
                else:
                    index = _filled(home, index, named, shape, features)
                tidy(home, keep=index.data)
                images = index.open(home, shape, FEATURES)
        except OSError as error:
            raise DataError(
                "the features of images cannot be written",
                where=self.cache,
                found=error.strerror,
                remedy="free disk space, or give this user write access there; no data was lost",
            ) from error
        rows = [index.entries[name] for name in named]
        patients = (
            replace(each, images=tuple(range(entry.first, entry.first + entry.number)))
            for each, entry in zip(here, rows, strict=True)
            if isinstance(entry, CachedRows)
        )
        return replace(cohort, patients=tuple(patients), images=images)


def _filled(
    home: Path,
    old: Index,
    named: Mapping[str, Patient],
    shape: tuple[int, int, int],
    features: Callable[[Patient], Features],
) -> Index:
    """Write a data file in the order of ``named``: what is known is copied, the rest computed."""
    known, token = old.open(home, shape, FEATURES), f"{secrets.token_hex(16)}.f32"
    entries: dict[str, CachedRows | CacheRefused] = {}
    total = 0
    with data_file(home / token) as file:
        for name, patient in named.items():
            entry = old.entries.get(name)
            if isinstance(entry, CachedRows):
                found = known[entry.first : entry.first + entry.number]
            else:
                found = features(patient)
            content = found.astype(FEATURES, order="C").tobytes()
            file.write(content)
            entries[name] = CachedRows(total, len(found), sha256(content))
            total += len(found)
            reach("features.written", total)
    # The data file's name must be durable before an index that names it.
    sync_folder(home)
    index = Index(token, entries)
    index.save(home)
    log.info("features.kept")
    return index


def _without(
    home: Path, index: Index, named: Mapping[str, Patient], shape: tuple[int, int, int]
) -> Index:
    """The same, the rows of all others overwritten with zeros.

    The file is not written anew: that would take the longer the more patients stay, in a round.
    """
    left = {name for name in index.entries if name not in named and not name.startswith(_GONE)}
    if left or any(name.startswith(_GOING) for name in index.entries):
        # First their names, so that nobody who comes back is given zeros; then the rows; and only
        # then that they are gone, so that a process that is killed between does it again.
        index = _renamed(home, index, left, _GOING)
        going = {name for name in index.entries if name.startswith(_GOING)}
        rows = np.memmap(home / index.data, FEATURES, mode="r+", shape=(index.total, *shape))
        for name in going:
            entry = index.entries[name]
            assert isinstance(entry, CachedRows)
            rows[entry.first : entry.first + entry.number] = 0.0
        rows.flush()
        index = _renamed(home, index, going, _GONE)
    return index


def _renamed(home: Path, index: Index, names: Collection[str], kind: str) -> Index:
    entries = {
        f"{kind}{secrets.token_hex(16)}" if name in names else name: entry
        for name, entry in index.entries.items()
    }
    found = Index(index.data, entries)
    found.save(home)
    return found
