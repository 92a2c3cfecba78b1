"""``consilium-coordinator``: what the coordinator of a study types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import CoordinatorError
from common.process.console import err, out, run_cli, show_json

if TYPE_CHECKING:
    from server.cli.rpc_client import Caller

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
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
        Path, typer.Option(envvar="CONSILIUM_COORDINATOR", help="Folder of the coordinator.")
    ] = Path(),
    connect: Annotated[
        str | None, typer.Option(help="host:port of a coordinator on another machine.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Folder with your certificate, for --connect.")
    ] = None,
) -> None:
    """The coordinator's side of Consilium: sites, studies, results."""
    from server.cli.rpc_client import Caller

    context.obj = Caller(home, connect, identity)


@app.command()
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the coordinator is called.")],
    *,
    address: Annotated[str, typer.Option(help="host:port under which sites reach it.")],
) -> None:
    """Make a coordinator: its settings, keys and certificates."""
    from server.daemon import authority

    made = authority.init(context.obj.home, name, address)
    card = authority.coordinator_card(made.home)
    console = out()
    verb = "is made" if made.made else "was made before; nothing was changed"
    console.print(f"The coordinator {card.name} {verb}: {made.home.folder}", markup=False)
    console.print(f"fingerprint  {card.fingerprint}", style="bold", markup=False)
    console.print(
        "\nNext:\n"
        "  1. consilium-coordinator serve\n"
        "  2. consilium-coordinator admit SITE.json   for the file that each hospital sends\n"
        "  3. consilium-coordinator start STUDY.toml",
        markup=False,
    )


@app.command()
def serve(context: typer.Context) -> None:
    """Serve until stopped: the gateway, the studies, and what is asked with other commands."""
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
            help="DATASET=NUMBER: agree on this many patients, not on what the card declares."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for COORDINATOR.json. Default: beside SITE.json."),
    ] = None,
) -> None:
    """Let a site in, or in again; write the COORDINATOR.json that it joins by."""
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
    console.print(f"{reply.site} is let in{again}.", markup=False)
    console.print(f"its fingerprint   {reply.fingerprint}", style="bold", markup=False)
    console.print(f"our fingerprint   {reply.coordinator_fingerprint}", style="bold", markup=False)
    for line in agreements(reply):
        console.print(line, markup=False)
    console.print(
        f"\nNext: send {path} to the site, and compare both fingerprints by telephone: the\n"
        "site reads its own from SITE.json, and ours from what `consilium-site join` shows.\n"
        f"Were its fingerprint another: consilium-coordinator remove {reply.site}",
        markup=False,
    )


@app.command()
def agree(
    context: typer.Context,
    site: Annotated[str, typer.Argument(help="The site's name.")],
    dataset: Annotated[str, typer.Argument(help="The data set, as the site calls it.")],
    patients: Annotated[int, typer.Argument(help="Patients in training, at most.")],
) -> None:
    """Let a site declare so many patients of a data set: a study leaves out who declares more."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        reply = daemon.Agree(pb.AgreeRequest(site=site, dataset=dataset, patients=patients))
    before = f", not {reply.before} any more" if reply.before else ""
    out().print(
        f"{site} may declare {patients} patients of {dataset}{before}. "
        "It holds for studies that are started from now on.",
        markup=False,
    )


@app.command()
def remove(
    context: typer.Context, site: Annotated[str, typer.Argument(help="The site's name.")]
) -> None:
    """Keep a site out, from now on, until it is admitted again."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        daemon.Remove(pb.RemoveRequest(site=site))
    out().print(f"{site} is kept out; admitting it again lets it in.", markup=False)


@app.command()
def sites(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the sites."""
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import as_documents
    from server.cli.event_text import sites_table
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        rows = daemon.Sites(pb.SitesRequest()).sites
    if as_json:
        show_json(as_documents(rows))
    elif rows:
        out().print(sites_table(rows))
    else:
        out().print("No site is admitted yet: consilium-coordinator admit SITE.json")


@app.command()
def start(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The study file.")],
    *,
    only: Annotated[
        str | None, typer.Option("--sites", help="Sites, as a,b. Default: all that are admitted.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What the first weights follow from.")] = 0,
) -> None:
    """Start a study. Nothing is sent before the file was found right."""
    from common.control import coordinator_pb2 as pb
    from server.cli.commands import checked_study, say_started
    from server.cli.rpc_client import calling

    document = checked_study(study)
    names = [name.strip() for name in only.split(",")] if only else []
    with calling(context.obj) as daemon:
        reply = daemon.Start(pb.StartRequest(document=document, sites=names, seed=seed))
    say_started(reply, out())


@app.command()
def studies(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the studies and how they stand."""
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
    after: Annotated[int, typer.Option(help="Events after this number only.")] = 0,
    follow: Annotated[bool, typer.Option(help="Wait for what happens next.")] = True,
    as_json: AsJson = False,
) -> None:
    """Tell what happens in a study, a line an event, until it ends. Leaving it changes nothing."""
    from server.cli.commands import watch as follow_study

    follow_study(context.obj, study, after=after, follow=follow, as_json=as_json)


@app.command()
def stop(context: typer.Context, study: Name) -> None:
    """Stop a study where it stands; it can be resumed."""
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        daemon.Stop(pb.StopRequest(study=study))
    out().print(
        f"{study} is stopped after its last completed round. "
        f"consilium-coordinator resume {study} goes on with it.",
        markup=False,
    )


@app.command()
def resume(
    context: typer.Context,
    study: Name,
    *,
    amend: Annotated[
        str | None,
        typer.Option(help="Sites whose numerics have changed, as a,b: go on with the new ones."),
    ] = None,
) -> None:
    """Go on with a study that was stopped or has failed.

    With --amend, sites that have new versions or another machine are asked to consent to it.
    """
    from common.control import coordinator_pb2 as pb
    from server.cli.rpc_client import calling

    with calling(context.obj) as daemon:
        names = [name.strip() for name in amend.split(",")] if amend else []
        daemon.Resume(pb.ResumeRequest(study=study, amend=names))
    out().print(f"{study} goes on. Follow it: consilium-coordinator watch {study}", markup=False)


@app.command()
def result(
    context: typer.Context,
    study: Name,
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to write the weights and the outcome to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a completed study's figures; write final.safetensors and outcome.json."""
    from server.cli.commands import result as show_result

    show_result(context.obj, study, folder=folder, as_json=as_json)


@app.command()
def operator(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    *,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder to write certificate and key to.")
    ] = Path(),
) -> None:
    """Make the certificate with which a person may ask from another machine."""
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
            "Nothing listens for operators yet: set [control] listen in coordinator.toml and "
            "start the daemon again.",
            style="yellow",
            markup=False,
        )
    console.print(
        f"\nGive {name} this folder, over a way that nobody reads along, and delete it here.\n"
        f"Then: consilium-coordinator --connect HOST:PORT --identity {name} studies",
        markup=False,
    )


def _here(whom: Caller) -> Path:
    if whom.connect is not None:
        raise CoordinatorError(
            "operators are named at the coordinator itself",
            remedy="leave --connect out, on the machine where the coordinator's folder is",
        )
    return whom.home


def main() -> None:
    """Entry point of the command."""
    run_cli(app)


if __name__ == "__main__":
    main()
