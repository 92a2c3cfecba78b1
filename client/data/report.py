"""What a study could use of a folder and its labels, before any study asks.

Every file is decoded, of any modality, so that a damaged one is found now and not on the day of
the training. The report is for the hospital's own administrator: file names may contain patients'
names and are listed only on request.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from client.data.archive import Rejected, Scan, require_dicom, scan, summary
from client.data.dicom import Reason, Rules
from client.data.label_files.near_misses import require_no_near_misses
from client.data.labels import LabelFile, Labels, fault, read_labels
from client.data.masks.folder import Masks, people, read_masks
from client.data.masks.report import MaskReport, count_marks
from client.data.masks.sources import MaskFolder, MaskRules
from client.data.persons import Persons
from client.data.pseudonyms import DIFFERENCES, Pseudonyms, folded, normal
from client.data.selection import LabelledFile, each_once, select
from common.errors import DataError, LabelError
from common.process.progress import Progress, silent
from common.visible import visible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from rich.console import Console

    from client.data.pseudonyms import Difference

_SHOWN: Final = 8

REMEDIES: Final = {
    Reason.UNREADABLE: "let this user read the files; check for broken links",
    Reason.UNLISTED: "let this user list these folders (r and x on each): the images in them "
    "are missing here",
    Reason.TOO_LARGE: "nothing to do, or export them as smaller files",
    Reason.NOT_DICOM: "nothing to do if these are notes, lists or pictures",
    Reason.NO_PIXELS: "nothing to do if these are reports, plans or a DICOMDIR",
    Reason.NO_SYNTAX: "export the files again as DICOM Part 10 files, which say how their pixels "
    "are stored; dcmconv +F makes such files of uncompressed ones",
    Reason.UNDECODABLE: "see why with --list, then export the files again, uncompressed if "
    "possible",
    Reason.BLANK: "look at some in a viewer: if they are not blank there, export them again",
    Reason.WRONG_MODALITY: "ask the coordinator which modalities the study uses",
    Reason.DERIVED: "`derived` in site.toml decides; to see the effect here: --derived primary",
    Reason.BURNED_IN: "export the images again without text in them",
    Reason.NO_PATIENT_ID: "export again with a PatientID or a stable pseudonym in its place",
    Reason.DUPLICATE: "nothing to do: one copy of each is used",
    Reason.NO_LABEL: "add rows for these images if they should be used",
    Reason.NO_CLASS: "correct the labels of these patients, or their damaged rows",
    Reason.NO_SPACING: "export them again with Pixel Spacing (0028,0030)",
    Reason.NO_MASK: "nothing to do, or add masks of these images; --list names them. A DICOM SEG "
    "names its images by SOPInstanceUID and has their PatientID, a NIfTI or PNG has the image's "
    "path and name",
    Reason.TWO_MASKS: "keep one mask file for each image, with all of its classes",
    Reason.BAD_MASK: "see why with --list, then export these masks again",
    Reason.MASK_SIZE: "export these masks with the rows and columns of their images, one slice in "
    "each file",
    Reason.MASK_CLASS: "say in mask_classes of site.toml which class each value or segment is, or "
    "background",
    Reason.NOT_MASK: "nothing to do if these are notes or lists; masks are DICOM SEG, NIfTI or PNG",
    Reason.NO_IMAGE: "nothing to do, or check that these masks have the names or the "
    "SOPInstanceUIDs and PatientIDs of their images",
    Reason.TWO_LABELS: "choose one label for each of these patients; until then they are left out",
}

_SEVERAL: Final = "several"
_ONLY_BY: Final = {
    "unicode": "only by the form or character set of letters",
    "blanks": "only by blanks",
    "case": "only by upper and lower case",
    "leading-zeros": "only by leading zeros",
    _SEVERAL: "only by several of blanks, case, leading zeros and the form of letters",
}

_STRANGERS: Final = (
    "no row of the label file matches any of these images: were the images given new UIDs or "
    "PatientIDs after the list was made? Otherwise correct key and key_column in site.toml "
    "(--key, --key-column)"
)


@dataclass(frozen=True)
class Report:
    """What a folder gives. Counts only, but for ``rejected``, whose paths are sensitive."""

    files: int
    used: int
    images: int
    patients: int
    labels: dict[str, int]
    patients_by_label: dict[str, int]
    modalities: dict[str, int]
    sizes: dict[str, int]
    rejected: tuple[Rejected, ...] = field(repr=False)
    rows: int
    rows_without_image: int
    near_twins: dict[str, int]
    label_notes: tuple[str, ...] = ()
    masks: MaskReport | None = None

    @property
    def strangers(self) -> bool:
        """Whether no row matches any image: the keys are wrong, rather than all rows missing."""
        return bool(self.reasons[Reason.NO_LABEL]) and self.rows_without_image == self.rows

    @property
    def all_rejected(self) -> tuple[Rejected, ...]:
        """Also the images without a mask, and the masks without an image."""
        return self.rejected + (self.masks.rejected if self.masks else ())

    @property
    def reasons(self) -> dict[Reason, int]:
        """How many files are rejected for each reason, the whole closed list."""
        counts = Counter(each.reason for each in self.all_rejected)
        return {reason: counts[reason] for reason in Reason}

    def as_json(self, *, paths: bool) -> dict[str, Any]:
        """The report for a program; with ``paths``, every rejected file by its path."""
        report: dict[str, Any] = {
            "files": self.files,
            "used": self.used,
            "rejected": len(self.all_rejected),
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
            "images": self.images,
            "patients": self.patients,
            "labels": self.labels,
            "patients_by_label": self.patients_by_label,
            "modalities": self.modalities,
            "sizes": self.sizes,
            "rows": self.rows,
            "rows_without_image": self.rows_without_image,
            "label_notes": list(self.label_notes),
            "near_twins": self.near_twins,
        }
        if self.masks:
            report["masks"] = self.masks.as_json()
        if paths:
            report["rejected_files"] = [
                {"path": each.path, "reason": each.reason.value, "detail": each.detail}
                | ({"mask": each.mask} if each.mask else {})
                for each in self.all_rejected
            ]
        return report


def check(
    folder: Path,
    labels: LabelFile | None,
    *,
    classes: tuple[str, ...] | None,
    rules: Rules,
    masks: MaskFolder | None = None,
    mask_classes: tuple[str, ...] | None = None,
    ignored: Collection[Difference] = (),
    same_person: Path | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> Report:
    """Read, decode and count everything.

    A study leaves out patients that it cannot use; here every possible mistake is an error.

    Args:
        folder: of DICOM files, read recursively.
        labels: the label file, if there is one.
        classes: labels there are; None takes those that occur.
        rules: which images a study would use.
        masks: the folder of masks, if there is one; there is one or labels.
        mask_classes: classes that masks mark; None takes what occurs.
        ignored: in what PatientIDs of one patient may differ, besides what the labels say.
        same_person: the list of PatientIDs that are one person, if there is one.
        workers: processes to read with.
        progress: told of every file.

    Raises:
        DataError: no such folder, or no DICOM file in it.
        LabelError: the label file cannot be used, or a row of it.
        SiteError: the list of persons cannot be read.
    """
    # Nothing is recorded, so any key will do to count patients: a check needs no site.
    pseudonyms = Pseudonyms.throwaway().ignoring({*ignored, *(labels.ignored if labels else ())})
    persons = Persons(same_person, pseudonyms).read().persons
    known = read_labels(labels, classes) if labels else None
    if known:
        known.require_sound()
    found, looked = scan(folder, decode=True, workers=workers, progress=progress), None
    if masks:
        looked = read_masks(
            masks, folder, pseudonyms, persons=persons, workers=workers, progress=progress
        )
        found = looked.apart(folder, found)
    require_dicom(folder, found)
    if known:
        _require_paths(known, found)
        require_no_near_misses(known, found.found)
    chosen, rejected = list[LabelledFile](), list[Rejected]()
    masked = None
    for targets in (looked, known):  # where there are both, labels say what is used
        if targets is None:
            continue
        labelled, rejected = select(found.found, rules, targets, pseudonyms, persons=persons)
        chosen, copies = each_once(labelled)
        rejected += copies
        if isinstance(targets, Masks):
            unnamed = targets.unnamed(people(found.found, pseudonyms, persons))
            masked = count_marks(
                folder,
                chosen,
                MaskRules.of(targets.folder, mask_classes or ()),
                files=len(targets.files),
                rejected=[
                    *(each for each in rejected if each.reason is Reason.NO_MASK or each.mask),
                    *targets.rejected,
                    *unnamed,
                ],
                workers=workers,
                progress=progress,
            )
            spoilt = {each.path for each in masked.rejected}
            chosen = [each for each in chosen if each.file.path not in spoilt]
            rejected = [each for each in rejected if each.path not in spoilt]
    headers = [each.file.header for each in chosen]
    by_patient = {each.pseudonym: each.label for each in chosen}
    # By line, since two rows may say the same and still both need an image.
    assigned = {row.line for file in found.found for row in (known.about(file) if known else ())}
    return Report(
        files=len(found.found) + len(found.rejected),
        used=len(chosen),
        images=sum(each.frames for each in headers),
        patients=len(by_patient),
        labels=_labels(known, (each.label for each in chosen)),
        patients_by_label=_labels(known, by_patient.values()),
        modalities=_most_common(each.modality or "none" for each in headers),
        sizes=_most_common(f"{each.rows}x{each.columns}" for each in headers),
        rejected=tuple(sorted([*found.rejected, *rejected], key=lambda each: each.path)),
        rows=len(known.rows) if known else 0,
        rows_without_image=len(known.rows) - len(assigned) if known else 0,
        label_notes=known.notes if known else (),
        near_twins=_near_twins({each.header.patient for each in found.found}, pseudonyms, persons),
        masks=masked,
    )


def _near_twins(
    identifiers: Iterable[str], pseudonyms: Pseudonyms, persons: Mapping[str, str]
) -> dict[str, int]:
    """How many identifiers differ from another patient's by nothing but one thing, or several."""
    people = {each: pseudonyms.of(each) for each in identifiers if each}
    people = {each: persons.get(pseudonym, pseudonym) for each, pseudonym in people.items()}
    twins: dict[str, set[str]] = {}
    for name, ignored in [*((each, {each}) for each in DIFFERENCES), (_SEVERAL, {*DIFFERENCES})]:
        alike: defaultdict[str, set[str]] = defaultdict(set)
        for each in people:
            alike[folded(each, ignored)].add(each)
        groups = (group for group in alike.values() if len({people[each] for each in group}) > 1)
        twins[name] = {each for group in groups for each in group}
    twins[_SEVERAL] -= set().union(*(twins[each] for each in DIFFERENCES))
    return {name: len(found) for name, found in twins.items()}


def _require_paths(labels: Labels, found: Scan) -> None:
    """Refuse rows with a bare file name: they match no file, but were probably meant to.

    Raises:
        LabelError: there are such rows.
    """
    if labels.file.key != "filename":
        return
    bare = {normal(PurePosixPath(each.path).name) for each in found.found if not labels.about(each)}
    paths = {normal(each.path) for each in found.found}
    lines = [row.line for row in labels.rows if row.key in bare - paths]
    if lines:
        raise fault(
            labels.file,
            "rows name files without their folders",
            lines,
            wanted="the path below the image folder, with /",
            remedy="write the whole path in these rows: several folders may have a file with the "
            "same name",
        )


_OF_MASK_FILES: Final = (Reason.NO_IMAGE, Reason.NOT_MASK)


def require_usable(folder: Path, report: Report) -> None:
    """Refuse a folder with nothing usable, or with patients that have two labels.

    Raises:
        DataError: no file can be used.
        LabelError: a patient bears more than one label, and would be left out.
    """
    apart = sorted({each.detail for each in report.rejected if each.reason is Reason.TWO_LABELS})
    if apart:
        raise LabelError(
            "rows of the label file give a patient more than one label",
            where="; ".join(apart),
            wanted="one label for each patient",
            remedy="choose one label, or delete the wrong rows; until then studies leave these "
            "patients out",
        )
    if report.used and report.masks and not report.masks.images:
        wrong = Counter(each.reason for each in report.masks.rejected)
        raise DataError(
            "no mask in the folder can be used",
            where=folder,
            found=summary(report.masks.rejected),
            wanted="masks that name their images: DICOM SEG, NIfTI or PNG",
            remedy=REMEDIES[wrong.most_common(1)[0][0]] if wrong else "check the folder of masks",
        )
    if report.used:
        return
    # What is said of mask files that have no image follows from what the images lack.
    reasons = {each: n for each, n in report.reasons.items() if each not in _OF_MASK_FILES}
    reason = max(reasons or report.reasons, key=lambda each: report.reasons[each])
    raise DataError(
        "no image in the folder can be used",
        where=folder,
        found=summary(report.all_rejected),
        wanted=f"DICOM images with a PatientID and a {'mask' if report.masks else 'label'}",
        remedy=_STRANGERS
        if report.strangers
        else _remedy(report, reason).removeprefix("nothing to do, or "),
    )


def show(report: Report, folder: Path, labels: LabelFile | None, console: Console) -> None:
    """Print a report for a person: what is used, what is not, what to do."""
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("folder", str(folder)),
        *((("labels", f"{labels.path}, by {labels.key}"),) if labels else ()),
        (
            "files",
            f"{report.files} found: {report.used} usable, {report.files - report.used} not",
        ),
        ("usable", f"{report.used} files with {report.images} images; a study may want fewer"),
        *((("", _listing(report.labels)),) if labels else ()),
        ("patients", str(report.patients)),
        *((("", _listing(report.patients_by_label)),) if labels else ()),
        ("modalities", _listing(report.modalities)),
        ("sizes", _listing(report.sizes)),
        *(("" if place else "masks", line) for place, line in enumerate(_masks(report))),
    ):
        grid.add_row(Text(name, style="bold"), Text(value))
    console.print(grid)
    if report.all_rejected:
        console.print()
        console.print(_rejections(report))
        console.print()
    for line in advice(report):
        console.print(Text(f"note: {line}"))


def show_rejected(report: Report, console: Console) -> None:
    """Print every rejected file with its reason; paths may contain patients' names."""
    for each in report.all_rejected:
        detail = f": {each.detail}" if each.detail else ""
        mask = f" (mask {each.mask})" if each.mask else ""
        console.print(Text(visible(f"{each.path}  {each.reason.value}{detail}{mask}")))


def advice(report: Report) -> list[str]:
    """What the counts suggest, one sentence each."""
    notes = [f"label file: {note}" for note in report.label_notes]
    if report.rows_without_image and not report.strangers:
        notes.append(
            f"{report.rows_without_image} of {report.rows} rows of the label file match no "
            "readable image"
        )
    if report.patients == 1 and report.used > 1:
        notes.append(
            "all images have the same PatientID and count as one patient; if they are from several "
            "patients, the export has overwritten it: export again with one pseudonym per patient"
        )
    missing = [name for name, count in report.patients_by_label.items() if not count]
    if missing and report.used:
        notes.append(f"no patient has the label {' or '.join(missing)}")
    notes += (
        f"{count} PatientIDs differ from another one {_ONLY_BY[name]}, and count as different "
        "patients; if they are the same, see ignore_in_patient_ids in docs/site.md"
        for name, count in report.near_twins.items()
        if count
    )
    return notes


def _masks(report: Report) -> list[str]:
    return list(report.masks.lines()) if report.masks else []


def _rejections(report: Report) -> Table:
    table = Table(
        "rejected", "reason", "what to do", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for reason, count in report.reasons.items():
        if count:
            table.add_row(str(count), reason.value, _remedy(report, reason))
    return table


def _remedy(report: Report, reason: Reason) -> str:
    if reason is Reason.NO_LABEL and report.strangers:
        return "no row of the label file matches any image: see the error below"
    if reason is Reason.WRONG_MODALITY:
        # The detail of each file ends with its modality: "Modality is CR".
        wrong = (each.detail for each in report.rejected if each.reason is reason)
        kinds = sorted({detail.removeprefix("Modality is ") for detail in wrong})[:_SHOWN]
        return f"these images are {' and '.join(kinds)}; {REMEDIES[reason]}"
    return REMEDIES[reason]


def _labels(known: Labels | None, labels: Iterable[int | float]) -> dict[str, int]:
    """How many have each label; of numbers, how many have one."""
    counts = Counter(labels)
    if known is None or not counts:
        return {} if known is None else dict.fromkeys(known.classes, 0)
    if not known.classes:
        return {f"numbers from {min(counts):g} to {max(counts):g}": counts.total()}
    return {name: counts[place] for place, name in enumerate(known.classes)}


def _most_common(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _listing(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{count} {name}" for name, count in [*counts.items()][:_SHOWN])
    more = len(counts) - _SHOWN
    return f"{shown} and {more} more kinds" if more > 0 else shown or "none"
