"""``consilium-site check``: a folder and its labels, or everything that a site file names."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from common.errors import SiteError
from common.process.console import out, progress, show_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from client.data.dicom import Derived
    from client.data.labels import LabelFile
    from client.data.masks.sources import MaskFolder
    from client.data.pseudonyms import Difference
    from client.data.report import Report
    from client.sitefile import DataSet

    Look = Callable[["Sources", Derived, Path | None], Report]


class Sources(NamedTuple):
    """What a study could learn from."""

    images: Path
    labels: LabelFile | None
    masks: MaskFolder | None
    ignored: frozenset[Difference] = frozenset()


class KeyKind(StrEnum):
    """What a row of the label file names."""

    SOPInstanceUID = "SOPInstanceUID"
    StudyInstanceUID = "StudyInstanceUID"
    PatientID = "PatientID"
    filename = "filename"


class DerivedImages(StrEnum):
    """What to do with images that are not originals; see :class:`client.data.dicom.Derived`."""

    reject = "reject"
    primary = "primary"
    accept = "accept"


def check(
    context: typer.Context,
    *,
    images: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files. Default: as in the site file.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV file: a key and a label in each row.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks: DICOM SEG, NIfTI or PNG.")
    ] = None,
    key: Annotated[
        KeyKind | None,
        typer.Option(
            metavar="KEY",
            help="What a row names: SOPInstanceUID, StudyInstanceUID, PatientID or filename. "
            "Default: the first of these that has a column.",
        ),
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column with the key. Default: the name of the key.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column with the label.")] = "label",
    file_prefix: Annotated[
        str | None,
        typer.Option(
            help="Folders above --images that file names in the label file begin with. Default: "
            "those that all have."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Allowed labels: a,b. Default: those in the file.")
    ] = None,
    mask_classes: Annotated[
        str | None, typer.Option(help="Allowed classes of masks: a,b. Default: those that occur.")
    ] = None,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Labels are numbers to predict, not classes.")
    ] = False,
    modality: Annotated[
        list[str] | None, typer.Option(help="Modalities to use: CR,DX. Default: any.")
    ] = None,
    derived: Annotated[
        DerivedImages,
        typer.Option(
            help="Derived images: reject, use primary ones, or accept all, also localisers."
        ),
    ] = DerivedImages.reject,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one per core.")] = 0,
    list_files: Annotated[
        bool,
        typer.Option("--list", help="List rejected files. File names can contain patients' names."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check which DICOM files a study can use, and why not the others. Changes nothing."""
    from client.data import report as checking
    from client.data.dicom import Derived, Rules
    from client.data.label_files.near_misses import guess_prefix
    from client.data.masks.sources import MaskFolder

    known = () if numbers else tuple(_parts([classes])) if classes else None
    marked = tuple(_parts([mask_classes])) if mask_classes else None
    modalities = tuple(_parts(modality or []))
    # Not os.cpu_count: a container or systemd may allow this process fewer cores.
    processes = workers or len(os.sched_getaffinity(0))

    def look(sources: Sources, kinds: Derived, same_person: Path | None) -> Report:
        return checking.check(
            sources.images,
            sources.labels,
            masks=sources.masks,
            classes=known,
            mask_classes=marked,
            rules=Rules(modalities, kinds),
            ignored=sources.ignored,
            same_person=same_person,
            workers=processes,
            progress=progress,
        )

    if images is None and labels is None and masks is None:
        _check_site(context.obj, look, list_files=list_files, as_json=as_json)
        return
    if images is None or (labels is None and masks is None):
        raise SiteError(
            "only one of --images and --labels is named",
            remedy="name both (or --masks in place of --labels), or neither to check the data sets "
            "of the site file",
        )
    file = None
    if labels is not None:
        file = _label_file(labels, key, key_column, label_column)
        prefix = guess_prefix(file, images) if file_prefix is None else file_prefix
        file = replace(file, prefix=prefix)
    sources = Sources(images, file, MaskFolder(masks) if masks else None)
    report = look(sources, Derived(derived.value), None)
    _print(report, sources, list_files=list_files, as_json=as_json)
    # After the report: it shows why no file can be used.
    checking.require_usable(images, report)


def _check_site(path: Path, look: Look, *, list_files: bool, as_json: bool) -> None:
    """Every data set of a site file."""
    from client.data import report as checking
    from client.device_check import require_device
    from client.sitefile import load_site_file

    site = load_site_file(path)
    # First: it takes seconds, and reading an archive may take an hour.
    card = require_device(site)
    if card is not None and not as_json:
        out().print(f"graphics card: {card}\n")
    persons = path.parent / site.site.same_person if site.site.same_person else None
    for name, data in site.data.items():
        sources = Sources(
            path.parent / data.images,
            site.label_file(name, path.parent) if data.labels else None,
            site.mask_folder(name, path.parent),
            site.site.ignore_in_patient_ids,
        )
        report = look(sources, data.derived, persons)
        if not as_json:
            out().print(f"data set {name}", style="bold")
        _print(report, sources, list_files=list_files, as_json=as_json)
        checking.require_usable(sources.images, report)
        # A study may need labels or masks: its noise is too small if fewer patients have them.
        patients = min(report.patients, report.masks.patients if report.masks else report.patients)
        # An expectation: each patient's part follows from that patient alone, so the number varies.
        expected = patients * data.split[0]
        if data.declared_patients > expected:
            raise SiteError(
                "the site declares more patients than its archive has in training",
                where=f"{path}: [data.{name}] declared_patients",
                found=data.declared_patients,
                wanted=f"at most about {int(expected)}: {patients} patients, of which the "
                f"split gives {data.split[0]:.0%} to training",
                remedy="lower the number; otherwise the noise would be too small. If you "
                "expect more patients, see above why images or masks are not used",
            )
        _require_declared_fits(path, name, data, report.patients)
        if not as_json:
            out().print(
                f"declared_patients {data.declared_patients}: good (about {int(expected)} found). "
                f"most_patients {data.most_patients}: good.\n"
            )


def _require_declared_fits(path: Path, name: str, data: DataSet, patients: int) -> None:
    """Refuse a ``most_patients`` that training or validation exceeds, by its share of all."""
    for part, share in (("training", data.split[0]), ("validation", data.split[1])):
        # Counted over all patients: which part each is in is not drawn here.
        if patients * share > data.most_patients:
            raise SiteError(
                "the archive has more patients than the site file allows",
                where=f"{path}: [data.{name}] most_patients",
                found=data.most_patients,
                wanted=f"more than about {int(patients * share)}: {patients} patients, of which "
                f"the split gives {share:.0%} to {part}",
                remedy="raise the number, with room for future patients: those beyond it take no "
                "part; the number is public",
            )


def _label_file(
    path: Path, key: KeyKind | None, key_column: str | None, label_column: str
) -> LabelFile:
    from client.data.labels import LabelFile, guess_key

    if key is None and key_column is None:
        kind, column = guess_key(path, label_column)
        return LabelFile(path, kind, column, label_column)
    kind = key.value if key else "SOPInstanceUID"
    return LabelFile(path, kind, key_column or kind, label_column)


def _print(report: Report, sources: Sources, *, list_files: bool, as_json: bool) -> None:
    from client.data import report as checking

    if as_json:
        show_json(report.as_json(paths=list_files))
        return
    checking.show(report, sources.images, sources.labels, out())
    if list_files:
        checking.show_rejected(report, out())


def _parts(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
