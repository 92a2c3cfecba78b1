"""What operators can do: admit and remove sites; start, stop and resume studies.

Each action is written to the store, with the operator's name, before it is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from common.control import coordinator_pb2 as pb
from common.errors import CoordinatorError, StudyError
from common.files import write_atomic
from common.study.study_file import Study, names_initial, sent_study
from common.wire.enrolment import CoordinatorCard, SiteCard
from server.daemon import authority
from server.daemon.settings import Home
from server.daemon.site_registry import SiteRegistry
from server.daemon.study_supervisor import ALIVE, StudySupervisor
from server.store import CoordinatorStore
from server.store.rows import (
    ApprovalState,
    EventRecord,
    RoundRecord,
    SiteRecord,
    SiteState,
    StudyRecord,
    StudyState,
)
from server.study.amending import wish
from server.study.collect import remedy
from server.study.weighing import AgreedPatients, Counted, counted, weigh

T = TypeVar("T")
_AGREED = TypeAdapter(AgreedPatients)
STOP_ONE: Final = (
    "the hospital must stop one of them: consilium-site status there says how to find out which; "
    "until then neither gets a request"
)
RESULT: tuple[str, ...] = ("outcome.json", "final.safetensors", "model.consilium")
"""The files of a result, in the study's ``coordinator`` folder."""


class OperatorService:
    """Carries out what operators ask for.

    Args:
        home: the coordinator's.
        store: the coordinator's.
        registry: the sites that may connect.
        register: registers a site, by its name, at the SuperLink.
        change: tells the registry that a site may no longer connect.
        cut: answers the poll that the gateway holds for a node.
        study_supervisor: the studies' processes.
        twins: since when two machines are connected as a site; empty where one is.
    """

    def __init__(
        self,
        home: Home,
        store: CoordinatorStore,
        registry: SiteRegistry,
        *,
        register: Callable[[str], Awaitable[None]],
        change: Callable[[SiteRecord], Awaitable[None]],
        cut: Callable[[int], None],
        study_supervisor: StudySupervisor,
        twins: Callable[[str], str] = lambda site: "",
    ) -> None:
        self._home = home
        self._store = store
        self._registry = registry
        self._register = register
        self._change = change
        self._cut = cut
        self._study_supervisor = study_supervisor
        self.twins = twins

    async def admit(
        self, card: SiteCard, who: str, patients: Mapping[str, int]
    ) -> tuple[CoordinatorCard, SiteRecord, bool]:
        """Let a site in; gives the card it joins with, its record, and whether it had been removed.

        Raises:
            CoordinatorError: the keys or the name belong to another site.
        """
        known = {site.name: site.state for site in await _in_thread(self._store.sites)}
        _demand_patients(patients)
        # The store first: while the SuperLink is down, its next start registers the site from it.
        record = await _in_thread(self._store.admit, card, patients)
        await self._register(card.name)
        again = known.get(card.name) is SiteState.SUSPENDED
        fields = {"by": who, "fingerprint": card.fingerprint, "again": again}
        agreed = {"agreed": dict(record.agreed)}
        await self._note(None, "site.admitted", fields | agreed, site=card.name)
        return authority.coordinator_card(self._home), record, again

    async def agree(self, name: str, dataset: str, patients: int, who: str) -> int | None:
        """Set how many patients a site may declare; gives the number before.

        Raises:
            CoordinatorError: there is no such site, or the number cannot be used.
        """
        _demand_patients({dataset: patients})
        before = (await _in_thread(self._store.site, name)).agreed.get(dataset)
        await _in_thread(self._store.agree, name, dataset, patients)
        fields = {"by": who, "dataset": dataset, "patients": patients, "before": before}
        await self._note(None, "site.agreed", fields, site=name)
        return before

    async def remove(self, name: str, who: str) -> None:
        """Keep a site out until it is admitted again.

        Raises:
            CoordinatorError: there is no such site.
        """
        # The store first: a crash in between must not let the site in again at the next start.
        site = await _in_thread(self._store.suspend, name)
        await self._change(site)
        for node in self._registry.gone(name):
            self._cut(node)
        await self._note(None, "site.removed", {"by": who}, site=name)

    async def sites(self) -> Sequence[tuple[SiteRecord, bool]]:
        """Every site, and whether it is connected."""
        return [
            (site, self._registry.is_online(site.name))
            for site in await _in_thread(self._store.sites)
        ]

    async def start(
        self, document: str, sites: Sequence[str], seed: int, who: str, *, initial: bytes = b""
    ) -> tuple[Study, StudyRecord]:
        """Start a study with the named sites, or with all admitted ones.

        Args:
            document: the text of the study file.
            sites: by name; all where there are none.
            seed: of the first weights.
            who: asks for it.
            initial: the file of starting weights that the study names.

        Raises:
            StudyError: the study file cannot be used, or needs more sites.
            CoordinatorError: the name was used before, or a site is not admitted.
        """
        study = sent_study(document, initial)
        if names_initial(document) and not initial:
            raise StudyError(
                "the study names a file of starting weights that was not sent",
                where="[model] initial",
                remedy="start the study with consilium-coordinator start of this version",
            )
        records = await _in_thread(self._store.sites)
        active = [site.name for site in records if site.state is SiteState.ACTIVE]
        chosen = sorted(set(sites)) or active
        _demand_sites(study, chosen)
        name = study.study.name
        record = await _in_thread(self._store.add_study, name, document, seed, chosen)
        if study.model.initial is not None:
            path = self._home.studies / name / study.model.initial.file
            await _in_thread(write_atomic, path, initial)
        await self._note(name, "study.offered", {"by": who, "sites": list(record.sites)})
        self._study_supervisor.begin(name)
        return study, record

    async def weighed(self, study: Study, sites: Sequence[str]) -> Mapping[str, Counted]:
        """How much each site would count if all took part and declared the agreed numbers.

        A site without an agreed number is not among them: it cannot take part.
        """
        records = await _in_thread(self._store.sites)
        agreed = {
            site.name: site.agreed[study.data.dataset]
            for site in records
            if site.name in sites and study.data.dataset in site.agreed
        }
        return counted(agreed, weigh(study.aggregation, agreed))

    async def stop(self, name: str, who: str) -> None:
        """End a study's process; the study can be resumed.

        Raises:
            CoordinatorError: it is not active.
        """
        _demand_state(await _in_thread(self._store.study, name), under_way=True)
        await self._study_supervisor.end(name)
        record = await _in_thread(self._store.study, name)
        _demand_state(record, under_way=True)  # it may have ended by itself
        await self._note(name, "study.stopped", {"by": who})
        await _in_thread(self._store.set_state, name, StudyState.STOPPED, f"by {who}")

    async def resume(self, name: str, who: str, amend: Sequence[str] = ()) -> None:
        """Resume a study; a completed one tells its sites once more that it is over.

        Args:
            name: of the study.
            who: the operator.
            amend: sites with changed numerics, with which the study is to go on.

        Raises:
            CoordinatorError: it is active, or has no such site.
        """
        record = await _in_thread(self._store.study, name)
        _demand_state(record, under_way=False)
        _demand_part(record, amend)
        # begin() below does nothing while the study's earlier task is still there.
        await self._study_supervisor.end(name)
        if amend:
            await _in_thread(wish, self._home.studies / name / "coordinator", amend)
            await self._note(name, "amendment.wanted", {"by": who, "sites": sorted(amend)})
        await _in_thread(self._store.set_state, name, StudyState.RUNNING, f"resumed by {who}")
        await self._note(name, "study.resumed", {"by": who})
        self._study_supervisor.begin(name)

    async def studies(self) -> Sequence[pb.StudyRow]:
        """The status of every study, oldest first."""
        return await _in_thread(lambda: [self._status(each) for each in self._store.studies()])

    async def events(self, name: str, after: int) -> tuple[Sequence[EventRecord], bool]:
        """A study's events after one of them, and whether more may come.

        Raises:
            CoordinatorError: there is no such study.
        """
        alive = (await _in_thread(self._store.study, name)).state in ALIVE
        return await _in_thread(self._store.events, name, after), alive

    async def result(self, name: str) -> Sequence[Path]:
        """The files of a completed study.

        Raises:
            CoordinatorError: it is not completed.
        """
        record = await _in_thread(self._store.study, name)
        if record.state is not StudyState.COMPLETED:
            row = await _in_thread(self._status, record)
            remedy = f"consilium-coordinator resume {name}"
            if record.state in ALIVE:
                remedy = f"consilium-coordinator watch {name} shows how far it is"
            elif record.state is StudyState.FAILED:
                remedy = f"consilium-coordinator studies shows why; fix it; then {remedy}"
            raise CoordinatorError(
                "the study has no result yet",
                where=f"study {name}",
                found=f"it is {record.state} after round {row.round} of {row.rounds}",
                wanted=StudyState.COMPLETED,
                remedy=remedy,
            )
        folder = self._home.studies / name / "coordinator"
        # A study that ended under a version without packages has none, until it is resumed.
        return [path for file in RESULT if (path := folder / file).exists()]

    def _status(self, record: StudyRecord) -> pb.StudyRow:
        study, name = sent_study(record.document), record.name
        rounds = self._store.rounds(name)
        said = self._store.approvals(name)
        started = self._store.events(name, kind="study.started")
        settled = self._store.events(name, kind="weights.settled")
        known: Mapping[str, Any] = started[-1].fields if started else {}
        shares = (settled or started)[-1].fields.get("shares", {}) if started else {}
        return pb.StudyRow(
            name=name,
            title=study.study.title,
            state=record.state,
            round=max((each.number for each in rounds), default=0),
            rounds=study.training.rounds,
            sites=record.sites,
            why=record.why,
            started=record.created_at.isoformat(timespec="seconds"),
            undecided=[one.site for one in said if one.state is ApprovalState.PENDING],
            warnings=known.get("warnings", ()),
            shares=[pb.Share(site=site, **counts) for site, counts in shares.items()],
            left_out=[
                *(self._doubled(record.sites) if record.state in ALIVE else ()),
                *_left_out(known.get("left_out", {}), rounds),
            ],
        )

    def _doubled(self, sites: Sequence[str]) -> Iterator[pb.LeftOut]:
        """Sites that get no request now, since two machines are connected as them."""
        for site in sites:
            if since := self.twins(site):
                reason = f"two machines are connected as this site since {since}"
                yield pb.LeftOut(site=site, of="every request", reason=reason, remedy=STOP_ONE)

    async def _note(
        self, study: str | None, kind: str, fields: dict[str, object], *, site: str | None = None
    ) -> None:
        await _in_thread(lambda: self._store.record(study, kind, site=site, fields=fields))


def _demand_sites(study: Study, chosen: Sequence[str]) -> None:
    fewest = study.aggregation.min_sites
    if len(chosen) < fewest:
        raise StudyError(
            "there are fewer sites than the study requires",
            where=f"study {study.study.name}",
            found=", ".join(chosen) or "no site is admitted",
            wanted=f"at least {fewest} ([aggregation] min_sites)",
            remedy="admit more sites (consilium-coordinator admit SITE.json), or lower min_sites",
        )


def _left_out(study: Mapping[str, str], rounds: Sequence[RoundRecord]) -> Iterator[pb.LeftOut]:
    """Sites that are missing from the study, its last round or its last evaluation."""
    for site, reason in study.items():
        yield pb.LeftOut(site=site, of="the study", reason=reason, remedy=remedy(reason, ""))
    for purpose, of in (("train", "round"), ("evaluate", "the evaluation after round")):
        last = [each for each in rounds if each.purpose == purpose][-1:]
        for record in last:
            for site, reason in record.absences.items():
                if site not in study:
                    missing = f"{of} {record.number}"
                    do = remedy(reason)
                    yield pb.LeftOut(site=site, of=missing, reason=reason, remedy=do)


def _demand_patients(patients: Mapping[str, int]) -> None:
    try:
        _AGREED.validate_python(dict(patients))
    except ValidationError as cause:
        raise CoordinatorError(
            "this is not a number of patients of a data set",
            found=", ".join(f"{dataset} {number}" for dataset, number in patients.items()),
            wanted="the data set's name as in the site file, and a number from 1 to 1000000000",
        ) from cause


def _demand_part(record: StudyRecord, sites: Sequence[str]) -> None:
    others = sorted(set(sites) - set(record.sites))
    if others:
        raise CoordinatorError(
            "a site does not take part in the study",
            where=f"study {record.name}, --amend",
            found=", ".join(others),
            wanted=f"one of {', '.join(record.sites)}",
        )


def _demand_state(record: StudyRecord, *, under_way: bool) -> None:
    if under_way and record.state is StudyState.COMPLETED:
        raise CoordinatorError(
            "the study is completed; there is nothing to stop",
            where=f"study {record.name}",
            remedy=f"consilium-coordinator result {record.name}",
        )
    if (record.state in ALIVE) != under_way:
        raise CoordinatorError(
            "the study is not active" if under_way else "the study is active already",
            where=f"study {record.name}",
            found=record.state,
            remedy=f"consilium-coordinator {'resume' if under_way else 'watch'} {record.name}",
        )


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call something slow, such as the store, without blocking the event loop."""
    return await asyncio.to_thread(function, *arguments)
