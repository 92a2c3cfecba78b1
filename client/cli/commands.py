"""What the command line asks a running daemon, and how it shows the answers to a person."""

from __future__ import annotations

import getpass
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.table import Table
from rich.text import Text

from common.control import site_pb2 as pb
from common.control.rpc_errors import asking
from common.control.site_pb2_grpc import SiteStub
from common.control.sockets import connect
from common.documents import read_toml
from common.errors import SiteError, of_system
from common.process.console import err, out, show_json
from common.visible import visible

DAEMON: Final = "the site's daemon"
SECONDS: Final = 60
"""Time limit of a quick question."""
SHORT: Final = 12
"""Digits of a plan's hash that are shown, and that are enough to name it."""


def state_folder(path: Path) -> Path:
    """The state folder that a site file names, without reading the rest of it.

    Raises:
        SiteError: there is no such file, or it is not TOML.
    """
    try:
        # Only this entry: an error elsewhere in the file must not keep a person from stopping a
        # study, and client.sitefile takes long to import.
        named = read_toml(path.read_bytes()).get("site", {}).get("state")
    except FileNotFoundError as error:
        from client.sitefile import missing  # which takes long to import

        raise missing(path) from error
    except OSError as error:
        raise of_system(error, SiteError, "the site file cannot be read", where=path) from error
    except (ValueError, AttributeError) as error:
        raise SiteError(
            "the site file cannot be read as TOML",
            where=path,
            found=type(error).__name__,
            remedy="correct it; consilium-site check names the line",
        ) from error
    return path.absolute().parent / str(named or "state")


@contextmanager
def daemon(path: Path) -> Iterator[SiteStub]:
    """The daemon that serves a site file.

    Raises:
        LinkError: it does not run, or does not answer.
    """
    remedy = f"start it: consilium-site --site {path} serve, or systemctl start consilium-site"
    channel = connect(state_folder(path) / "control.sock", DAEMON, remedy)
    with channel, asking(DAEMON, remedy):
        yield SiteStub(channel)


def who() -> str:
    """The person who types, for the audit log; with sudo, the user before it."""
    # A claim, not a proof: who can open the socket may decide, and can set SUDO_USER too.
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def confirmed(question: str, *, yes: bool) -> None:
    """Ask a person to agree.

    Raises:
        SiteError: the answer was no, or there is nobody to ask.
    """
    if yes:
        return
    # typer would ask without a terminal too, and take the next line of a script for the answer.
    if not sys.stdin.isatty():
        raise SiteError(
            "this needs a person's answer, but there is no terminal",
            remedy="run it at a terminal, or add --yes if the decision is made",
        )
    if not typer.confirm(question):
        raise SiteError("nothing was changed", found="the answer was no")


def require_hash(plan_hash: str) -> None:
    """Refuse what cannot be the hash of a plan.

    Raises:
        SiteError: it is too short, or not a hexadecimal number.
    """
    if len(plan_hash) < SHORT or plan_hash.strip("0123456789abcdefABCDEF"):
        raise SiteError(
            "this is not the hash of a plan",
            where="--hash",
            found=plan_hash or "nothing",
            wanted=f"{SHORT} digits or more, as at the end of consilium-site show",
            remedy="read the plan with consilium-site show; the hash is at the end",
        )


def as_json(message: Message) -> None:
    """Print an answer for a program."""
    # Fields without a value too: a program that reads it needs no knowledge of protobuf's defaults.
    fields = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    show_json(fields)


def show_status(status: pb.StatusReply) -> None:
    """One screen: problems first, then the state of everything."""
    console = out()
    console.print(Text(f"site {status.site}", style="bold"), f"- Consilium {status.version}")
    if status.known_key:
        console.print(Text("NOT PRIVATE: KNOWN KEY", style="bold red"))
    for warning in status.warnings:
        console.print(Text.assemble(("! ", "bold red"), warning.what))
        if warning.remedy:
            console.print(Text(f"  do: {warning.remedy}"))
    console.print()
    joined = bool(status.connection.address)
    grid = _grid(
        ("daemon", f"process {status.pid}, since {status.started}"),
        ("connection", _connection(status.connection) if joined else "not joined"),
        ("worker", _worker(status.worker) if joined else "not started"),
        ("new work", _taking(status.paused) if joined else "no: not joined"),
        ("audit log", status.audit),
    )
    console.print(grid)
    console.print()
    show_studies(status.studies, status.refused_proposals)


def show_studies(rows: Any, refused: Any) -> None:  # noqa: ANN401 - repeated fields
    """A table of studies, those that wait for a decision first, and those that were refused."""
    console = out()
    if rows:
        _show_rows(rows)
    elif not refused:
        console.print("No study was proposed to this site yet.")
    if refused:
        console.print("\nRefused automatically by this site, the latest first:")
    for each in refused:
        console.print(Text(f"  {each.study}  {each.plan_hash[:SHORT] or 'no plan'}  refused"))
        console.print(Text(f"    {each.why}"))


def _show_rows(rows: Any) -> None:  # noqa: ANN401 - a repeated field of studies
    console = out()
    table = _table("study", "plan", "state", "round", "epsilon", "of at most", "until", "title")
    # Those that wait for a decision first; the daemon sends the newest first.
    for row in sorted(rows, key=lambda row: row.state != "pending"):
        table.add_row(
            Text(row.name, style="bold"),
            row.plan_hash[:SHORT],
            Text(row.state, style="bold yellow" if row.state == "pending" else ""),
            f"{row.round}/{row.rounds}",
            epsilon(row.epsilon_spent),
            epsilon(row.epsilon),
            row.expires[:10],
            Text(row.title),
        )
    console.print(table)
    for row in rows:
        for warning in row.warnings:
            console.print(Text(f"{row.name}: {warning}", style="bold red"))
    waiting = [row.name for row in rows if row.state == "pending"]
    if waiting:
        console.print(f"\nTo decide: consilium-site show {waiting[0]}, then approve or deny it.")


def explained(shown: pb.ShowReply) -> None:
    """One plan in plain words."""
    console = out()
    for warning in shown.warnings:
        console.print(Text(warning, style="bold red"))
    console.print(Text(shown.text))


def show_study(shown: pb.ShowReply) -> None:
    """One plan in plain words, and how to approve it."""
    console = out()
    explained(shown)
    if shown.state == "pending":
        short = shown.plan_hash[:SHORT]
        console.print(f"\nTo approve: consilium-site approve {shown.study} --hash {short}")


def reconsidered(shown: pb.ShowReply, *, yes: bool) -> None:
    """Say that a person ended a study before, and ask whether it should run again.

    Raises:
        SiteError: the answer was no, or there is nobody to ask.
    """
    if shown.state not in ("stopped", "denied"):
        return
    err().print(f"{shown.study} was {shown.state} by {shown.by}, {shown.decided}.", markup=False)
    confirmed("Let it run again?", yes=yes)


def show_approved(approved: pb.ApproveReply) -> None:
    """What was approved."""
    console = out()
    console.print(
        f"Approved: {approved.study}, plan {approved.plan_hash[:SHORT]}, until "
        f"{approved.expires}, at most epsilon {epsilon(approved.epsilon)} for a patient."
    )
    console.print(f"Patients: {approved.patients}. This number stays at this site.")
    if approved.left_out:
        console.print(
            f"Left out: {approved.left_out} patients with too little budget for the whole study."
        )
    console.print(
        f"It now runs by itself. To end it at any time: consilium-site stop {approved.study}"
    )


def show_ended(ended: pb.StopReply) -> None:
    """What had left of a study that was ended."""
    console = out()
    console.print(
        f"{ended.study} is {ended.state}. Nothing of it leaves this hospital any more, and its "
        "key is erased."
    )
    if not ended.replies:
        console.print("Nothing that was computed from patients had left before.")
        return
    console.print("What had left before, at most:")
    console.print(
        _grid(
            ("rounds", str(ended.rounds)),
            ("replies", f"{ended.replies}, {ended.bytes} bytes"),
            ("epsilon", f"{epsilon(ended.epsilon)} for the most charged patient"),
        )
    )


def show_ledger(ledger: pb.LedgerReply) -> None:
    """What the patients have spent."""
    console = out()
    table = _table("study", "plan", "state", "rounds", "evaluations", "epsilon", "of at most")
    for each in ledger.studies:
        table.add_row(
            Text(each.study, style="bold"),
            each.plan_hash[:SHORT],
            each.state,
            str(each.rounds),
            str(each.evaluations),
            epsilon(each.epsilon_spent),
            epsilon(each.epsilon),
        )
    if ledger.studies:
        console.print(table)
        for each in ledger.studies:
            console.print(Text(f"{each.study} {each.plan_hash[:SHORT]}: {_patients(each)}"))
        console.print()
    console.print(
        _grid(
            (
                "highest cost of one patient",
                f"{epsilon(ledger.most_spent)} of {ledger.limit_total:g} (epsilon)",
            ),
            ("limit for one study", f"{ledger.limit_per_study:g} (epsilon)"),
            ("delta", f"{ledger.delta:g} (probability that the limit fails)"),
            ("charges", f"{ledger.length} (last entry {ledger.head[:SHORT]})"),
        )
    )


def show_entry(entry: pb.AuditEntry) -> None:
    """One line of the audit log."""
    fields = "  ".join(
        f"{visible(name)}={_short(value)}" for name, value in sorted(entry.fields.items())
    )
    event = visible(entry.event)
    out().print(Text(f"{entry.number:>6}  {entry.at[:19]}Z  {event:<22} {fields}"))


def show_opt_out(done: pb.OptOutReply) -> None:
    """What an opt-out changed."""
    console = out()
    console.print(f"{done.added} added to the opt-out list; {done.known} were already on it.")
    for patient in done.unknown:
        console.print(
            Text(
                f"{patient} was not found in any loaded data: check the spelling. It stays on the "
                "list.",
                style="bold yellow",
            )
        )
    if done.left:
        console.print(
            f"They have left {', '.join(done.left)}, which continues without them; nobody outside "
            "can tell. What left before cannot be called back, and stays in the privacy ledger."
        )
    else:
        console.print("They are in no running study, and will be in no future study.")


def _patients(each: pb.Spending) -> str:
    words = f"{each.patients} patients"
    words += f"; left: {each.gone}" if each.gone else ""
    return words + (f"; left out: {each.left_out} with too little budget" if each.left_out else "")


def epsilon(value: float) -> str:
    """An epsilon for a person."""
    return "unbounded" if math.isinf(value) else f"{value:.3g}"


def _connection(line: pb.Connection) -> str:
    words = f"{line.state} since {line.since}"
    if line.address:
        words += f", to {line.coordinator} at {line.address}"
    return words + (f"; last message {line.last_message}" if line.last_message else "")


def _worker(worker: pb.Worker) -> str:
    words = f"{worker.state} since {worker.since}"
    if worker.study:
        words += f": {worker.study}, round {worker.round}, {worker.purpose}"
    return words + (f"; restarted {worker.restarts} times" if worker.restarts else "")


def _taking(paused: pb.Paused) -> str:
    if paused.by_person:
        return "paused by a person; to continue: consilium-site resume"
    if paused.by_hours:
        return f"not now: outside the hours {paused.hours} of the site file"
    return "yes" + (f", between {paused.hours}" if paused.hours else "")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        # A title may be long, and takes several lines; what a person types must stay on one.
        table.add_column(heading, no_wrap=heading != "title")
    return table


def _grid(*rows: tuple[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(value))
    return grid


def _short(value: str) -> str:
    """A value on one line: of a hash, the beginning."""
    # By its length and digits, since fields of the log have no types.
    is_hash = len(value) >= 2 * SHORT and all(each in "0123456789abcdef" for each in value)
    return value[:SHORT] if is_hash else visible(value)
