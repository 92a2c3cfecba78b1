"""An open site: its file, its keys, its durable memory and its cohorts.

The state folder holds what must outlive the process and never leaves the hospital::

    state/site.sqlite    approvals, ledger, replies
    state/known-seed     in simulations alone: the seed that the keys follow from
    state/signing.key    Ed25519, signs every reply
    state/patients.key   keys the pseudonyms
    state/cache/         decoded images
    state/kernels.json   how gradients are formed fastest here; measured again where it is gone
    state/ticks.json     how long rounds are given here; likewise
    state/audit.jsonl    what came in, what went out, and what was decided
    state/receipts.jsonl what the coordinator has signed for
    state/disputed.jsonl what it has signed for and this site never sent
    state/opt-out.txt    patients who take no part, beside the lists that the site file names
    state/COORDINATOR.json  of the coordinator that the site has joined

The files belong together: under another ``patients.key`` the ledger would know nobody, and
without the ledger nobody would have spent anything. So a folder that lacks one of them, or
that belongs to another seed, is refused (:mod:`client.records.state_folder`).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client.data.archive import Root, entries_of, require_folder
from client.data.cache import decoders as today
from client.data.cohort import Cohort, load_cohort
from client.data.parallel import Progress, silent
from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms
from client.records import membership
from client.records.accounts import everyone_joined, join
from client.records.approvals import CLOCK, Approval, Approvals, timestamp
from client.records.audit_log import CHARGED, AuditLog
from client.records.ledger import Ledger
from client.records.opt_out import OptOuts
from client.records.receipts import SiteReceipts
from client.records.replies import Replies
from client.records.seals import Seals
from client.records.state_folder import (
    KEYS,
    is_used,
    keep_remembered,
    remembered_log,
    require_held,
    require_keys,
    require_private,
    require_same_keys,
    require_store,
)
from client.records.store import FILE, SiteDatabase
from client.sitefile import DataSet, SiteFile, load_site_file
from client.training.pacing import Pace
from common.errors import Refusal, RefusalCode, SiteError
from common.files import canonical_json, sha256, sha256_file, write_atomic
from common.numerics import EngineChoice, NumericsRecord, installed, record
from common.plan import Offer
from common.privacy.randomness import KEY_BYTES, StudyKey, known_secret
from common.study.study_file import Study
from common.wire.messages import LedgerHead
from common.wire.signing import SigningKey

if TYPE_CHECKING:
    from client.training.ticks import Clocks
    from client.training.tuning import Choices

WORKERS: Final = len(os.sched_getaffinity(0))
MOST_COHORTS: Final = 2
"""Of patients with their images, held in memory: a coordinator may ask for any number."""
_SEED: Final = "known-seed"


@dataclass
class Site:
    """An open site; close it, or use it as a context manager.

    Attributes:
        folder: where the site file stands; its relative paths start here.
        file: the parsed site file.
        state: folder of what must outlive the process.
        known_seed: a seed that the site's keys follow from, in simulations alone.
        workers: processes that decode images.
        recorded: what the arithmetic is to depend on, where an earlier run is repeated.
        serves: whether it is open to serve, which the log says, and not for one command.
        pace: what it waits for after it has looked at patients; a site that serves does.
    """

    folder: Path
    file: SiteFile
    state: Path
    known_seed: int | None
    key: SigningKey = field(repr=False)
    pseudonyms: Pseudonyms = field(repr=False)
    store: SiteDatabase = field(repr=False)
    audit: AuditLog = field(repr=False)
    workers: int = WORKERS
    recorded: NumericsRecord | None = None
    serves: bool = False
    pace: Pace = field(default_factory=Pace, repr=False)
    _cohorts: dict[str, Cohort] = field(default_factory=dict, repr=False)
    _roots: dict[Path, Root] = field(default_factory=dict, repr=False)
    _read_at: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store)
        self._seals = Seals(self.key)
        self.receipts = SiteReceipts(self.state, self.name, self.ledger, self.audit, self._seals)
        lists = (self.folder / data.opt_out for data in self.file.data.values() if data.opt_out)
        named = self.file.site.same_person
        self.persons = Persons(self.folder / named if named else None, self.pseudonyms)
        self.opt_outs = OptOuts(lists, self.state, self.pseudonyms, self.persons)
        self.approvals = Approvals(self.store)
        self.replies = Replies(self.store)

    @property
    def name(self) -> str:
        """What the site is called."""
        return self.file.site.name

    def dataset(self, study: Study) -> DataSet:
        """The data set that a study asks for.

        Raises:
            Refusal: ``data-unavailable``: the site has none of that name.
        """
        found = self.file.data.get(study.data.dataset)
        if found is None:
            raise Refusal.of_public(
                RefusalCode.DATA_UNAVAILABLE,
                "the study asks for a data set that this site does not have",
                where=f"site {self.name}",
                found=", ".join(sorted(self.file.data)),
                wanted=study.data.dataset,
                remedy="name a [data.…] section of the site file after the study's data set",
            )
        return found

    def cohort(
        self,
        study: Study,
        progress: Progress = silent,
        decoders: str = "",
        *,
        most: int | None = None,
    ) -> Cohort:
        """The site's patients for a study, as they are now.

        Args:
            study: for which.
            progress: told of every file.
            decoders: of an approval whose cohort is frozen, whose pixels are read again as they
                were; empty for those of today.

        They are read again when files have changed, or the list of those who take no part, or of
        those who are one person. Who was found to be one person has one account from then on.

        Args:
            study: an approved one: its images are decoded and kept.
            progress: told of every file.
            most: bytes that the decoded images may take on disk; None for no bound.

        Raises:
            Refusal: ``data-unavailable``.
            DataError: the site's own failure: the folder of images or the cache cannot be used.
            LabelError: the site's own failure: the label file as a whole cannot be used.
            SiteError: a list of patients cannot be read.
        """
        persons = self.persons.read().persons
        join(self.store, persons)
        absent = self.absent()
        data, decoders = self.dataset(study), decoders or today()
        images = self.folder / data.images
        labels = self.file.label_file(study.data.dataset, self.folder)
        root = require_folder(images, self._roots.get(images))
        wanted = study.data.model_dump_json() + study.task.model_dump_json()
        wanted += sha256(canonical_json([sorted(absent), sorted(persons.items())]))
        wanted += entries_of(images, labels.path) + decoders
        if wanted not in self._cohorts:
            while len(self._cohorts) >= MOST_COHORTS:  # the one that was read first
                del self._cohorts[next(iter(self._cohorts))]
            self._read_at = self._read_at or timestamp()
            self._cohorts[wanted] = load_cohort(
                images,
                labels,
                pseudonyms=self.pseudonyms,
                classes=study.task.classes,
                modalities=study.data.modalities,
                image_size=study.data.image_size,
                channels=study.data.channels,
                split=data.parts,
                cache=self.state / "cache",
                without=absent,
                persons=persons,
                workers=self.workers,
                progress=progress,
                derived=data.derived,
                decoders=decoders,
                most=most,
            )
            self._roots[images] = root
        return self._cohorts[wanted]

    def absent(self) -> frozenset[str]:
        """Pseudonyms of those who take no part, and of whoever is one person with them.

        Raises:
            SiteError: a list cannot be read.
        """
        return everyone_joined(self.store, self.opt_outs.read().pseudonyms)

    def numerics(self, study: Study, choice: EngineChoice | None = None) -> NumericsRecord:
        """What this site's arithmetic would depend on in a study.

        Args:
            study: a proposed or an approved one.
            choice: of a plan that was approved, which is kept to; else one is made here.
        """
        # Not with the module: who opens a site to administer it computes nothing.
        from client.training.ticks import DataSetSize
        from common.process.denormals import set_threads

        if self.recorded is not None:
            set_threads(self.recorded.threads)
            return record(self.recorded.threads, self.recorded.choice, self.recorded.ticks)
        device = self.file.device
        set_threads(device.threads)
        if choice is not None:
            return record(device.threads, choice)
        computed = self._choices.of(
            study,
            threads=device.threads,
            memory=device.memory_mib * 2**20,
            kernels=device.kernels,
        )
        if self.known_seed is not None:
            return computed  # nothing here is private, and a simulation has no ticks of its own
        data = self.dataset(study)
        crowd = data.declared_patients, data.most_patients, data.most_validated
        ticks = self._clocks.of(study, DataSetSize(*crowd), computed)
        return computed.model_copy(update={"ticks": ticks})

    @cached_property
    def _choices(self) -> Choices:
        from client.training.tuning import Choices  # which imports torch

        return Choices(self.state / "kernels.json")

    @cached_property
    def _clocks(self) -> Clocks:
        from client.training.ticks import Clocks  # which imports torch

        return Clocks(self.state / "ticks.json")

    def offer(self, study: Study) -> Offer:
        """What the site says of itself: public numbers only.

        Raises:
            Refusal: ``data-unavailable``.
        """
        data = self.dataset(study)
        return Offer(
            site=self.name,
            public_key=self.key.public,
            declared_patients=data.declared_patients,
            most_patients=data.most_patients,
            known_key=self.known_seed is not None,
            numerics=self.numerics(study),
        )

    def new_study_key(self, plan_hash: str) -> StudyKey:
        """The key that a newly approved study's randomness follows from."""
        if self.known_seed is None:
            return StudyKey.generate()
        return StudyKey(known_secret(self.known_seed, self.name, f"study {plan_hash}"))

    def cohort_for(self, approval: Approval) -> Cohort:
        """The patients of this moment, for a round of a plan whose cohort is frozen.

        Another process may have frozen it after they were read here: then they are read again
        before anybody is said to have left.

        Raises:
            ConsiliumError: as :meth:`cohort`.
        """
        study, plan_hash = approval.plan.study, approval.plan.hash
        cohort = self.cohort(study, decoders=approval.decoders)
        if self._read_at <= approval.frozen and membership.leavers(
            self.store, plan_hash, membership.places(cohort), self.absent()
        ):
            self.forget()
            cohort = self.cohort(study, decoders=approval.decoders)
        return cohort

    def heads(self) -> tuple[LedgerHead, str]:
        """What goes out with each reply: the ledger's head, and the audit log's, sealed."""
        ledger = self.ledger.head()
        return ledger, self._seals.seal(ledger, self.audit.head)

    def note_charges(self) -> None:
        """Write a line for each charge that has none.

        Call it when a charge is durable, and before anything is computed for it. Should the
        process die in between, the next opening writes the line.
        """
        self.audit.refresh()
        for row in self.ledger.charges(self.audit.charged.length):
            self.audit.append(
                CHARGED,
                charge=row["length"],
                head=row["hash"],
                plan=row["plan_hash"],
                round=row["round"],
                part=row["part"],
            )

    def expire(self) -> None:
        """End approvals whose time is over: for good, and with their keys."""
        if not self.approvals.is_time():
            return
        with self.store.transaction():
            ended = self.approvals.expire()
            for plan_hash, study in ended:
                self.audit.append("study.expired", study=study, plan=plan_hash, by=CLOCK)
        if ended:
            self.store.erase()

    def remember_log(self) -> None:
        """Keep the log's head in the store too: a log that was cut or taken away is found."""
        keep_remembered(self.store, self.audit.refresh())

    def forget(self) -> None:
        """Read cohorts again when they are asked for."""
        self._cohorts.clear()
        self._read_at = ""

    def let_go(self) -> None:
        """Hold no images in memory whose file was deleted: the disk keeps them until then."""
        for wanted, cohort in list(self._cohorts.items()):
            file = getattr(cohort.images, "filename", None)
            if file is not None and not Path(file).exists():
                del self._cohorts[wanted]

    def close(self) -> None:
        """Close the store and the log; of a site that serves, the log says that it stops."""
        with suppress(OSError, sqlite3.Error):  # a full disk keeps nobody from stopping
            if self.serves:
                self.audit.append("site.stopped", pid=os.getpid())
            self.remember_log()
        self.store.close()
        self.audit.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_site(
    path: Path, state: Path | None = None, known_seed: int | None = None, *, serves: bool = False
) -> Site:
    """Open a site, making its keys, its store and its audit log where there are none.

    Args:
        path: the site file.
        state: folder of what must outlive the process; by default as the site file says.
        known_seed: makes all keys follow from the seed and the site's name; a simulation's.
        serves: see :class:`Site`.

    Raises:
        SiteError: the site file or the state cannot be used, or the policy does not allow a
            known key, or the state was made with keys of another kind.
    """
    file = load_site_file(path)
    if known_seed is not None and not file.policy.allow_known_key:
        raise SiteError(
            "this site does not take keys that others know",
            where=f"{path}: [policy] allow_known_key",
            found="false",
            wanted="true, for a simulation on data that need no protection",
        )
    state = path.parent / file.site.state if state is None else state
    try:
        site = _opened(path.parent, file, state, known_seed)
        site.serves, site.pace = serves, Pace(waits=serves)
        _note_start(site, path)
    except OSError as error:
        raise SiteError(
            "the site's state folder cannot be used",
            where=state,
            found=error.strerror,
            remedy="make room on the disk, or let this user, and nobody else, write there",
        ) from error
    return site


def _note_start(site: Site, path: Path) -> None:
    """That it serves, and the site file where it is not what it was at the last opening."""
    if remembered_log(site.store) is None:
        site.remember_log()  # before the first line: a log with lines has a store that knows it
    site.note_charges()
    site.expire()
    if site.serves:
        site.audit.append("site.started", pid=os.getpid(), installed=installed())
    settings = sha256_file(path)
    if settings != site.store.fact("site-file"):
        site.audit.append("configuration.changed", site_file=settings)
        site.store.keep("site-file", settings)
    site.remember_log()


def _opened(folder: Path, file: SiteFile, state: Path, known_seed: int | None) -> Site:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if known_seed is None:
        require_private(state)
    require_store(state)
    store = SiteDatabase(state / FILE, make=not is_used(state))
    audit: AuditLog | None = None
    try:
        require_keys(state, store)
        _keep_seed(state, known_seed)
        secrets = {use: _kept(state / f"{use}.key", _secret(file, use, known_seed)) for use in KEYS}
        require_same_keys(state, store, secrets)
        key = SigningKey(secrets["signing"])
        remembered = remembered_log(store)
        audit = AuditLog(state, key)
        require_held(store, audit, remembered)
    except BaseException:
        store.close()
        if audit is not None:
            audit.close()
        raise
    return Site(
        folder=folder,
        file=file,
        state=state,
        known_seed=known_seed,
        key=key,
        pseudonyms=Pseudonyms(secrets["patients"]),
        store=store,
        audit=audit,
    )


def kept_seed(state: Path) -> int | None:
    """The seed that the keys in a state folder follow from; None where they are the site's own."""
    marker = state / _SEED
    return int(marker.read_text()) if marker.exists() else None


def _keep_seed(state: Path, known_seed: int | None) -> None:
    """Keys that others know are never taken for a site's own, nor the other way round."""
    marker = state / _SEED
    wanted = None if known_seed is None else str(known_seed)
    if not (state / f"{KEYS[0]}.key").exists():
        if wanted is not None:
            write_atomic(marker, wanted.encode(), mode=0o600)
        else:
            marker.unlink(missing_ok=True)
    found = marker.read_text() if marker.exists() else None
    if found != wanted:
        raise SiteError(
            "the state folder was made with keys of another kind",
            where=state,
            found="the site's own keys" if found is None else f"keys that follow from seed {found}",
            wanted="the site's own keys" if wanted is None else f"keys from seed {wanted}",
            remedy="take another state folder: keys that others know protect nobody",
        )


def _secret(file: SiteFile, use: str, known_seed: int | None) -> bytes:
    if known_seed is None:
        return os.urandom(KEY_BYTES)
    return known_secret(known_seed, file.site.name, use)


def _kept(path: Path, secret: bytes) -> bytes:
    """The secret in ``path``; where there is none, ``secret`` becomes it."""
    if not path.exists():
        write_atomic(path, secret, mode=0o600)
    kept = path.read_bytes()
    if len(kept) != KEY_BYTES:
        raise SiteError(
            "a key file of the site is damaged",
            where=path,
            found=f"{len(kept)} bytes",
            wanted=f"{KEY_BYTES} bytes",
            remedy="bring back the newest state folder, whole",
        )
    return kept
