"""A site's patients, read from its files as they are now and held in memory while they are used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from client.data.archive import Root, entries_of, require_folder
from client.data.cohort import ArchiveReading, Cohort, image_shape, load_cohort
from client.data.masks.sources import MaskFolder
from client.data.persons import Persons
from client.data.pseudonyms import DIFFERENCES, rule, rule_number
from client.records import membership
from client.records.accounts import everyone_joined, join, join_spellings
from client.records.approvals import Approval, timestamp
from client.records.opt_out import OptOuts
from client.site_records import SiteRecords
from client.sitefile import SiteFile
from common.errors import SiteError
from common.files import canonical_json, sha256
from common.process.progress import Progress, silent
from common.study.study_file import Study

MOST_COHORTS: Final = 2
"""Of patients with their images, held in memory: a coordinator may ask for any number."""


class Cohorts:
    """What a site reads of its patients; sensitive.

    Args:
        folder: where the site file is; its relative paths start here.
        file: the parsed site file.
        records: the site's keys, and the accounts that joined persons share.

    Attributes:
        workers: processes that decode images.
        pseudonyms: under the site's key, and what the site ignores in PatientIDs.
        ignored: the number of the rule that says what it ignores.
        persons: which identifiers are one person's.
        opt_outs: who takes no part.
    """

    def __init__(
        self, folder: Path, file: SiteFile, records: SiteRecords, workers: int | None = None
    ) -> None:
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self._folder, self._file, self._cache = folder, file, records.state / "cache"
        self._store, ignored = records.store, file.site.ignore_in_patient_ids
        self.pseudonyms = records.keys.pseudonyms.ignoring(ignored)
        self.ignored = rule_number(ignored)
        named = file.site.same_person
        self.persons = Persons(folder / named if named else None, self.pseudonyms)
        lists = (folder / data.opt_out for data in file.data.values() if data.opt_out)
        self.opt_outs = OptOuts(lists, records.state, self.pseudonyms, self.persons)
        self._reading = ArchiveReading()
        self._held: dict[str, Cohort] = {}
        self._roots: dict[Path, Root] = {}
        self._read_at = ""

    def read(
        self,
        study: Study,
        progress: Progress = silent,
        decoders: str = "",
        *,
        most: int | None = None,
    ) -> Cohort:
        """The site's patients for a study, as they are now.

        They are read again when the files, the opt-out lists or the list of persons changed.
        Identifiers that were found to be one person share one privacy account from then on.

        Args:
            study: an approved one: its images are decoded and kept.
            progress: told of every file.
            decoders: of an approval whose cohort is frozen, whose pixels are read again as they
                were; empty for those of today.
            most: bytes that the decoded images may take on disk; None for no bound.

        Raises:
            Refusal: ``data-unavailable``.
            DataError: the site's own failure: the folder of images or the cache cannot be used.
            LabelError: the site's own failure: the label file as a whole cannot be used.
            SiteError: a list of patients cannot be read.
        """
        persons = self.persons.read().persons
        # For the accounts they stay joined, even if the list forgets it: what was released about
        # one identifier was released about the person.
        join(self._store, persons)
        absent = self.absent()
        data, targets = self._file.dataset(study), self._file.targets(study, self._folder)
        images, shape = self._folder / data.images, image_shape(study, targets, decoders)
        # A share that went away looks like a folder in which nobody has an image, or a mask.
        roots = {images: require_folder(images, self._roots.get(images))}
        if isinstance(targets, MaskFolder):
            before = self._roots.get(targets.path)
            roots[targets.path] = require_folder(targets.path, before, kind="mask")
        # All that a cohort follows from: where any of it changes, the files are read again.
        wanted = study.data.model_dump_json() + study.task.model_dump_json()
        wanted += sha256(canonical_json([sorted(absent), sorted(persons.items())]))
        wanted += entries_of(images, targets.path) + shape.recipe
        if wanted not in self._held:
            while len(self._held) >= MOST_COHORTS:  # the one that was read first
                del self._held[next(iter(self._held))]
            # Before the files are read: what changed meanwhile counts as not seen.
            self._read_at = self._read_at or timestamp()
            cohort = load_cohort(
                images,
                targets,
                pseudonyms=self.pseudonyms,
                classes=study.task.classes,
                modalities=study.data.modalities,
                image_size=study.data.image_size,
                channels=study.data.channels,
                spacing=study.data.spacing,
                split=data.parts,
                cache=self._cache,
                without=absent,
                persons=persons,
                workers=self.workers,
                progress=progress,
                derived=data.derived,
                decoders=shape.decoders,
                most=most,
                reading=self._reading,
            )
            join_spellings(self._store, cohort.foldings, self.ignored, remember=True)
            self._held[wanted] = cohort
            self._roots |= roots
        return self._held[wanted]

    def absent(self) -> frozenset[str]:
        """Pseudonyms of the patients who opted out, under every identifier of theirs.

        Raises:
            SiteError: a list cannot be read.
        """
        found = self.opt_outs.read()
        # Also where no file has the spelling that is listed: what the site ignores now it may not
        # ignore tomorrow, and the patient stays out.
        join(self._store, found.spellings)
        return everyone_joined(self._store, found.pseudonyms)

    def of(self, approval: Approval) -> Cohort:
        """The patients of this moment, for a round of a plan whose cohort is frozen.

        Another process may have frozen it after they were read here: then they are read again
        before anyone counts as gone.

        Raises:
            SiteError: the site file ignores other differences between PatientIDs than on the day
                of the approval: others would be in the cohort, and nobody must leave for that.
            ConsiliumError: as :meth:`read`.
        """
        study, plan_hash = approval.plan.study, approval.plan.hash
        if approval.ignored != self.ignored:
            raise _told_apart_otherwise(approval, self.ignored)
        cohort = self.read(study, decoders=approval.decoders)
        if self._read_at <= approval.frozen and membership.leavers(
            self._store, plan_hash, membership.places(cohort), self.absent()
        ):
            self.forget()
            cohort = self.read(study, decoders=approval.decoders)
        return cohort

    def forget(self) -> None:
        """Read cohorts again when they are asked for."""
        self._held.clear()
        self._read_at = ""

    def let_go(self) -> None:
        """Hold no images in memory whose file was deleted: the disk keeps them until then."""
        for wanted, cohort in list(self._held.items()):
            file = getattr(cohort.images, "filename", None)
            if file is not None and not Path(file).exists():
                del self._held[wanted]


def _told_apart_otherwise(approval: Approval, ignored: int) -> SiteError:
    """The error for a study whose patients the site file now tells apart in another way."""
    name, before = approval.plan.study.study.name, _listed(approval.ignored)
    return SiteError(
        "the site file tells patients apart in another way than when this study was approved",
        where=f"study {name}: [site] ignore_in_patient_ids",
        found=_listed(ignored),
        wanted=before,
        remedy=f"set ignore_in_patient_ids = {before} again and restart the daemon; or, to go on "
        f"with the patients of today: consilium-site approve {name}",
    )


def _listed(ignored: int) -> str:
    return json.dumps([each for each in DIFFERENCES if each in rule(ignored)])
