"""``consilium-sim``: the researcher's commands."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from common.process.console import out, progress, run_cli
from simulations.audit.audit_settings import (
    CANARIES,
    CONFIDENCE,
    REPETITIONS,
    AuditSettings,
    CanaryKind,
    Which,
)
from simulations.cli import hospitals
from simulations.cli.studies import advise, compare_runs, find_study, shipped, sweep

if TYPE_CHECKING:
    from simulations.runs.run_settings import RunSettings

DEMO_SEED: Final = 0

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Simulate hospitals on one machine: they train one shared model, as real hospitals would.",
)
app.add_typer(hospitals.app, name="hospitals")
app.command()(advise)
app.command()(sweep)
app.command("compare")(compare_runs)


class GridChoice(StrEnum):
    """Where a simulation's hospitals are computed."""

    AUTO = "auto"
    PROCESS = "process"
    POOL = "pool"
    RAY = "ray"


Out = Annotated[Path, typer.Option("--out", help="Folder for all output.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    *,
    hospitals: Annotated[Path, typer.Option(help="Folder with hospitals.json.")],
    folder: Out,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial weights and all keys.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    site_order: Annotated[
        str | None,
        typer.Option(
            help="Order in which sites are asked, as a,b,c. The result does not depend on it."
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Also train each hospital alone, and all data pooled, for comparison."),
    ] = True,
    baseline_rate: Annotated[
        float, typer.Option(min=1e-6, help="Multiply the baselines' learning rate by this.")
    ] = 1.0,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Threads of every site. Changes the last bits of the result."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Use the threads and kernels that the sites of this finished run used."),
    ] = None,
    package: Annotated[bool, typer.Option(help="Write the model package, model.consilium.")] = True,
    keep_records: Annotated[
        bool,
        typer.Option(
            "--keep-records", help="Keep each hospital's ledger and audit log on disk (slower)."
        ),
    ] = False,
    grid: Annotated[
        GridChoice,
        typer.Option(help="Where hospitals are computed. It changes no bit of the result."),
    ] = GridChoice.AUTO,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Processes to use. By default one a processor."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Head of a Ray cluster, as host:6379. Without it one is started here."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="Graphics cards of each Ray worker; 0.25 shares one.")
    ] = 0.0,
    participation: Annotated[
        Path | None,
        typer.Option(help="Which hospitals take part in a round: a file (TOML), or a trace (CSV)."),
    ] = None,
    strategy_file: Annotated[
        Path | None, typer.Option(help="Your own strategy, a Python file; simulations alone.")
    ] = None,
) -> None:
    """Run a study on a folder of hospitals, and write a report."""
    # Imported where it is needed: torch takes seconds, and --help must not.
    from simulations.grids.participation import load_participation
    from simulations.runs.run_settings import PROCESSES, RunSettings

    _carry_out(
        RunSettings(
            study=find_study(study),
            hospitals=hospitals,
            run=folder,
            seed=seed,
            resume=resume,
            site_order=tuple(site_order.split(",")) if site_order else None,
            baselines=baselines,
            baseline_rate=baseline_rate,
            threads=threads,
            like=like,
            package=package,
            keep_records=keep_records,
            grid=grid.value,
            processes=processes or PROCESSES,
            ray_address=ray_address,
            gpus=gpus,
            participation=load_participation(participation) if participation else None,
            strategy=strategy_file,
            command=_typed(),
        )
    )


@app.command()
def demo(
    *,
    folder: Out = Path("runs/demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Repeat a finished run; keep its hospitals.")
    ] = False,
) -> None:
    """Four made-up hospitals train one shared model. Run it again to continue."""
    from simulations.cli.demonstration import HOSPITALS, finished, make_hospitals, start_afresh
    from simulations.cli.screen import show
    from simulations.runs.run_settings import RunSettings

    settings = RunSettings(
        study=find_study("demo"),
        hospitals=folder / HOSPITALS,
        run=folder,
        seed=DEMO_SEED,
        resume=True,
        package=True,
        command=_typed(),
    )
    if fresh:
        start_afresh(settings)
    result = finished(folder)
    if result is not None:
        out().print(f"{folder} holds a finished run. To repeat it, add --fresh.")
        show(out(), result, folder)
        return
    make_hospitals(settings.hospitals, seed=DEMO_SEED, progress=progress)
    _carry_out(settings)


@app.command()
def network(
    *,
    folder: Out = Path("runs/network"),
    study: Annotated[
        str, typer.Option(help="A study file, or the name of a shipped study.")
    ] = "network",
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial weights and all keys.")
    ] = 0,
) -> None:
    """Run a study with a coordinator and three hospitals over TLS; compare it with a simulation.

    Deletes earlier output in --out. Exits with 1 if the final weights are different.
    """
    from common.process.logs import configure
    from simulations.runs.network import NetworkSettings, run_network, start_afresh

    configure(level="error")
    settings = NetworkSettings(find_study(study), folder / "hospitals", folder, seed)
    start_afresh(settings, progress)
    found = run_network(settings, lambda line: out().print(line, markup=False))
    console = out()
    console.print("\nfinal_weights_sha256", style="bold")
    console.print(f"  over the network  {found.network}", markup=False)
    console.print(f"  simulated         {found.simulation}", markup=False)
    console.print("Identical, bit for bit." if found.same else "They are different.", style="bold")
    console.print(f"Logs of the daemons: {settings.logs}", markup=False)
    if not found.same:
        raise typer.Exit(1)


@app.command()
def audit(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    *,
    hospitals: Annotated[Path, typer.Option(help="Folder with hospitals.json.")],
    folder: Out,
    only: Annotated[
        Which | None, typer.Option(help="Run one of the two audits. Default: both.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of all random choices.")
    ] = 0,
    canaries: Annotated[
        int,
        typer.Option(
            min=5, max=1_000_000, help="One-run audit: made-up patients for each hospital."
        ),
    ] = CANARIES,
    kind: Annotated[
        CanaryKind, typer.Option(help="One-run audit: what the canaries look like.")
    ] = CanaryKind.PATTERN,
    runs: Annotated[
        int, typer.Option(min=1, max=10_000, help="One-run audit: how often to run the study.")
    ] = 1,
    repetitions: Annotated[
        int,
        typer.Option(min=2, max=1_000_000, help="Mechanism audit: tiny studies for each hospital."),
    ] = REPETITIONS,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999999, help="Confidence that all bounds hold together.")
    ] = CONFIDENCE,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of every site.")
    ] = None,
) -> None:
    """Try to break a study's privacy claim, and write a report. Exits with 1 if it is broken."""
    from common.process.logs import configure
    from simulations.audit.audit import audit as carry_out
    from simulations.audit.screen import show
    from simulations.cli.screen import Screen

    configure(level="error")
    settings = AuditSettings(
        study=find_study(study),
        hospitals=hospitals,
        out=folder,
        only=only,
        seed=seed,
        canaries=canaries,
        kind=kind,
        runs=runs,
        repetitions=repetitions,
        confidence=confidence,
        threads=threads,
        command=_typed(),
    )
    findings = carry_out(settings, Screen())
    show(out(), findings, folder)
    if not findings.survived:
        raise typer.Exit(1)


@app.command()
def pretrain(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    *,
    hospitals: Annotated[
        Path, typer.Option(help="Hospitals whose patients need no protection: made-up or public.")
    ],
    file: Annotated[Path, typer.Option("--out", help="The file to write, as NAME.safetensors.")],
    source: Annotated[str, typer.Option(help="Who makes the weights, or where they are.")],
    licence: Annotated[str, typer.Option(help="Under which they may be used.")],
    trained_on: Annotated[str, typer.Option(help="The data of those hospitals, in words.")],
    start: Annotated[
        Path | None, typer.Option(help="Public weights to begin with: a .safetensors file.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=0, help="Steps of training. 0 sets only the projection.")
    ] = 0,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1000)] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1, max=1_000_000)] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
) -> None:
    """Make public starting weights for a study, from hospitals that need no privacy."""
    from simulations.cli.screen import Screen
    from simulations.pretraining.pretrain import make

    make(
        find_study(study),
        hospitals,
        file,
        rounds=rounds,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        start=start,
        about={"source": source, "licence": licence, "trained_on": trained_on},
        watcher=Screen(),
    )
    out().print(
        f"{file} is written. Next: copy it beside the study file, and in [model] write\n"
        f'initial = "{file.name}"',
        markup=False,
    )


@app.command()
def studies() -> None:
    """List the shipped studies and their files."""
    from common.study.study_file import load_study

    for path in shipped():
        title = Text.assemble((path.stem, "bold"), f"  {load_study(path).study.title}")
        out().print(title, f"\n  {path}", sep="")


def _carry_out(settings: RunSettings) -> None:
    from common.process.logs import configure
    from simulations.cli.screen import Screen, show
    from simulations.runs.run import run_study

    configure(level="error")
    show(out(), run_study(settings, Screen()), settings.run)


def _typed() -> str:
    return shlex.join(["consilium-sim", *sys.argv[1:]])


def main() -> None:
    """Entry point of the command."""
    run_cli(app)


if __name__ == "__main__":
    main()
