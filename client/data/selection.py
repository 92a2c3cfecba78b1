"""Which files a study can use, as far as headers and labels tell, and which are copies.

Each patient's files are chosen from that patient's files and label rows alone: a patient who
cannot be used, or opted out, changes nothing for the others.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from client.data.archive import Found, Rejected
from client.data.dicom import Reason, Rules, Unusable
from client.data.labels import Labels, Row, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from client.data.masks.folder import Masks
    from client.data.pseudonyms import Pseudonyms


@dataclass(frozen=True)
class LabelledFile:
    """A file with its patient and that patient's label. Sensitive.

    The label is the index of a class, or a number; 0 where masks are what is learned.
    """

    file: Found
    pseudonym: str = field(repr=False)
    label: int | float = field(repr=False)

    @property
    def order(self) -> tuple[str, str]:
        """By patient, then by content: nothing that renaming a file would change."""
        return self.pseudonym, self.file.sha256


def select(
    files: Sequence[Found],
    rules: Rules,
    labels: Labels | Masks,
    pseudonyms: Pseudonyms,
    *,
    without: Collection[str] = (),
    persons: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[LabelledFile], list[Rejected]]:
    """The files that a study can use, as far as headers and labels, or masks, tell.

    A patient who opted out is as if not there: neither chosen nor rejected. A patient with two
    labels, or with one that is not a class, is rejected with all files.

    Returns:
        What is chosen, sorted by patient and content and with copies, and what is rejected.
    """
    by_patient: dict[str, list[tuple[Found, tuple[Row, ...]]]] = defaultdict(list)
    rejected: list[Rejected] = []
    for file in files:
        try:
            rules.judge(file.header)
            # Here the identifier is replaced by the pseudonym; nothing after this knows it.
            pseudonym = pseudonyms.of(file.header.patient)
            pseudonym = persons.get(pseudonym, pseudonym)
            used, rows = _target(file, pseudonym, labels)
        except Unusable as verdict:
            rejected.append(Rejected(file.path, verdict.reason, verdict.detail))
            continue
        if pseudonym not in without:
            by_patient[pseudonym].append((used, rows))
    chosen: list[LabelledFile] = []
    for pseudonym, every in by_patient.items():
        apart = _masked_apart(file for file, _ in every)
        detail = "another copy of this image has another mask"
        rejected += (Rejected(path, Reason.TWO_MASKS, detail) for path in apart)
        group = [each for each in every if each[0].path not in apart]
        try:
            rows = tuple(row for _, about in group for row in about)
            label = _one_label(labels, rows) if isinstance(labels, Labels) else 0
        except Unusable as verdict:
            rejected += (Rejected(file.path, verdict.reason, verdict.detail) for file, _ in group)
            continue
        chosen += (LabelledFile(file, pseudonym, label) for file, _ in group)
    return sorted(chosen, key=lambda each: each.order), rejected


def _masked_apart(files: Iterable[Found]) -> set[str]:
    """The copies of one image of a patient that have different masks, by path."""
    masks: defaultdict[str, set[str]] = defaultdict(set)
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        for image in {file.sha256, file.header.instance} - {""}:
            masks[image].add(file.mask.sha256 if file.mask else "")
            paths[image].add(file.path)
    return set().union(*(paths[image] for image in masks if len(masks[image]) > 1))


def _target(file: Found, pseudonym: str, labels: Labels | Masks) -> tuple[Found, tuple[Row, ...]]:
    """A file with its mask, or with the rows about it.

    Raises:
        Unusable: there is none, or there are several masks.
    """
    if not isinstance(labels, Labels):
        return labels.of(file, pseudonym), ()
    rows = labels.about(file)
    if not rows:
        raise Unusable(Reason.NO_LABEL, f"no row with its {labels.file.key}")
    return file, rows


def _one_label(labels: Labels, rows: Sequence[Row]) -> int | float:
    """The one class or number that all rows about a patient give.

    Raises:
        Unusable: they give another one too, or none.
    """
    # Never the first or the most frequent label: a choice could depend on the order of the rows.
    given = {labels.label(row) for row in rows}
    lines = listed(row.line for row in rows)
    if None in given:
        raise Unusable(Reason.NO_CLASS, lines)
    if len(given) > 1:
        raise Unusable(Reason.TWO_LABELS, lines)
    (label,) = given
    assert label is not None
    return label


def each_once(labelled: Iterable[LabelledFile]) -> tuple[list[LabelledFile], list[Rejected]]:
    """Every image of a patient once, without copies, also those encoded in another way.

    Patients are looked at one by one: one patient's files never remove another's.
    """
    once: list[LabelledFile] = []
    copies: list[Rejected] = []
    # Keyed by patient: otherwise the copy of one patient's file under another identifier would
    # decide whether that other patient has an image.
    seen: set[tuple[str, str]] = set()
    for each in labelled:
        content = (each.pseudonym, each.file.sha256)
        instance = (each.pseudonym, each.file.header.instance)
        if content in seen:
            detail = "another file has the same content"
            copies.append(Rejected(each.file.path, Reason.DUPLICATE, detail))
        elif instance[1] and instance in seen:
            detail = "another file of the patient has the same SOPInstanceUID (0008,0018)"
            copies.append(Rejected(each.file.path, Reason.DUPLICATE, detail))
        else:
            once.append(each)
        seen.update((content, instance))
    return once, copies
