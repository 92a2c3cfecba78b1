"""``consilium-site``: what the administrator of a hospital types."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.console import out, progress, run_cli

if TYPE_CHECKING:
    from client.check import Report
    from client.labels import LabelFile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A hospital's side of Consilium.",
)


class KeyKind(StrEnum):
    """What a row of the label file is about."""

    SOPInstanceUID = "SOPInstanceUID"
    StudyInstanceUID = "StudyInstanceUID"
    PatientID = "PatientID"
    filename = "filename"


class DerivedImages(StrEnum):
    """What to do with images that are not originals; see :class:`client.dicom.Derived`."""

    reject = "reject"
    primary = "primary"
    accept = "accept"


@app.callback()
def site() -> None:
    """A hospital's side of Consilium."""


@app.command()
def check(
    *,
    images: Annotated[Path, typer.Option(help="Folder of DICOM files, at any depth.")],
    labels: Annotated[Path, typer.Option(help="CSV file with a key and a label in each row.")],
    key: Annotated[
        KeyKind | None,
        typer.Option(help="What a row is about. Default: the first of these that has a column."),
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column of the key. Default: called like the key.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    classes: Annotated[
        str | None, typer.Option(help="Labels there are: a,b. Default: those that occur.")
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="Modality to use: CR,DX. Default: any.")
    ] = None,
    derived: Annotated[
        DerivedImages,
        typer.Option(help="Derived images: reject, use primary ones, or accept with localisers."),
    ] = DerivedImages.reject,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core.")] = 0,
    list_files: Annotated[
        bool, typer.Option("--list", help="List rejected files; names may hold patients' names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which DICOM files a study could use, which not and why. Changes nothing."""
    from client import check as checking
    from client.dicom import Derived, Rules

    file = _label_file(labels, key, key_column, label_column)
    report = checking.check(
        images,
        file,
        classes=tuple(_parts([classes])) if classes else None,
        rules=Rules(tuple(_parts(modality or [])), Derived(derived.value)),
        workers=workers or len(os.sched_getaffinity(0)),
        progress=progress,
    )
    _print(report, images, file, list_files=list_files, as_json=as_json)
    checking.require_usable(images, report)


def _label_file(
    path: Path, key: KeyKind | None, key_column: str | None, label_column: str
) -> LabelFile:
    from client.labels import LabelFile, guess_key

    if key is None and key_column is None:
        kind, column = guess_key(path, label_column)
        return LabelFile(path, kind, column, label_column)
    kind = key.value if key else "SOPInstanceUID"
    return LabelFile(path, kind, key_column or kind, label_column)


def _print(
    report: Report, images: Path, file: LabelFile, *, list_files: bool, as_json: bool
) -> None:
    from client import check as checking

    if as_json:
        typer.echo(json.dumps(report.as_json(paths=list_files), indent=2))
        return
    checking.show(report, images, file, out())
    if list_files:
        checking.show_rejected(report, out())


def _parts(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def main() -> None:
    """Run the command line."""
    run_cli(app)


if __name__ == "__main__":
    main()
