"""``consilium-site``: what the administrator of a hospital types."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from client.cli import check, commands
from client.cli.commands import SECONDS, confirmed, daemon, state_folder, who
from common.control import site_pb2 as pb
from common.control.site_pb2_grpc import SiteStub
from common.errors import DataError, SiteError
from common.process.console import err, out, run_cli

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A hospital's side of Consilium.",
)
audit_app = typer.Typer(help="The audit log: what came in, what went out, what was decided.")
app.add_typer(audit_app, name="audit", invoke_without_command=True)

StudyName = Annotated[str, typer.Argument(help="Its name, or the beginning of its plan's hash.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: it was decided already.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def site(
    context: typer.Context,
    site_file: Annotated[
        Path, typer.Option("--site", envvar="CONSILIUM_SITE", help="The site file.")
    ] = Path("site.toml"),
) -> None:
    """A hospital's side of Consilium."""
    context.obj = site_file


@app.command()
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the site: small letters, digits, hyphens.")],
    *,
    images: Annotated[Path, typer.Option(help="Folder of DICOM files, at any depth.")],
    labels: Annotated[Path, typer.Option(help="CSV file with a key and a label in each row.")],
    declared_patients: Annotated[
        int, typer.Option(help="Patients in training, rounded down. This number is public.")
    ],
    dataset: Annotated[str, typer.Option(help="What studies call these images.")] = "chest-xray",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
) -> None:
    """Make a site: its file, its keys, and SITE.json for the coordinator."""
    from client.administration import enrolment

    hospital = enrolment.NewSite(name, images, labels, declared_patients, dataset, label_column)
    made = enrolment.init(context.obj, hospital)
    console = out()
    console.print(f"Made site {name}: {made.site_file} with its policy, and its keys.")
    console.print(f"Fingerprint of {made.card_file.name}: {made.card.fingerprint}\n", style="bold")
    console.print("What to do now:")
    console.print(f"  1. Read {made.site_file}, then: consilium-site check")
    console.print(
        f"  2. Mail {made.card_file} to the coordinator; compare the fingerprint by telephone."
    )
    console.print("  3. With the answer: consilium-site join COORDINATOR.json, then")
    console.print("     consilium-site serve")


@app.command()
def card(
    context: typer.Context,
    *,
    known_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Keys that others know: NOT PRIVATE. The policy must allow it."),
    ] = None,
) -> None:
    """Write SITE.json again, or for a site file that you wrote by hand; keys are kept."""
    from client.administration import enrolment

    made = enrolment.introduce(context.obj, known_seed)
    out().print(f"Wrote {made.card_file}.", markup=False)
    out().print(f"Fingerprint: {made.card.fingerprint}", style="bold", markup=False)


@app.command()
def join(
    context: typer.Context,
    card_file: Annotated[Path, typer.Argument(metavar="COORDINATOR.json")],
    *,
    yes: Yes = False,
) -> None:
    """Name the coordinator that this site connects to."""
    from client.administration import enrolment
    from client.sitefile import known_coordinator
    from common.wire.enrolment import read_coordinator_card

    before = known_coordinator(state_folder(context.obj))
    card = read_coordinator_card(card_file)
    console = out()
    console.print(f"Coordinator {card.name} at {card.address}")
    console.print(f"Fingerprint: {card.fingerprint}", style="bold")
    if before is not None and before != card:
        console.print(f"In place of {before.name} at {before.address}, {before.fingerprint}")
    confirmed("Does the coordinator read you the same fingerprint by telephone?", yes=yes)
    place = enrolment.join(context.obj, card)
    console.print(f"Joined; kept in {place}. Now start the daemon, or start it again.")


@app.command()
def serve(
    context: typer.Context,
    *,
    known_seed: Annotated[
        int | None,
        typer.Option(help="Keys that follow from a number: NOT PRIVATE, for trials alone."),
    ] = None,
) -> None:
    """Run the daemon until it is told to end."""
    from client.daemon.serving import serve as run
    from client.sitefile import served_site
    from common.process import logs

    place = served_site(context.obj, known_seed)
    terminal = err().is_terminal
    logs.configure(logs.form_for(terminal), "info", site=place.file.site.name)
    if known_seed is not None:
        err().print("NOT PRIVATE: KNOWN KEY", style="bold red")
    run(place)


@app.command()
def status(context: typer.Context, *, as_json: Json = False) -> None:
    """How everything is: what to mend first, connection, worker, studies."""
    with daemon(context.obj) as asked:
        answer = asked.Status(pb.StatusRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_status(answer)


@app.command()
def studies(context: typer.Context, *, as_json: Json = False) -> None:
    """Every study that was ever proposed here."""
    with daemon(context.obj) as asked:
        answer = asked.Studies(pb.StudiesRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_studies(answer.studies, answer.declined)


@app.command()
def show(context: typer.Context, study: StudyName, *, as_json: Json = False) -> None:
    """One study in plain words: what it does, what leaves, what it costs."""
    with daemon(context.obj) as asked:
        answer = asked.Show(pb.ShowRequest(study=study))
    commands.as_json(answer) if as_json else commands.show_study(answer)


@app.command()
def approve(
    context: typer.Context,
    study: StudyName,
    *,
    plan_hash: Annotated[
        str | None, typer.Option("--hash", help="Of the plan that you were shown.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=0, help="How long it holds; 0 for as the site file says.")
    ] = 0,
    yes: Yes = False,
) -> None:
    """Approve a study's plan, for the patients of today.

    Without --hash the plan is shown first, and the very plan that was shown is approved.
    """
    if plan_hash is not None:
        commands.require_hash(plan_hash)
    with daemon(context.obj) as asked:
        if plan_hash is None:
            plan_hash = _read_now(asked, study, yes=yes)
        meant = pb.ShowRequest(study=study, plan_hash=plan_hash, by=who())
        shown = asked.Show(meant)
        plan_hash = shown.plan_hash
        commands.reconsidered(shown, yes=yes)
        confirmed(f"Approve exactly the plan {plan_hash[: commands.SHORT]}?", yes=yes)
        err().print("Reading the images of its patients; this may take minutes.")
        answer = asked.Approve(
            pb.ApproveRequest(study=study, plan_hash=plan_hash, days=days, by=who())
        )
    commands.show_approved(answer)


def _read_now(asked: SiteStub, study: str, *, yes: bool) -> str:
    """The hash of the one plan that is meant, once it stands before whoever decides.

    What was read before may be another plan: a coordinator can propose one under the same name.

    Raises:
        SiteError: several plans of that name wait, or nobody is there to read it.
    """
    shown = asked.Show(pb.ShowRequest(study=study))
    if yes:
        raise SiteError(
            "a plan is not approved by its name alone without being read",
            where=f"study {study}",
            wanted="--hash beside --yes",
            remedy="read it with consilium-site show, which ends with its hash",
        )
    commands.explained(shown)
    out().print(f"\n{shown.study}, plan {shown.plan_hash[: commands.SHORT]}, is {shown.state} now.")
    return str(shown.plan_hash)


@app.command()
def deny(context: typer.Context, study: StudyName) -> None:
    """Say no to a study; one that runs is stopped."""
    with daemon(context.obj) as asked:
        answer = asked.Deny(pb.DenyRequest(study=study, by=who()), timeout=SECONDS)
    commands.show_ended(answer)


@app.command()
def stop(context: typer.Context, study: StudyName) -> None:
    """End a study now, and say what has left already."""
    with daemon(context.obj) as asked:
        answer = asked.Stop(pb.StopRequest(study=study, by=who()), timeout=SECONDS)
    commands.show_ended(answer)


@app.command()
def pause(context: typer.Context) -> None:
    """Take no new work until `resume`; holds over a restart."""
    with daemon(context.obj) as asked:
        asked.Pause(pb.PauseRequest(by=who()), timeout=SECONDS)
    out().print("Paused: no new work is taken. To go on: consilium-site resume")


@app.command()
def resume(context: typer.Context) -> None:
    """Take work again."""
    with daemon(context.obj) as asked:
        asked.Resume(pb.ResumeRequest(by=who()), timeout=SECONDS)
    out().print("Work is taken again.")


@app.command()
def ledger(context: typer.Context, *, as_json: Json = False) -> None:
    """What the patients have spent, study by study and in all."""
    with daemon(context.obj) as asked:
        answer = asked.Ledger(pb.LedgerRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_ledger(answer)


@audit_app.callback()
def audit(
    context: typer.Context,
    *,
    after: Annotated[int, typer.Option(min=0, help="Begin beyond this line.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as lines are added.")] = False,
) -> None:
    """Show the audit log, oldest line first."""
    if context.invoked_subcommand is not None:
        return
    with daemon(context.obj) as asked:
        for entry in asked.Audit(pb.AuditRequest(after=after, follow=follow)):
            commands.show_entry(entry)


@audit_app.command()
def verify(
    context: typer.Context,
    *,
    receipts: Annotated[
        list[Path] | None, typer.Option(help="Folder with further receipts.jsonl, kept elsewhere.")
    ] = None,
) -> None:
    """Hold the audit log and the ledger against their chains and receipts; needs no daemon."""
    from client.records.verify import inspect_state
    from client.sitefile import served_site

    place = served_site(context.obj)
    verdict = inspect_state(place.state, place.file.site.name, elsewhere=tuple(receipts or ()))
    if not verdict.sound:
        shown = [str(each) for each in verdict.faults[:10]]
        more = len(verdict.faults) - len(shown)
        raise SiteError(
            "the audit log or the ledger is not as this site wrote it",
            where=place.state,
            found=("\n" + " " * 10).join([*shown, *([f"and {more} more"] if more else [])]),
            remedy="change nothing; keep a copy of the folder, and find out who could write there",
        )
    console = out()
    console.print(f"The audit log is whole: {verdict.head.length} lines, {verdict.head.hash}")
    console.print(f"The ledger is whole: {verdict.charges} charges.")
    signed = " and ".join(verdict.coordinators) or "no coordinator"
    console.print(
        f"{verdict.receipts} receipts of {signed} hold, the last for line "
        f"{verdict.receipted}; a tail cut beyond that line would not be found."
    )
    for each in verdict.disputed:
        console.print(f"Not this site's doing: {each}.")
    if receipts:
        console.print(f"{verdict.further} of them came from {', '.join(map(str, receipts))}.")


@app.command("opt-out")
def opt_out(
    context: typer.Context,
    patients: Annotated[
        list[str] | None, typer.Argument(metavar="PATIENT_ID...", help="As the images have them.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="Text file, one PatientID a line; - for standard input.")
    ] = None,
) -> None:
    """Leave patients out of every study from now on; those that run go on without them."""
    names = [*(patients or ()), *(_lines(file) if file else ())]
    if not names:
        raise SiteError("nobody is named", remedy="name PatientIDs, or a file of them with --file")
    with daemon(context.obj) as asked:
        answer = asked.OptOut(pb.OptOutRequest(patients=names, by=who()))
    commands.show_opt_out(answer)


def _lines(path: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the list of patients cannot be read", where=path) from error
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


app.command("check")(check.check)


def main() -> None:
    """Run the command line."""
    run_cli(app)


if __name__ == "__main__":
    main()
