"""An open site: its file, its records, its patients and what it computes with.

The state folder holds what must outlive the process and never leaves the hospital::

    state/site.sqlite    approvals, ledger, replies
    state/known-seed     in simulations alone: the seed that the keys follow from
    state/signing.key    Ed25519, signs every reply
    state/patients.key   keys the pseudonyms
    state/node.key       EC P-384, connects to the coordinator
    state/control.sock   what the administrator's commands ask the daemon on
    state/cache/         decoded images, and features of frozen networks
    state/frozen/        weights of running studies that are not trained
    state/kernels.json   how gradients are formed fastest here; measured again where it is gone
    state/ticks.json     how long rounds are given here; likewise
    state/audit.jsonl    what came in, what went out, and what was decided
    state/receipts.jsonl what the coordinator has signed for
    state/disputed.jsonl what it has signed for and this site never sent
    state/opt-out.txt    patients who take no part, beside the lists that the site file names
    state/COORDINATOR.json  of the coordinator that the site has joined
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.cohorts import Cohorts
from client.feature_store import FeatureStore
from client.frozen import FrozenWeights
from client.memory_records import records_in_memory
from client.site_numerics import SiteNumerics
from client.site_records import SiteRecords, open_records
from client.sitefile import SiteFile, load_site_file
from client.training.pacing import Pace
from common.errors import SiteError, of_system
from common.files import sha256_file
from common.numerics import EngineChoice, NumericsRecord, installed
from common.plan import Offer
from common.study.study_file import Study

Reader = Callable[[Path, SiteFile, SiteRecords, int | None], Cohorts]
"""Makes what reads a site's patients, of the site's folder, file, records and processes."""


@dataclass
class Site:
    """An open site; close it, or use it as a context manager.

    What its records hold is at hand by its own name: ``state``, ``keys``, ``key``,
    ``pseudonyms``, ``known_seed``, ``store``, ``audit``, ``ledger``, ``approvals``, ``replies``
    and ``receipts``.

    Attributes:
        folder: where the site file is; its relative paths start here.
        file: the parsed site file.
        records: what must outlive the process.
        serves: whether it is open to serve, which the log says, and not for one command.
        pace: what it waits for after it has looked at patients; a site that serves does.
        workers: processes that decode images; by default one for each processor.
        recorded: of a run that is repeated, which is kept to and not measured again.
        within_policy: hashes of the plans that its policy was found to allow.
        reader: makes what reads its patients; another one in simulations alone.
        cohorts: what it reads of its patients.
        measured: what its arithmetic depends on.
        frozen: the frozen weights of its studies.
        features: of images, where a study trains a head on a frozen network.
    """

    folder: Path
    file: SiteFile
    records: SiteRecords = field(repr=False)
    serves: bool = False
    pace: Pace = field(default_factory=Pace, repr=False)
    workers: int | None = None
    recorded: NumericsRecord | None = field(default=None, repr=False)
    reader: Reader = field(default=Cohorts, repr=False)
    within_policy: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        records = self.records
        self.state, self.keys = records.state, records.keys
        self.key, self.known_seed = self.keys.signing, self.keys.known_seed
        self.store, self.audit, self.ledger = records.store, records.audit, records.ledger
        self.approvals, self.replies = records.approvals, records.replies
        self.receipts = records.receipts
        self.cohorts = self.reader(self.folder, self.file, records, self.workers)
        self.pseudonyms = self.cohorts.pseudonyms
        self.frozen = FrozenWeights(self.state / "frozen")
        self.features = FeatureStore(self.state / "cache", self.pseudonyms)
        # Nothing is private where the key is known, and a simulation waits for nothing.
        self.measured = SiteNumerics(
            self.state, timed=self.known_seed is None, recorded=self.recorded
        )

    @property
    def name(self) -> str:
        """The site's name in every study."""
        return self.file.site.name

    def numerics(self, study: Study, choice: EngineChoice | None = None) -> NumericsRecord:
        """What this site's arithmetic would depend on in a study.

        Args:
            study: a proposed or an approved one.
            choice: of a plan that was approved, which is kept to; else one is made here.

        Raises:
            Refusal: ``data-unavailable``.
            ModelError: the model cannot be trained privately, or not in this memory.
        """
        return self.measured.of(study, self.file.device, self.file.dataset(study), choice)

    def offer(self, study: Study) -> Offer:
        """What the site tells about itself: public numbers only.

        Raises:
            Refusal: ``data-unavailable``.
        """
        data = self.file.dataset(study)
        return Offer(
            site=self.name,
            public_key=self.key.public,
            declared_patients=data.declared_patients,
            most_patients=data.most_patients,
            known_key=self.known_seed is not None,
            numerics=self.numerics(study),
        )

    def close(self) -> None:
        """Close the records; of a site that serves, the log says that it stops."""
        with suppress(OSError, sqlite3.Error):  # a full disk must not keep it from stopping
            if self.serves:
                self.audit.append("site.stopped", pid=os.getpid())
            self.records.remember_log()
        self.records.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_site(
    path: Path,
    state: Path | None = None,
    known_seed: int | None = None,
    *,
    serves: bool = False,
    threads: int | None = None,
    workers: int | None = None,
    recorded: NumericsRecord | None = None,
    in_memory: bool = False,
    reader: Reader = Cohorts,
) -> Site:
    """Open a site, making its keys, its store and its audit log where there are none.

    Args:
        path: the site file.
        state: folder of what must outlive the process; by default as the site file says.
        known_seed: makes all keys follow from the seed and the site's name; a simulation's.
        serves: see :class:`Site`.
        threads: in place of those of the site file; a simulation's.
        workers: see :class:`Site`; a simulation's.
        recorded: likewise.
        reader: likewise.
        in_memory: whether its records end with the process; a simulation's, with a known seed.

    Raises:
        SiteError: the site file or the state cannot be used, or the policy does not allow a
            known key, or the state was made with keys of another kind.
    """
    file = load_site_file(path)
    if threads is not None:
        device = file.device.model_copy(update={"threads": threads})
        file = file.model_copy(update={"device": device})
    if known_seed is not None and not file.policy.allow_known_key:
        raise SiteError(
            "this site does not accept keys that others know",
            where=f"{path}: [policy] allow_known_key",
            found="false",
            wanted="true, for a simulation on data that need no protection",
        )
    state = path.parent / file.site.state if state is None else state
    try:
        if in_memory and known_seed is not None:
            records = records_in_memory(state, file.site.name, known_seed)
        else:
            records = open_records(state, file.site.name, known_seed)
        # Only a site that serves waits for ticks: a command's answer goes to the site's own staff.
        site = Site(
            path.parent,
            file,
            records,
            serves=serves,
            pace=Pace(waits=serves),
            workers=workers,
            recorded=recorded,
            reader=reader,
        )
        _note_opening(site, path)
    except OSError as error:
        what = "the site's state folder cannot be used"
        raise of_system(error, SiteError, what, where=state) from error
    return site


def _note_opening(site: Site, path: Path) -> None:
    """That it serves, and the site file where it is not what it was at the last opening."""
    if site.serves:
        site.audit.append("site.started", pid=os.getpid(), installed=installed())
    # By its hash alone: the log is shown to others, and the file names folders.
    settings = sha256_file(path)
    if settings != site.store.fact("site-file"):
        site.audit.append("configuration.changed", site_file=settings)
        site.store.keep("site-file", settings)
    site.records.remember_log()
