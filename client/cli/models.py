"""What anybody types who has a model package: no daemon is needed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from common.errors import PackageError, SiteError
from common.process.console import out, progress

if TYPE_CHECKING:
    from client.data.labels import LabelFile
    from client.data.masks.sources import MaskFolder
    from client.prediction.predict import Predicted
    from common.package.package import Package

PackageFile = Annotated[
    Path, typer.Argument(metavar="PACKAGE", help="The model package: model.consilium.")
]
AnySigner = Annotated[
    bool, typer.Option("--any-signer", help="Use a package that your coordinator has not signed.")
]
SHOWN = 5
"""Warnings and reasons that are shown; all are in the tables."""


def predict(
    context: typer.Context,
    package: PackageFile,
    *,
    images: Annotated[Path, typer.Option(help="Folder of DICOM files, at any depth.")],
    folder: Annotated[
        Path, typer.Option("--out", help="New folder for tables, DICOM objects and pictures.")
    ],
    reasons: Annotated[
        str, typer.Option(metavar="METHOD", help="Draw why: auto, or a method; see the guide.")
    ] = "",
    rule: Annotated[
        str,
        typer.Option("--at", metavar="RULE", help="Operating point by its name on the card."),
    ] = "",
    cost: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e6, help="Cost of a missed patient over a false alarm."),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(min=1e-6, max=0.999999, help="Share of patients who have the finding."),
    ] = None,
    local: Annotated[
        Path | None,
        typer.Option(help="What `consilium-site evaluate` measured here: evaluation/local.json."),
    ] = None,
    dicom: Annotated[bool, typer.Option(help="Write DICOM objects.")] = True,
    any_image: Annotated[
        bool,
        typer.Option("--any-image", help="Also images that training leaves out, with warnings."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Predict so many files at most, to try it.")
    ] = None,
    any_signer: AnySigner = False,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one per core.")] = 0,
) -> None:
    """Say what a model finds in new images: tables, DICOM objects and pictures. Sends nothing."""
    opened = opened_package(context.obj, package, any_signer=any_signer)

    from client.prediction.local import read_local
    from client.prediction.predict import STOPPED, Wanted
    from client.prediction.predict import predict as carry_out

    opened, rule = _with_rule(package, opened, rule, cost, prevalence)
    wanted = Wanted(
        images=images,
        out=folder,
        rule=rule,
        reasons=reasons,
        dicom=dicom,
        any_image=any_image,
        most=limit,
        workers=workers or len(os.sched_getaffinity(0)),
        local=None if local is None else read_local(local, opened),
    )
    try:
        done = carry_out(opened, wanted, progress)
    except KeyboardInterrupt:
        if (folder / STOPPED).exists():
            out().print(Text((folder / STOPPED).read_text().strip(), style="bold yellow"))
        raise
    _show(done)


def evaluate(
    context: typer.Context,
    package: PackageFile,
    *,
    folder: Annotated[Path, typer.Option("--out", help="New folder for what is found.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files. Default: as in the site file.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV file: a key and a label in each row.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks, in place of labels.")] = None,
    label_column: Annotated[str, typer.Option(help="Column with the label.")] = "label",
    state: Annotated[
        Path | None, typer.Option(help="The site's state folder. Default: as in the site file.")
    ] = None,
    column: Annotated[
        str, typer.Option("--reader", metavar="COLUMN", help="Column with a second reader's label.")
    ] = "",
    rule: Annotated[
        str, typer.Option("--at", metavar="RULE", help="Operating point by its name on the card.")
    ] = "",
    alpha: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Share of patients whose set may miss the truth."),
    ] = 0.1,
    alone: Annotated[bool, typer.Option(help="Train a model here alone, to compare with.")] = True,
    new_patients: Annotated[
        bool, typer.Option("--new-patients", help="With --images: none of them was in training.")
    ] = False,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Judge also on patients of training.")
    ] = False,
    any_signer: AnySigner = False,
) -> None:
    """Judge a model on this hospital's own patients. Exact, and for the hospital alone."""
    from tempfile import TemporaryDirectory

    from client.prediction import evaluation_report, own
    from client.prediction.evaluate import evaluate as carry_out
    from client.prediction.table import require_free

    opened = opened_package(context.obj, package, any_signer=any_signer)
    opened, rule = _with_rule(package, opened, rule, None, None)
    if images is None:
        _require_alone("--images", labels, masks, new_patients or None)
        sources = own.of_site(context.obj, opened.study, state)
    else:
        targets = _targets(labels, masks, images, label_column)
        sources = own.of_folders(images, targets, new=new_patients)
    require_free(folder)
    # Decoded images are as sensitive as the originals: they go when the command ends.
    with TemporaryDirectory(dir=folder) as cache:
        found = carry_out(
            opened,
            sources,
            cache=Path(cache),
            progress=progress,
            everyone=everyone,
            alone=alone,
            column=column,
            rule=rule,
            alpha=alpha,
        )
    files = evaluation_report.write(folder, opened, found, alpha)
    evaluation_report.show(out(), opened, found, files)


def _require_alone(wanted: str, *others: object) -> None:
    """Refuse options that have no effect."""
    if any(each is not None for each in others):
        raise SiteError(
            "options are named that cannot go together",
            where=wanted,
            found="--labels, --masks or --new-patients without --images; or --labels with --masks",
            remedy="name --images and one of --labels and --masks; or none of them, to judge on "
            "the site file's data set",
        )


def _targets(
    labels: Path | None, masks: Path | None, images: Path, label_column: str
) -> LabelFile | MaskFolder:
    from client.data.label_files.near_misses import guess_prefix
    from client.data.labels import LabelFile, guess_key
    from client.data.masks.sources import MaskFolder

    if masks is not None:
        _require_alone("--masks", labels)
        return MaskFolder(masks)
    if labels is None:
        raise SiteError(
            "what is known of these images is not named",
            where="--labels",
            wanted="a label file with --labels, or masks with --masks",
            remedy="name one; or leave --images out to judge on the site file's data set",
        )
    kind, column = guess_key(labels, label_column)
    file = LabelFile(labels, kind, column, label_column)
    return replace(file, prefix=guess_prefix(file, images))


def bundle(
    context: typer.Context,
    package: PackageFile,
    *,
    folder: Annotated[Path, typer.Option("--out", help="New folder for the bundle.")],
    any_signer: AnySigner = False,
) -> None:
    """Write a package as a MONAI bundle, which MONAI's own command runs."""
    from client.prediction.monai_bundle import write_bundle

    write_bundle(opened_package(context.obj, package, any_signer=any_signer), folder)
    out().print(Text(f"Wrote the bundle into {folder}. To run it there:", style="bold"))
    out().print(
        "  python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES",
        markup=False,
    )


def card(context: typer.Context, package: PackageFile, *, any_signer: AnySigner = False) -> None:
    """Show a package's model card: what it is for, how good it is, what it cost in privacy."""
    from rich.markdown import Markdown

    opened = opened_package(context.obj, package, any_signer=any_signer)
    out().print(Markdown(opened.card, hyperlinks=False))


def opened_package(site_file: Path, path: Path, *, any_signer: bool = False) -> Package:
    """The package, opened; who signed it is shown.

    Args:
        site_file: of a site, if there is one: its coordinator's key is known.
        path: of the package.
        any_signer: whether a package that another coordinator signed is used.

    Raises:
        PackageError: it cannot be opened, or another coordinator signed it than the site's.
    """
    from client.sitefile import known_coordinator, load_site_file
    from common.package.package import read

    opened = read(path)
    said = opened.statement
    console = out()
    console.print(Text(f"{said.title} ({opened.name})", style="bold"))
    console.print("Research use only. Not for diagnosis.", style="bold red")
    for note in (*said.warnings, *said.doubts):
        console.print(Text(note, style="yellow"))
    joined = None
    if site_file.exists():
        file = load_site_file(site_file)
        joined = known_coordinator(site_file.absolute().parent / file.site.state)
    if joined is None:
        console.print(
            Text(f"Signed with key {opened.key[:16]}, which is not known here.", style="dim")
        )
    elif joined.signing_key == opened.key:
        console.print(Text(f"Signed by your coordinator, {joined.name}."))
    elif any_signer:
        console.print(
            Text(f"Signed with key {opened.key[:16]}, not by {joined.name}.", style="bold yellow")
        )
    else:
        raise PackageError(
            "your coordinator has not signed this package",
            where=path,
            found=f"key {opened.key}",
            wanted=f"key {joined.signing_key}, of {joined.name}",
            remedy="ask who made it; if you trust them, --any-signer uses it",
        )
    return opened


def _with_rule(
    path: Path, package: Package, rule: str, cost: float | None, prevalence: float | None
) -> tuple[Package, str]:
    """The package with the operating point that is asked for, and the point's name."""
    if (cost is None) != (prevalence is None):
        raise PackageError(
            "a cost is weighed with a prevalence, and one of the two is missing",
            where="--cost, --prevalence",
            remedy="name both, such as --cost 5 --prevalence 0.1",
        )
    if rule and cost is not None:
        raise PackageError(
            "--at and --cost both name a rule", where="--at, --cost", remedy="name one of them"
        )
    if cost is not None and prevalence is not None:
        from common.scores.operating import COST

        return package.with_cheapest(cost, prevalence), COST
    names = list(dict.fromkeys(each.name for each in package.statement.points))
    if rule and rule not in names:
        raise PackageError(
            "the package has no such operating point",
            where=path,
            found=rule,
            wanted=", ".join(names) or "none: this package has no operating points",
            remedy="leave --at out, or give one of these names",
        )
    return package, rule


def _show(done: Predicted) -> None:
    console = out()
    console.print(f"{done.examinations} examinations with {done.images} images predicted.")
    for name, count in done.found.most_common():
        console.print(Text(f"  {name}: present in {count}"))
    _listed("Warnings:", done.warnings.most_common(), "images")
    _listed("Not used:", [(each.value, n) for each, n in done.reasons.most_common()], "files")
    _listed("Not made:", done.skipped.most_common(), "objects")
    console.print("Written:", style="bold")
    for path in done.files:
        console.print(Text(f"  {path}"))


def _listed(title: str, counts: list[tuple[str, int]], unit: str) -> None:
    if not counts:
        return
    out().print(title, style="bold")
    for words, count in counts[:SHOWN]:
        out().print(Text(f"  {words}: {count} {unit}"))
    if len(counts) > SHOWN:
        out().print(f"  and {len(counts) - SHOWN} more; the tables have all")
