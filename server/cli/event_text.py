"""Text for operators: a line for each event; tables of sites, studies and results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from common.control import coordinator_pb2 as pb
from common.documents import read_json
from common.errors import ConsiliumError, CoordinatorError

Fields = Mapping[str, Any]
_PURPOSES: Final = {"train": "training", "evaluate": "the evaluation", "close": "the end"}
"""What a site can be missing from; before the first round it is just missing."""
_REFUSED: Final = "refused: "
# Enough of a plan's hash to recognise it.
SHORT: Final = 12


def fields_of(event: pb.Event) -> dict[str, Any]:
    """An event's fields, read from their JSON."""
    return {name: read_json(value) for name, value in event.fields.items()}


def as_document(event: pb.Event) -> dict[str, Any]:
    """An event, for a script."""
    parts: dict[str, Any] = {"id": event.id, "at": event.at, "kind": event.kind}
    if event.round:
        parts["round"] = event.round
    if event.site:
        parts["site"] = event.site
    return parts | {"fields": fields_of(event)}


def line(event: pb.Event) -> str:
    """An event as a line of text."""
    # A newer daemon may have events that have no text here.
    say = _WORDS.get(event.kind)
    words = say(event, fields_of(event)) if say else _plainly(event)
    return f"{event.at[11:19]}  {words}"


def day_line(day: str) -> str:
    """The line above the events of a day, which is written as ``2026-11-26``."""
    moment = date.fromisoformat(day)
    return f"-- {moment.day} {moment:%B %Y}, UTC --"


def is_repeated(event: pb.Event) -> bool:
    """Whether the next event says the same: a refusal of a plan, or no answer to an amendment."""
    if event.kind != "site.absent":
        return False
    fields = fields_of(event)
    purpose, refused = str(fields["purpose"]), str(fields["reason"]).startswith(_REFUSED)
    return purpose == "amend" or (purpose == "propose" and refused)


def _plainly(event: pb.Event) -> str:
    parts = [event.kind, event.site, *(f"{name}={text}" for name, text in event.fields.items())]
    return " ".join(part for part in parts if part)


def _started(_event: pb.Event, fields: Fields) -> str:
    notes = "".join(f"{note}\n{'':10}" for note in fields.get("warnings", ()))
    whole = f"plans are ready; asked to approve: {', '.join(fields['sites'])}"
    gone = [f"{site} is left out: {_why(why)}" for site, why in fields.get("left_out", {}).items()]
    return notes + f"\n{'':10}".join([whole, *_counts(fields), *gone])


def _settled(_event: pb.Event, fields: Fields) -> str:
    return f"\n{'':10}".join(["sites that take part, and their weights:", *_counts(fields)])


def _counts(fields: Fields) -> list[str]:
    return [
        share_line(pb.Share(site=site, **counts))
        for site, counts in fields.get("shares", {}).items()
    ]


def share_line(share: pb.Share) -> str:
    """How much a site counts."""
    return (
        f"{share.site}: {share.patients} patients, weight {share.weight}, "
        f"{100 * share.share:.1f} % of the average"
    )


def _absent(event: pb.Event, fields: Fields) -> str:
    purpose = _PURPOSES.get(fields["purpose"])
    of = f"missing from {purpose}: " if purpose else ""
    return f"{event.site}: {of}{_why(fields['reason'])}{_do(fields)}"


def _do(fields: Fields) -> str:
    return f"\n{'':10}do: {fields['do']}" if fields.get("do") else ""


def _why(reason: str) -> str:
    return reason.removeprefix(_REFUSED)


def _completed_round(event: pb.Event, fields: Fields) -> str:
    missing = "".join(
        f"; {site} is missing: {_why(why)}" for site, why in fields["absences"].items()
    )
    count = _sites(len(fields["sites"]))
    return f"round {event.round} completed in {fields['seconds']:.1f} s with {count}{missing}"


def _evaluated(event: pb.Event, fields: Fields) -> str:
    metrics = fields["metrics"]
    named = metrics["names"][:2]
    shown = [f"{label} {figure(metrics['values'][name])}" for name, label in named]
    headline = metrics["values"][metrics["headline"]]
    # Where it is not usable, that is said already.
    usable = headline["value"] is not None and headline["meaningful"]
    doubts = "".join(f"; {doubt}" for doubt in metrics["doubts"]) if usable else ""
    return f"evaluation after round {event.round}: {', '.join(shown)}{doubts}"


def _sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


_WORDS: Final[dict[str, Callable[[pb.Event, Fields], str]]] = {
    "study.offered": lambda e, f: f"offered to {', '.join(f['sites'])} by {f['by']}",
    "study.started": _started,
    "study.resumed": lambda e, f: f"resumed by {f['by']}",
    "study.stopped": lambda e, f: f"stopped by {f['by']}",
    "study.interrupted": lambda e, f: "its process ended unexpectedly and is restarted",
    "study.failed": lambda e, f: f"failed: {f['what']}",
    "study.completed": lambda e, f: f"completed: final_weights_sha256 {f['final_weights_sha256']}",
    "weights.settled": _settled,
    "approval.waiting": lambda e, f: (
        f"{e.site}: waiting for a person to approve or deny plan {f['plan'][:SHORT]}"
    ),
    "approval.given": lambda e, f: f"{e.site}: approved plan {f['plan'][:SHORT]}",
    "approval.refused": lambda e, f: f"{e.site}: {_why(f['reason'])}{_do(f)}",
    "amendment.wanted": lambda e, f: (
        f"{f['by']} asks to go on with the new numerics of {', '.join(f['sites'])}"
    ),
    "amendment.refused": lambda e, f: f"{e.site}: numerics unchanged: {_why(f['reason'])}",
    "numerics.amended": lambda e, f: f"{e.site}: {amended(f)}",
    "site.awaited": lambda e, f: f"{e.site}: not connected; waiting for it",
    "site.absent": _absent,
    "round.started": lambda e, f: f"round {e.round} of {f['rounds']}: {_sites(f['sites'])} asked",
    "round.completed": _completed_round,
    "reply.folded": lambda e, f: f"round {e.round}: {e.site} has answered",
    "evaluation.completed": _evaluated,
}


def amended(fields: Fields) -> str:
    """A change of a site's numerics."""
    changed = "; ".join(
        f"{name}: {old}, now {new}" for name, (old, new) in fields["changed"].items()
    )
    return f"new numerics from round {fields['from_round']} on ({changed})"


def error_of(parts: Mapping[str, Any]) -> ConsiliumError:
    """The error that a study failed with."""
    details = {name: parts[name] for name in ("where", "found", "wanted") if name in parts}
    return CoordinatorError(parts["what"], **details, remedy=parts.get("do"))


def failure(why: str) -> ConsiliumError:
    """The error in the state of a failed study."""
    return error_of(read_json(why) if why.startswith("{") else {"what": why})


def figure(estimate: Mapping[str, Any]) -> str:
    """A figure with its 95 % interval, and the reason if it is not usable."""
    value = estimate.get("value")
    if value is None:
        return f"unknown ({estimate.get('why') or 'no figure'})"
    low, high = estimate.get("low"), estimate.get("high")
    text = (
        f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
    )
    return text if estimate.get("meaningful", True) else f"{text}, not usable: {estimate['why']}"


def twins_of(rows: Iterable[pb.SiteRow]) -> list[Text]:
    """A warning for each site that two machines are connected as."""
    return [
        Text(
            f"{row.name}: two machines are connected as this site since {row.twins}\n"
            "  do: the hospital must stop one of them: consilium-site status there says how to "
            "find out which; until then neither gets a request",
            style="bold yellow",
        )
        for row in rows
        if row.twins
    ]


def sites_table(rows: Iterable[pb.SiteRow]) -> Table:
    """A line for each site."""
    table = _table("site", "state", "connected", "patients", "fingerprint", elastic=("site",))
    for row in rows:
        seen = f"last seen {row.seen}" if row.seen else "never seen"
        connected = "now" if row.online else seen
        style = "green" if row.online else "yellow" if row.state == "admitted" else "dim"
        table.add_row(
            _cut(row.name), row.state, Text(connected, style=style), _agreed(row), row.fingerprint
        )
    return table


def _agreed(row: pb.SiteRow) -> Text:
    """The most patients that it may declare, and its card's number if that is higher."""
    parts = []
    for each in row.agreed:
        more = f" (declares {each.declared})" if each.declared > each.patients else ""
        parts.append(f"{each.dataset} {each.patients}{more}")
    return Text(", ".join(parts) or "none agreed")


def studies_table(rows: Iterable[pb.StudyRow]) -> Table:
    """A line for each study."""
    table = _table("study", "state", "round", "sites", "started", elastic=("study", "sites"))
    for row in rows:
        table.add_row(
            _cut(row.name),
            row.state,
            f"{row.round} of {row.rounds}",
            _cut(", ".join(row.sites)),
            row.started,
        )
    return table


def remarks(row: pb.StudyRow) -> list[Text]:
    """Lines below the table: warnings, failures, shares, missing sites."""
    notes = [Text(f"{row.name}: {note}", style="bold yellow") for note in row.warnings]
    if row.state == "failed":
        more = f"details: consilium-coordinator watch {row.name}"
        why = failure(row.why)
        notes.append(Text(f"{row.name}: {why.what}; {more}", style="red"))
        notes += [
            Text(f"  {name}: {why.details[name]}", style="red")
            for name in ("found", "do")
            if name in why.details
        ]
    if row.undecided and row.state == "waiting":
        notes.append(Text(f"{row.name}: waits for a decision at {', '.join(row.undecided)}"))
    notes += [Text(f"{row.name}: {share_line(share)}", style="dim") for share in row.shares]
    for each in row.left_out:
        missing = f"{row.name}: {each.site} is missing from {each.of}: {_why(each.reason)}"
        do = f"\n  do: {each.remedy}" if each.remedy else ""
        notes.append(Text(missing + do, style="yellow"))
    return notes


def outcome_tables(outcome: Mapping[str, Any]) -> tuple[Table, Table]:
    """The last evaluation's figures, and the sites with their epsilon."""
    figures = _table("figure", "value (95 % interval)")
    if outcome["evaluations"]:
        metrics = outcome["evaluations"][-1]["metrics"]
        for name, label in metrics["names"]:
            figures.add_row(label, figure(metrics["values"][name]))
    sites = _table("site", "declared patients", "weight", "share", "epsilon")
    for name, facts in outcome["sites"].items():
        epsilon = facts["epsilon"]
        cost = "not private" if epsilon is None else f"{epsilon:.3f}"
        share = f"{100 * outcome['shares'][name]['share']:.1f} %"
        patients, weight = str(facts["declared_patients"]), str(facts["weight"])
        sites.add_row(name, patients, weight, share, cost)
    return figures, sites


def absences_in_words(outcome: Mapping[str, Any]) -> list[str]:
    """Missing sites and the reasons; the same reason in many rounds is one line."""
    lines = [
        f"{site} is missing from the study: {_why(why)}"
        for site, why in outcome["left_out"].items()
    ]
    missing: dict[tuple[str, str, str], list[int]] = {}
    for absence in outcome["absences"]:
        if absence["site"] not in outcome["left_out"]:
            key = (absence["purpose"], absence["site"], absence["reason"])
            missing.setdefault(key, []).append(absence["round"])
    for (purpose, site, reason), rounds in missing.items():
        some = f"{len(rounds)} times in rounds {rounds[0]} to {rounds[-1]}"
        when = f"in round {rounds[0]}" if len(rounds) == 1 else some
        lines.append(f"{site} is missing from {_PURPOSES[purpose]} {when}: {_why(reason)}")
    return lines


def _cut(text: str) -> Text:
    """Text that ends in … if its column is too narrow, so that a row stays one line."""
    # Text, since rich would read brackets in a plain string as its markup.
    return Text(text, no_wrap=True, overflow="ellipsis")


def _table(*columns: str, elastic: Collection[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        fixed = bool(elastic) and column not in elastic
        table.add_column(column, overflow="fold", no_wrap=fixed)
    return table
