"""``consilium-sim hospitals``: make the DICOM archives that a simulation runs on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import DataError
from common.process.console import out as console
from common.process.console import progress, run_cli

if TYPE_CHECKING:
    from simulations.hospitals.npz import Source
    from simulations.partitions.partition import Partitioning

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make the hospitals of a simulation: folders of DICOM files, and one test set.",
)

Out = Annotated[
    Path, typer.Option("--out", help="New or empty folder. Replaces hospitals made before.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Seed. The same seed gives the same files.")
]


HowDivided = Annotated[
    str,
    typer.Option(
        "--partition",
        help="How patients are divided: dirichlet, iid, natural, noisy, quantity or shards.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="An option of the partition, as shards_per_site=2."),
]
OwnFile = Annotated[
    Path | None, typer.Option(help="A Python file with a function that divides patients.")
]
SideOf = Annotated[int, typer.Option(min=8, max=1024, help="Side of every image, in pixels.")]
Coloured = Annotated[bool, typer.Option("--colour", help="Keep colours; else images are grey.")]
TestShare = Annotated[
    float, typer.Option(min=0.01, max=0.9, help="Share of patients in the test set.")
]
Dataset = Annotated[
    str | None, typer.Option(help="Data set name in studies. Default: from the source's name.")
]
Modality = Annotated[str, typer.Option(help="DICOM modality, such as DX.")]


class Subject(StrEnum):
    """What is drawn."""

    PNEUMONIA = "pneumonia"
    LESIONS = "lesions"


@app.command()
def synth(
    *,
    out: Out,
    patients: Annotated[
        int, typer.Option(help="Patients of each hospital, training and validation together.")
    ] = 300,
    test_patients: Annotated[int, typer.Option(help="Patients of the test set.")] = 600,
    subject: Annotated[
        Subject,
        typer.Option(
            help="pneumonia: chest radiographs with labels. "
            "lesions: MR slices of the liver with masks."
        ),
    ] = Subject.PNEUMONIA,
    seed: Seed = 0,
    size: Annotated[int, typer.Option(help="Side of the smallest images, in pixels.")] = 64,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
) -> None:
    """Draw images for hospitals with different scanners."""
    from simulations.hospitals.lesions import write_lesions
    from simulations.hospitals.synth import Size, write_synthetic

    wanted = Size(patients=patients, test_patients=test_patients, pixels=size, sites=sites)
    write = {Subject.PNEUMONIA: write_synthetic, Subject.LESIONS: write_lesions}[subject]
    _show(out, write(out, wanted, seed=seed, progress=progress))


@app.command("from-npz")
def from_npz(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="A MedMNIST file.")],
    *,
    out: Out,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    alpha: Annotated[
        float, typer.Option(help="Small: hospitals have different labels. Large: they are alike.")
    ] = 0.5,
    seed: Seed = 0,
    dataset: Annotated[
        str | None, typer.Option(help="Data set name in studies. Default: from the file name.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of labels 0, 1, …, such as normal,pneumonia.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="DICOM modality. Default: from the file name.")
    ] = None,
    partition: HowDivided = "dirichlet",
    option: Options = None,
    partition_file: OwnFile = None,
    arrays: Annotated[
        bool, typer.Option("--arrays", help="Write arrays, without DICOM: quicker, for any number.")
    ] = False,
    slices: Annotated[
        int | None,
        typer.Option(help="Images of each patient, where the file has volumes. Default: 4."),
    ] = None,
    label: Annotated[
        int | None, typer.Option(help="Which of several labels is learned, from 0.")
    ] = None,
) -> None:
    """Divide a MedMNIST file among hospitals. Each image or volume counts as one patient."""
    from simulations.hospitals.npz import read_source

    names = [name.strip() for name in classes.split(",")] if classes is not None else None
    source = read_source(
        file, dataset=dataset, classes=names, modality=modality, slices=slices, label=label
    )
    how = _partitioning(partition, option, partition_file, alpha=alpha)
    _divide(out, source, how, sites, seed=seed, arrays=arrays)


@app.command("from-folder")
def from_folder(
    folder: Annotated[Path, typer.Argument(help="One folder of pictures for each class.")],
    *,
    out: Out,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    partition: HowDivided = "iid",
    option: Options = None,
    partition_file: OwnFile = None,
    size: SideOf = 28,
    colour: Coloured = False,
    test_share: TestShare = 0.2,
    seed: Seed = 0,
    dataset: Dataset = None,
    modality: Modality = "OT",
) -> None:
    """Divide pictures in folders of classes among hospitals, as arrays."""
    from simulations.hospitals.pictures import Form, read_folder

    source = read_folder(
        folder,
        Form(size, colour),
        seed=seed,
        test_share=test_share,
        dataset=dataset,
        modality=modality,
        progress=progress,
    )
    _divide(out, source, _partitioning(partition, option, partition_file), sites, seed=seed)


@app.command("from-csv")
def from_csv(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="A row for each picture.")],
    *,
    out: Out,
    image_column: Annotated[str, typer.Option(help="Column of the pictures' paths.")] = "image",
    label_column: Annotated[str, typer.Option(help="Column of the classes.")] = "label",
    patient_column: Annotated[
        str | None, typer.Option(help="Column of the patients. Default: each picture is one.")
    ] = None,
    site_column: Annotated[
        str | None, typer.Option(help="Column of the institutions, for --partition natural.")
    ] = None,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    partition: HowDivided = "iid",
    option: Options = None,
    partition_file: OwnFile = None,
    size: SideOf = 28,
    colour: Coloured = False,
    test_share: TestShare = 0.2,
    seed: Seed = 0,
    dataset: Dataset = None,
    modality: Modality = "OT",
) -> None:
    """Divide pictures that a table lists among hospitals, as arrays."""
    from simulations.hospitals.pictures import Columns, Form, read_table

    source = read_table(
        file,
        Columns(image_column, label_column, patient_column, site_column),
        Form(size, colour),
        seed=seed,
        test_share=test_share,
        dataset=dataset,
        modality=modality,
        progress=progress,
    )
    _divide(out, source, _partitioning(partition, option, partition_file), sites, seed=seed)


@app.command("from-masks")
def from_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="Images, masks and patients.")],
    *,
    out: Out,
    classes: Annotated[str, typer.Option(help="Names of mask values 1, 2, …, such as tumour.")],
    images: Annotated[str, typer.Option(help="Array of images, (n, rows, columns).")] = "images",
    masks: Annotated[
        str, typer.Option(help="Array of masks: of the same shape, or its packed bits.")
    ] = "masks",
    patient: Annotated[str, typer.Option(help="Array of patients' ids.")] = "patient",
    site: Annotated[str, typer.Option(help="Array of patients' institutions.")] = "site",
    least_patients: Annotated[
        int, typer.Option(min=1, help="An institution with fewer is joined to another.")
    ] = 10,
    test_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of patients in the test set.")
    ] = 0.2,
    seed: Seed = 0,
    dataset: Annotated[
        str | None, typer.Option(help="Data set name in studies. Default: from the file name.")
    ] = None,
    modality: Annotated[str, typer.Option(help="DICOM modality, such as MR.")] = "OT",
) -> None:
    """Make a hospital of each institution of a file with images and masks."""
    from simulations.hospitals.masked_npz import Arrays, read_masked, write_masked

    source = read_masked(
        file,
        classes=[name.strip() for name in classes.split(",")],
        arrays=Arrays(images, masks, patient, site),
        dataset=dataset,
        modality=modality,
    )
    manifest = write_masked(
        out, source, seed=seed, least=least_patients, test_share=test_share, progress=progress
    )
    _show(out, manifest)


def _partitioning(
    kind: str, given: list[str] | None, file: Path | None, **known: float
) -> Partitioning:
    """The way to divide patients that was asked for."""
    from common.documents import read_toml
    from simulations.partitions.partitions import PARTITIONS, partitioning

    if file is not None:
        kind = "own"
    fields = PARTITIONS[kind].model_fields if kind in PARTITIONS else {}
    options: dict[str, Any] = {name: value for name, value in known.items() if name in fields}
    for each in given or ():
        name, _, text = each.partition("=")
        try:
            options |= read_toml(f"{name} = {text}".encode())
        except ValueError as error:
            raise DataError(
                "an option of the partition cannot be read",
                where="--option",
                found=each,
                wanted="NAME=NUMBER",
                remedy=f"for example --option {next(iter(fields), 'alpha')}=0.5",
            ) from error
    return partitioning(kind, options | ({"file": file} if file else {}))


def _divide(
    out: Path, source: Source, how: Partitioning, sites: int, *, seed: int, arrays: bool = True
) -> None:
    """Divide a source among hospitals, and say what was made."""
    from simulations.hospitals.npz import write_divided

    manifest = write_divided(
        out, source, sites=sites, seed=seed, partition=how, arrays=arrays, progress=progress
    )
    _show(out, manifest)


def _show(folder: Path, manifest: dict[str, Any]) -> None:
    """Say what was made, a line a hospital."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("site", "patients", "images", *manifest["classes"], "unusable files"):
        table.add_column(name, justify="left" if name == "site" else "right")
    for name, facts in (*manifest["per_site"].items(), ("test", manifest["test"])):
        labels = [str(facts["labels"].get(each, 0)) for each in manifest["classes"]]
        unusable = str(sum(facts["unusable"].values()))
        table.add_row(name, str(facts["patients"]), str(facts["images"]), *labels, unusable)
    console().print(table)
    if manifest["redraws"]:
        console().print(
            f"divisions rejected (too few patients at a hospital): {manifest['redraws']}",
            markup=False,
        )
    for note in manifest.get("notes", ()):
        console().print(note, markup=False)
    if len(manifest["classes"]) > 1:
        from simulations.partitions.picture import draw_hospitals

        console().print(f"picture  {draw_hospitals(folder, manifest)}", markup=False)
    console().print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    run_cli(app)
