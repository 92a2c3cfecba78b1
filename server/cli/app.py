"""``consilium-coordinator``: the command line of a study's coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import CoordinatorError
from common.process.console import err, out, run_cli, show_json

if TYPE_CHECKING:
    from server.cli.rpc_client import Caller

# Commands import what they need inside, so that --help loads neither gRPC nor SQLAlchemy.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Typer's tracebacks show local variables, which may be secrets.
    pretty_exceptions_enable=False,
    help="The coordinator's side of Consilium: sites, studies, results.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
Name = Annotated[str, typer.Argument(help="The study's name.")]


@app.callback()
def coordinator(
    context: typer.Context,
    *,
    home: Annotated[
        Path,
        typer.Option(
            envvar="CONSILIUM_COORDINATOR",
            help="The coordinator's folder.",
        ),
    ] = Path(),
    connect: Annotated[
        str | None, typer.Option(help="host:port of a coordinator on another machine.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Folder with your operator certificate, for --connect.")
    ] = None,
) -> None:
    """The coordinator's side of Consilium: sites, studies, results."""
    from server.cli.rpc_client import Caller

    context.obj = Caller(home, connect, identity)


@app.command()
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The coordinator's name.")],
    *,
    address: Annotated[str, typer.Option(help="host:port under which sites reach it.")],
) -> None:
    """Make a coordinator: its settings, keys and certificates."""
    from server.daemon import authority

    made = authority.init(context.obj.home, name, address)
    card = authority.coordinator_card(made.home)
    console = out()
    state = "is ready" if made.made else "exists already; nothing was changed"
    console.print(f"Coordinator {card.name} {state}: {made.home.folder}", markup=False)
    console.print(f"fingerprint  {card.fingerprint}", style="bold", markup=False)
    console.print(
        "\nNext:\n"
        "  1. consilium-coordinator serve\n"
        "  2. consilium-coordinator admit SITE.json   for each hospital's file\n"
        "  3. consilium-coordinator start STUDY.toml",
        markup=False,
    )


@app.command()
def serve(context: typer.Context) -> None:
    """Run the coordinator's daemon until you stop it: gateway, studies, control service."""
    import sys

    from common.process.logs import configure, form_for
    from server.daemon.settings import load_home
    from server.daemon.supervisor import serve

    home = load_home(context.obj.home)
    configure(form_for(sys.stderr.isatty()), "info")
    serve(home, _say_ready)


def _say_ready(where: str, sites: int) -> None:
    count = "1 site" if sites == 1 else f"{sites} sites"
    following = "start STUDY.toml" if sites else "admit SITE.json"
    out().print(f"serving on {where}; {count} admitted; next: consilium-coordinator {following}")


@app.command()
def admit(
    context: typer.Context,
    card: Annotated[Path, typer.Argument(help="The SITE.json that the hospital sent.")],
    *,
    patients: Annotated[
        list[str] | None,
        typer.Option(
            help="DATASET=NUMBER: patients that the site may declare. Default: as in SITE.json."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for COORDINATOR.json. Default: beside SITE.json."),
    ] = None,
) -> None:
    """Admit a site, and write the COORDINATOR.json that it joins with."""
    from common.control import coordinator_pb2 as pb
    from common.files import write_atomic
    from common.wire.enrolment import read_site_card
    from server.cli.commands import agreements, numbers_of
    from server.cli.rpc_client import calling

    site, others = read_site_card(card), numbers_of(patients or [])
    with calling(context.obj) as daemon:
        reply = daemon.Admit(pb.AdmitRequest(card=site.text, patients=others))
    path = (folder or card.parent).resolve() / "COORDINATOR.json"
    write_atomic(path, reply.coordinator_card.encode())
    console = out()
    again = " again" if reply.again else ""
    console.print(f"{reply.site} is admitted{again}.", markup=False)
    console.print(f"site's fingerprint  {reply.fingerprint}", style="bold", markup=False)
    console.print(
        f"your fingerprint    {reply.coordinator_fingerprint}", style="bold", markup=False
    )
    for line in agreements(reply):
        console.print(line, markup=False)
    console.print(
        f"\nNext: send {path} to the site.\n"
        "Then compare both fingerprints by telephone. The site sees its own one with\n"
        "`consilium-site card`, and yours with `consilium-site join`. If its fingerprint is\n"
        f"different: consilium-coordinator remove {reply.site}",
        markup=False,
    )


@app.command()
def agree(
    context: typer.Context,
    site: Annotated[str, typer.Argument(help="The site's name.")],
    dataset: Annotated[str, typer.Argument(help="The data set's name, as in the site file.")],
    patients: Annotated[
        int, typer.Argument(help="The most patients in training that the site may declare.")
    ],
) -> None:
    """Set how many patients of a data set a site may declare. With more, it is left out."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        reply = daemon.Agree(pb.AgreeRequest(site=site, dataset=dataset, patients=patients))
        (row,) = (row for row in daemon.Sites(pb.SitesRequest()).sites if row.name == site)
    declared = [each.dataset for each in row.agreed if each.declared]
    if dataset not in declared:
        err().print(
            f"The SITE.json of {site} has no data set {dataset}. "
            f"It has: {', '.join(declared) or 'none'}. Check the name.",
            style="yellow",
            markup=False,
        )
    before = f" (before: {reply.before})" if reply.before else ""
    out().print(
        f"{site} may declare {patients} patients of {dataset}{before}. "
        "This applies to studies that you start or resume from now on, if their plans are not made "
        "yet.",
        markup=False,
    )


@app.command()
def remove(
    context: typer.Context, site: Annotated[str, typer.Argument(help="The site's name.")]
) -> None:
    """Remove a site: it cannot connect until you admit it again."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        daemon.Remove(pb.RemoveRequest(site=site))
    out().print(
        f"{site} is removed and can no longer connect. "
        "To admit it again: consilium-coordinator admit SITE.json",
        markup=False,
    )


@app.command()
def sites(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the sites."""
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import as_documents
    from server.cli.event_text import sites_table, twins_of
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        rows = daemon.Sites(pb.SitesRequest()).sites
    if as_json:
        show_json(as_documents(rows))
    elif rows:
        out().print(sites_table(rows))
        for warning in twins_of(rows):
            out().print(warning)
    else:
        out().print("No site is admitted yet: consilium-coordinator admit SITE.json")


@app.command()
def start(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The study file.")],
    *,
    only: Annotated[
        str | None,
        typer.Option("--sites", help="Names of sites: a,b. Default: all admitted sites."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the first weights.")] = 0,
) -> None:
    """Start a study. The file is checked before anything is sent."""
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import checked_study, say_started
    from server.cli.rpc_client import calling

    document, initial = checked_study(study)
    names = [name.strip() for name in only.split(",")] if only else []
    with calling(context.obj) as daemon:
        asked = pb.StartRequest(document=document, sites=names, seed=seed, initial=initial)
        reply = daemon.Start(asked)
    say_started(reply, out())


@app.command()
def studies(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the studies and their states."""
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import as_documents
    from server.cli.event_text import remarks, studies_table
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        rows = daemon.Studies(pb.StudiesRequest()).studies
    if as_json:
        show_json(as_documents(rows))
    elif rows:
        console = out()
        console.print(studies_table(rows))
        for row in rows:
            for remark in remarks(row):
                console.print(remark)
    else:
        out().print("There is no study yet: consilium-coordinator start STUDY.toml")


@app.command()
def watch(
    context: typer.Context,
    study: Name,
    *,
    after: Annotated[int, typer.Option(help="Show only events after this number.")] = 0,
    follow: Annotated[bool, typer.Option(help="Wait for new events.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show a study's events, one a line, until it ends. Ctrl-C does not stop the study."""
    from server.cli.commands import watch as follow_study

    follow_study(context.obj, study, after=after, follow=follow, as_json=as_json)


@app.command()
def stop(context: typer.Context, study: Name) -> None:
    """Stop a study after its last completed round. You can resume it."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        daemon.Stop(pb.StopRequest(study=study))
    out().print(
        f"{study} is stopped after its last completed round. "
        f"To go on: consilium-coordinator resume {study}",
        markup=False,
    )


@app.command()
def resume(
    context: typer.Context,
    study: Name,
    *,
    amend: Annotated[
        str | None,
        typer.Option(
            help="Names of sites, a,b, whose numerics have changed: go on with the new ones."
        ),
    ] = None,
) -> None:
    """Resume a study that was stopped or has failed.

    With --amend, sites that have new versions or another machine are asked to agree to them.
    """
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import study_row
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        names = [name.strip() for name in amend.split(",")] if amend else []
        completed = study_row(daemon, study).state == "completed"
        daemon.Resume(pb.ResumeRequest(study=study, amend=names))
    if completed:
        words = (
            f"{study} is completed. Its sites are told once more that it is over. "
            f"No patient pays again. To see the result: consilium-coordinator result {study}"
        )
    else:
        words = f"{study} is resumed. To follow it: consilium-coordinator watch {study}"
    out().print(words, markup=False)


@app.command()
def result(
    context: typer.Context,
    study: Name,
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files of the result.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the results of a completed study. With --out, also write its files.

    Of these, model.consilium is the package that hospitals use.
    """
    from server.cli.commands import result as show_result

    show_result(context.obj, study, folder=folder, as_json=as_json)


@app.command()
def weights(
    checkpoint: Annotated[Path, typer.Argument(help="A file of torch's or of safetensors'.")],
    study: Annotated[Path, typer.Argument(help="The study file whose model they are for.")],
    *,
    source: Annotated[str, typer.Option(help="Who made them, or where they are published.")],
    licence: Annotated[str, typer.Option(help="Under which they may be used.")],
    trained_on: Annotated[str, typer.Option(help="The data that they were trained on.")],
    file: Annotated[
        Path, typer.Option("--out", help="The file to write, beside the study file.")
    ] = Path("initial.safetensors"),
) -> None:
    """Make public starting weights for a study: [model] initial. No code in a file is run."""
    from server.cli.weights import make_and_tell

    about = {"source": source, "licence": licence, "trained_on": trained_on}
    make_and_tell(study, checkpoint, file, about, out())


@app.command()
def operator(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The operator's name.")],
    *,
    folder: Annotated[
        Path, typer.Option("--out", help="Where to make the operator's folder.")
    ] = Path(),
) -> None:
    """Make a certificate for an operator on another machine."""
    from server.daemon.operators import admit_operator
    from server.daemon.settings import load_home

    home = load_home(_here(context.obj))
    files = admit_operator(home, name).write(folder / name)
    console = out()
    for path in files:
        console.print(str(path), markup=False)
    address = home.file.control.listen
    if address is None:
        err().print(
            "Operators cannot connect yet: set [control] listen in coordinator.toml and restart "
            "the daemon.",
            style="yellow",
            markup=False,
        )
    console.print(
        f"\nGive {name} this folder over a secure channel, then delete it here.\n"
        f"Use: consilium-coordinator --connect HOST:PORT --identity {name} studies",
        markup=False,
    )


def _here(caller: Caller) -> Path:
    if caller.connect is not None:
        raise CoordinatorError(
            "operators can only be added at the coordinator itself",
            remedy="run this on the coordinator's machine, without --connect",
        )
    return caller.home


def main() -> None:
    """Entry point of the command."""
    run_cli(app)


if __name__ == "__main__":
    main()
