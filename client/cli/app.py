"""``consilium-site``: what the administrator of a hospital types."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from client.cli import check, commands, models
from client.cli.commands import SECONDS, confirmed, daemon, state_folder, who
from common.control import site_pb2 as pb
from common.control.site_pb2_grpc import SiteStub
from common.errors import DataError, SiteError, of_system
from common.process.console import err, out, run_cli

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A hospital's side of Consilium.",
)
audit_app = typer.Typer(help="Show the audit log; with verify, check it and the privacy ledger.")
app.add_typer(audit_app, name="audit", invoke_without_command=True)

StudyName = Annotated[
    str, typer.Argument(help="The study's name, or the first digits of its plan's hash.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
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
    name: Annotated[str, typer.Argument(help="Name of the site: small letters, digits, hyphens.")],
    *,
    images: Annotated[Path, typer.Option(help="Folder of DICOM files, at any depth.")],
    labels: Annotated[Path, typer.Option(help="CSV file: a key and a label in each row.")],
    declared_patients: Annotated[
        int, typer.Option(help="Number of patients in training, rounded down. It becomes public.")
    ],
    dataset: Annotated[str, typer.Option(help="Name of these images in studies.")] = "chest-xray",
    label_column: Annotated[str, typer.Option(help="Column with the label.")] = "label",
) -> None:
    """Make a new site: the site file, the keys, and SITE.json for the coordinator."""
    # Imported by the command that needs it: status and stop answer without loading the rest.
    from client.administration import enrolment

    hospital = enrolment.NewSite(name, images, labels, declared_patients, dataset, label_column)
    made = enrolment.init(context.obj, hospital)
    console = out()
    console.print(f"Made site {name}: the site file {made.site_file}, and the site's keys.")
    console.print(f"Fingerprint of {made.card_file.name}: {made.card.fingerprint}\n", style="bold")
    console.print("Next steps:")
    console.print(f"  1. Read {made.site_file}, then run: consilium-site check")
    console.print(f"  2. Send {made.card_file} to the coordinator by e-mail.")
    console.print("  3. Compare the fingerprint with the coordinator, by telephone.")
    console.print("  4. When you have COORDINATOR.json: consilium-site join COORDINATOR.json")
    console.print("  5. Then: consilium-site serve")


@app.command()
def card(
    context: typer.Context,
    *,
    known_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="For tests only, NOT PRIVATE: derive the keys from this number.",
        ),
    ] = None,
) -> None:
    """Write SITE.json again, for example after a change of the site file. Keys stay the same."""
    from client.administration import enrolment

    made = enrolment.introduce(context.obj, known_seed)
    out().print(f"Wrote {made.card_file}.", markup=False)
    out().print(f"Fingerprint: {made.card.fingerprint}", style="bold", markup=False)


@app.command()
def join(
    context: typer.Context,
    card_file: Annotated[
        Path, typer.Argument(metavar="COORDINATOR.json", help="The file from the coordinator.")
    ],
    *,
    yes: Yes = False,
) -> None:
    """Join a coordinator: this site will connect to it."""
    from client.administration import enrolment
    from client.sitefile import known_coordinator
    from common.wire.enrolment import read_coordinator_card

    before = known_coordinator(state_folder(context.obj))
    card = read_coordinator_card(card_file)
    console = out()
    console.print(f"Coordinator {card.name} at {card.address}")
    console.print(f"Fingerprint: {card.fingerprint}", style="bold")
    # Before the question: what the person is asked about must be on the screen.
    if before is not None and before != card:
        console.print(f"Replaces {before.name} at {before.address}, {before.fingerprint}")
    # The card is not signed by anyone: only the telephone call shows that it is the coordinator's.
    confirmed("Does the coordinator read the same fingerprint to you by telephone?", yes=yes)
    kept = enrolment.join(context.obj, card)
    console.print(f"Joined. The coordinator's file is in {kept}. Now start or restart the daemon.")


@app.command()
def serve(
    context: typer.Context,
    *,
    known_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="For tests only, NOT PRIVATE: derive the keys from this number.",
        ),
    ] = None,
) -> None:
    """Run the daemon, until it is stopped by SIGTERM or Ctrl-C."""
    from client.daemon.serving import serve as run
    from client.sitefile import served_site
    from common.process import logs

    served = served_site(context.obj, known_seed)
    terminal = err().is_terminal
    logs.configure(logs.form_for(terminal), "info", site=served.file.site.name)
    if known_seed is not None:
        err().print("NOT PRIVATE: KNOWN KEY", style="bold red")
    run(served)


@app.command()
def status(context: typer.Context, *, as_json: Json = False) -> None:
    """Show problems first, then the connection, the worker and the studies."""
    with daemon(context.obj) as asked:
        answer = asked.Status(pb.StatusRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_status(answer)


@app.command()
def studies(context: typer.Context, *, as_json: Json = False) -> None:
    """List every study that was ever proposed to this site."""
    with daemon(context.obj) as asked:
        answer = asked.Studies(pb.StudiesRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_studies(
        answer.studies, answer.refused_proposals
    )


@app.command()
def show(context: typer.Context, study: StudyName, *, as_json: Json = False) -> None:
    """Explain one study in plain words: what it does, what leaves, what it costs."""
    with daemon(context.obj) as asked:
        answer = asked.Show(pb.ShowRequest(study=study))
    commands.as_json(answer) if as_json else commands.show_study(answer)


@app.command()
def approve(
    context: typer.Context,
    study: StudyName,
    *,
    plan_hash: Annotated[
        str | None, typer.Option("--hash", help="Hash of the plan that you have read.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=0, help="How long the approval holds; 0: as in the site file.")
    ] = 0,
    yes: Yes = False,
) -> None:
    """Approve a study's plan, for the patients of today.

    Without --hash, the plan is shown first, and exactly that plan is approved.
    """
    if plan_hash is not None:
        commands.require_hash(plan_hash)
    with daemon(context.obj) as asked:
        if plan_hash is None:
            plan_hash = _read_now(asked, study, yes=yes)
        # With the hash, and before any image is read: a wrong hash is refused at once, and noted.
        meant = pb.ShowRequest(study=study, plan_hash=plan_hash, by=who())
        shown = asked.Show(meant)
        plan_hash = shown.plan_hash
        commands.reconsidered(shown, yes=yes)
        confirmed(f"Approve the plan {plan_hash[: commands.SHORT]}?", yes=yes)
        err().print("Reading the images of the patients; this can take minutes.")
        # Without a time limit: it reads the headers of the whole archive, and its images.
        answer = asked.Approve(
            pb.ApproveRequest(study=study, plan_hash=plan_hash, days=days, by=who())
        )
    commands.show_approved(answer)


def _read_now(asked: SiteStub, study: str, *, yes: bool) -> str:
    """Show the one plan that is meant, and give its hash.

    What the person read before may be another plan: a coordinator can propose one of that name.

    Raises:
        SiteError: several plans of that name wait, or no person is there to read it.
    """
    shown = asked.Show(pb.ShowRequest(study=study))
    if yes:
        raise SiteError(
            "a plan cannot be approved by its name alone, without being read",
            where=f"study {study}",
            wanted="--hash together with --yes",
            remedy="read the plan with consilium-site show; the hash is at the end",
        )
    commands.explained(shown)
    out().print(f"\n{shown.study}, plan {shown.plan_hash[: commands.SHORT]}, state: {shown.state}.")
    return str(shown.plan_hash)


@app.command()
def deny(context: typer.Context, study: StudyName) -> None:
    """Refuse a study; if it is running, stop it."""
    with daemon(context.obj) as asked:
        answer = asked.Deny(pb.DenyRequest(study=study, by=who()), timeout=SECONDS)
    commands.show_ended(answer)


@app.command()
def stop(context: typer.Context, study: StudyName) -> None:
    """Stop a study now, and say what has already left this site."""
    with daemon(context.obj) as asked:
        answer = asked.Stop(pb.StopRequest(study=study, by=who()), timeout=SECONDS)
    commands.show_ended(answer)


@app.command()
def pause(context: typer.Context) -> None:
    """Take no new work until `resume`, also after a restart."""
    with daemon(context.obj) as asked:
        asked.Pause(pb.PauseRequest(by=who()), timeout=SECONDS)
    out().print("Paused: this site takes no new work. To continue: consilium-site resume")


@app.command()
def resume(context: typer.Context) -> None:
    """Take new work again."""
    with daemon(context.obj) as asked:
        asked.Resume(pb.ResumeRequest(by=who()), timeout=SECONDS)
    out().print("Resumed: this site takes new work again.")


@app.command()
def ledger(context: typer.Context, *, as_json: Json = False) -> None:
    """Show the privacy ledger: what the patients have spent, per study and in total."""
    with daemon(context.obj) as asked:
        answer = asked.Ledger(pb.LedgerRequest(), timeout=SECONDS)
    commands.as_json(answer) if as_json else commands.show_ledger(answer)


@audit_app.callback()
def audit(
    context: typer.Context,
    *,
    after: Annotated[int, typer.Option(min=0, help="Start after this line number.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running, and show new lines as they come.")
    ] = False,
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
        list[Path] | None, typer.Option(help="Folder with another copy of receipts.jsonl.")
    ] = None,
) -> None:
    """Verify the audit log, the privacy ledger and the receipts. Needs no daemon."""
    from client.records.verify import inspect_state
    from client.sitefile import served_site

    served = served_site(context.obj)
    verdict = inspect_state(served.state, served.file.site.name, elsewhere=tuple(receipts or ()))
    if not verdict.sound:
        shown = [str(each) for each in verdict.faults[:10]]
        more = len(verdict.faults) - len(shown)
        raise SiteError(
            "the audit log or the ledger is not as this site wrote it",
            where=served.state,
            found=("\n" + " " * 10).join([*shown, *([f"and {more} more"] if more else [])]),
            remedy="change nothing; copy the folder, and find out who could write to it",
        )
    console = out()
    lines = verdict.head.length
    console.print(
        f"Audit log verified: {lines} line{'' if lines == 1 else 's'}, {verdict.head.hash}"
    )
    console.print(f"Privacy ledger verified: {verdict.charges} charges.")
    if verdict.receipts:
        signed = " and ".join(verdict.coordinators) or "no coordinator"
        console.print(
            f"Receipts verified: {verdict.receipts}, signed by {signed}, the last for line "
            f"{verdict.receipted}. Lines that were removed after that line cannot be detected."
        )
    else:
        console.print(
            "No receipts yet: they come with the first study. Until then, lines removed at the "
            "end cannot be detected."
        )
    for each in verdict.disputed:
        console.print(f"Not caused by this site: {each}.")
    if receipts:
        console.print(f"{verdict.further} of them came from {', '.join(map(str, receipts))}.")


@app.command("opt-out")
def opt_out(
    context: typer.Context,
    patients: Annotated[
        list[str] | None, typer.Argument(metavar="PATIENT_ID...", help="As in the images.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="Text file, one PatientID per line; - for standard input.")
    ] = None,
) -> None:
    """Take patients out of every study from now on. Running studies continue without them."""
    names = [*(patients or ()), *(_lines(file) if file else ())]
    if not names:
        raise SiteError(
            "no patient is named", remedy="name PatientIDs, or a file of them with --file"
        )
    with daemon(context.obj) as asked:
        answer = asked.OptOut(pb.OptOutRequest(patients=names, by=who()))
    commands.show_opt_out(answer)


def _lines(path: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except UnicodeDecodeError as error:
        raise DataError(
            "the list of patients is not a text file",
            where=path,
            wanted="one PatientID per line, in UTF-8",
            remedy="save it as plain text in UTF-8",
        ) from error
    except OSError as error:
        what = "the list of patients cannot be read"
        raise of_system(error, DataError, what, where=path) from error
    # A list file may have comments, so that the hospital can note who asked for it and when.
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


app.command("check")(check.check)
app.command("predict")(models.predict)
app.command("evaluate")(models.evaluate)
app.command("bundle")(models.bundle)
app.command("model-card")(models.card)


def main() -> None:
    """Run the command line."""
    run_cli(app)


if __name__ == "__main__":
    main()
