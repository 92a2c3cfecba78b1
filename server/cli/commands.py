"""The longer commands: start, watch, result."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from common.control import coordinator_pb2 as pb
from common.control.coordinator_pb2_grpc import CoordinatorStub
from common.documents import read_json
from common.errors import CoordinatorError, LinkError, StudyError
from common.files import write_atomic
from common.process.console import err, out, show_error, show_json
from common.study.study_file import load_initial, load_study
from server.cli.event_text import (
    absences_in_words,
    amended,
    as_document,
    day_line,
    failure,
    fields_of,
    is_repeated,
    line,
    outcome_tables,
    share_line,
)
from server.cli.rpc_client import Caller, calling

# systemd restarts the daemon after 5 s; SuperLink then needs some seconds to start.
AWAY_SECONDS: Final = 60.0
"""How long ``watch`` waits for a daemon that has ended."""
AGAIN_SECONDS: Final = 1.0


def checked_study(path: Path) -> tuple[str, bytes]:
    """The text of a study file, checked, and the file of starting weights that it names.

    Raises:
        StudyError: it is missing, or a value is not accepted.
        ModelError: its model cannot take its images, or cannot be trained privately.
    """
    from common.models.networks import seeded_model

    study = load_study(path)
    # Fails here, in front of the operator, and not later at every site.
    seeded_model(study, 0, load_initial(study, path.parent))
    named = study.model.initial
    try:
        initial = b"" if named is None else path.with_name(named.file).read_bytes()
        return path.read_text(encoding="utf-8"), initial
    except OSError as cause:
        raise StudyError("the file cannot be read", where=path, found=cause) from cause


def numbers_of(words: Iterable[str]) -> dict[str, int]:
    """Patients by data set, from ``DATASET=NUMBER``.

    Raises:
        CoordinatorError: a word has another form.
    """
    numbers = {}
    for word in words:
        dataset, _, number = word.rpartition("=")
        # isdigit() alone accepts digits such as a superscript 2, which int() refuses.
        if not (dataset and number.isascii() and number.isdigit()):
            raise CoordinatorError(
                "this is not a number of patients of a data set",
                where="--patients",
                found=word,
                wanted="DATASET=NUMBER, as in chest-xray=400",
            )
        numbers[dataset] = int(number)
    return numbers


def agreements(reply: pb.AdmitReply) -> list[str]:
    """What a site may declare, and what its card declares if that is more."""
    lines = []
    for each in reply.agreed:
        lines.append(f"may declare         {each.patients} patients of {each.dataset}")
        if each.declared > each.patients:
            lines.append(
                f"                    SITE.json declares {each.declared}; if that is right: "
                f"consilium-coordinator agree {reply.site} {each.dataset} {each.declared}"
            )
    return lines or ["may declare         no patients yet: SITE.json has no data set"]


def say_started(reply: pb.StartReply, console: Console) -> None:
    """What was started, and the next steps."""
    lines = [f"{reply.study} is offered to {', '.join(reply.sites)}, with seed {reply.seed}."]
    if reply.offline:
        lines.append(
            f"Not connected now: {', '.join(reply.offline)}. The study waits "
            f"{reply.round_timeout} for each of their answers."
        )
    lines += ["", *_shares_if_all_approve(reply)]
    lines += [
        "",
        "Next: each site gets a plan. Unless the site's policy approves it automatically, a person",
        f"reads it there (consilium-site show {reply.study}) and approves or denies it. The study",
        f"waits {reply.approval_timeout} for that, then starts with the sites that approved.",
        f"To follow it: consilium-coordinator watch {reply.study}",
    ]
    for each in lines:
        console.print(each, markup=False)


def _shares_if_all_approve(reply: pb.StartReply) -> list[str]:
    """How much each site would count, by the agreed numbers."""
    known = {share.site for share in reply.shares}
    lines = [
        f"Agreed patients of {reply.dataset}, and the share in the average if all sites take part:"
    ]
    lines += [f"  {share_line(share)}" for share in reply.shares]
    lines += [
        f"  {site}: no number agreed, so it is left out. For the next study: "
        f"consilium-coordinator agree {site} {reply.dataset} NUMBER"
        for site in reply.sites
        if site not in known
    ]
    return lines


def watch(caller: Caller, study: str, *, after: int, follow: bool, as_json: bool) -> None:
    """Show each event of a study as it comes, and at the end its state.

    Raises:
        LinkError: the daemon does not answer; one that has ended is waited for, for a while.
        ConsiliumError: the error that the study failed with.
    """
    console, away_since = out(), 0.0
    told, day = after, ""
    while True:
        try:
            with calling(caller) as daemon:
                for event in daemon.Watch(pb.WatchRequest(study=study, after=told, follow=follow)):
                    told, away_since = event.id, 0.0
                    if as_json:
                        show_json(as_document(event), indent=None)
                    elif not is_repeated(event):
                        if event.at[:10] != day:
                            day = event.at[:10]
                            console.print(day_line(day), style="dim")
                        _say(event, console)
                row = study_row(daemon, study)
            break
        except LinkError as error:
            if told == after:  # the daemon did not answer at all
                raise
            away_since = _wait_for_another(away_since, error)
    if row.state == "failed" and follow:
        raise failure(row.why)
    if row.state == "failed" and not as_json:
        show_error(failure(row.why))
    elif not as_json:
        _say_end(row, console)


def _wait_for_another(away_since: float, error: LinkError) -> float:
    """Pause after a daemon has ended; gives when it was first missing.

    Raises:
        LinkError: it was missing for too long.
    """
    now = time.monotonic()
    if not away_since:
        err().print(
            Text(f"{error.what}; waiting up to a minute for it to start again", style="yellow")
        )
    elif now - away_since > AWAY_SECONDS:
        raise error
    time.sleep(AGAIN_SECONDS)
    return away_since or now


def _say(event: pb.Event, console: Console) -> None:
    failed = event.kind == "study.failed"  # shown in full at the end, as an error
    warned = event.kind == "study.started" and fields_of(event).get("warnings")
    style = "bold yellow" if warned else "red" if failed else None
    console.print(Text(line(event), style=style or ""))


def _say_end(row: pb.StudyRow, console: Console) -> None:
    if row.state == "completed":
        console.print(f"To see the result: consilium-coordinator result {row.name}", markup=False)
    elif row.state == "stopped":
        console.print(f"To go on: consilium-coordinator resume {row.name}", markup=False)


def study_row(daemon: CoordinatorStub, study: str) -> pb.StudyRow:
    """The status of a study.

    Raises:
        CoordinatorError: there is no such study.
    """
    rows: Iterable[pb.StudyRow] = daemon.Studies(pb.StudiesRequest()).studies
    for row in rows:
        if row.name == study:
            return row
    raise CoordinatorError(
        "there is no such study", found=study, remedy="consilium-coordinator studies lists them"
    )


def result(caller: Caller, study: str, *, folder: Path | None, as_json: bool) -> None:
    """Fetch a study's result and show it; write its files if a folder is given.

    Raises:
        CoordinatorError: the study is not completed.
    """
    files: dict[str, bytearray] = defaultdict(bytearray)
    with calling(caller) as daemon:
        for piece in daemon.Result(pb.ResultRequest(study=study)):
            # Large weights are kept only to be written. Of the path only the name is used: the
            # other side must not choose a folder.
            if folder is not None or piece.path.endswith(".json"):
                files[Path(piece.path).name] += piece.content
    outcome: dict[str, Any] = read_json(files["outcome.json"])
    if folder is not None:
        for name, content in files.items():
            write_atomic(folder / name, bytes(content))
    if as_json:
        show_json(outcome)
    else:
        show_result(outcome, folder, files, out())


def show_result(
    outcome: dict[str, Any], folder: Path | None, received: Collection[str], console: Console
) -> None:
    """Warnings first, then figures, sites with their epsilon, and the hash of the weights."""
    for note in outcome["warnings"]:
        console.print(Text(note, style="bold yellow"))
    console.print(Text(f"{outcome['study']}: {outcome['rounds']} rounds, {outcome['strategy']}"))
    figures, sites = outcome_tables(outcome)
    if figures.row_count:
        console.print(figures)
    console.print(sites)
    for each in outcome["amendments"]:
        console.print(Text(f"{each['site']}: {amended(each)}", style="yellow"))
    for words in absences_in_words(outcome):
        console.print(Text(words, style="dim"))
    console.print(Text(f"final_weights_sha256  {outcome['final_weights_sha256']}", style="bold"))
    for name in ("model.consilium", "final.safetensors", "outcome.json"):
        if folder is not None and name in received:
            console.print(Text(str(folder / name)))


def as_documents(rows: Iterable[Message]) -> list[dict[str, Any]]:
    """Rows of a reply, for a script."""
    return [
        MessageToDict(
            row, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for row in rows
    ]
