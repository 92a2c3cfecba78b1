"""``consilium-site`` from making a site to stopping a study, as its administrator runs it."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.administration.enrolment import NewSite as Description
from client.administration.enrolment import delta_for, init
from client.cli.app import app
from client.records.receipts import DISPUTED, Receipt
from client.site import open_site
from common.errors import ConsiliumError, RefusalCode
from common.tasks.tasks import FIRST, KINDS
from common.visible import UNSEEN
from common.wire.enrolment import CoordinatorCard
from common.wire.messages import NO_SEAL, LedgerHead, receipt_bytes
from common.wire.signing import SigningKey
from tests.client.daemon.process import REAL, command, daemon
from tests.client.daemon.standin import Coordinator, coordinator
from tests.client.site_fixtures import (
    SEED,
    Hospital,
    asking,
    plan_for,
    proposal,
    write_images,
)
from tests.common.studies import small_study
from tests.common.wire.test_enrolment import certificate
from tests.waiting import until

PATIENTS = {f"P{number:02}": 1 + number % 3 for number in range(24)}
STUDY = small_study()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that ``init`` has made; gives its file."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder, PATIENTS)
    done = command(
        folder / "site.toml",
        *("init", "north", "--images", str(folder / "images")),
        *("--labels", str(folder / "labels.csv"), "--declared-patients", "15"),
    )
    assert done.returncode == 0, done.stderr
    assert "consilium-site join COORDINATOR.json" in done.stdout
    return folder / "site.toml"


def test_init_writes_a_file_that_is_read_and_keys_that_stay(made: Path) -> None:
    from client.sitefile import load_site_file
    from common.wire.enrolment import read_site_card

    file = load_site_file(made)
    card = read_site_card(made.parent / "SITE.json")
    assert (file.site.name, card.name) == ("north", "north")
    assert card.patients == {"chest-xray": 15}
    assert (file.policy.approval, file.policy.tasks) == ("ask", (FIRST,))
    assert f'\ntasks = ["{FIRST}"]\n' in made.read_text()
    assert all(f'"{kind}"' in made.read_text() for kind in KINDS)
    data = file.data["chest-xray"]
    assert (data.declared_patients, data.most_patients) == (15, 30)
    assert file.data["chest-xray"].images == Path("images")
    assert "PRIVATE" not in (made.parent / "SITE.json").read_text()
    for key in ("node.key", "signing.key", "patients.key"):
        assert (made.parent / "state" / key).stat().st_mode & 0o077 == 0


def test_init_keeps_the_folders_that_all_file_names_begin_with(made: Path, tmp_path: Path) -> None:
    from client.sitefile import load_site_file

    images = made.parent / "images"
    names = sorted(str(each.relative_to(images)) for each in images.rglob("*") if each.is_file())
    rows = ["File name,label", *(f"E:\\out\\{name},normal" for name in names)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    init(
        tmp_path / "site.toml",
        Description("west", images, tmp_path / "labels.csv", 15, "chest-xray", "label"),
    )

    site = load_site_file(tmp_path / "site.toml")
    assert site.label_file("chest-xray", tmp_path).folders == "E:/out/"
    assert "file_prefix" not in made.read_text()


def test_init_never_replaces_a_site(made: Path) -> None:
    before = made.read_bytes()
    again = command(
        made,
        *("init", "south", "--images", str(made.parent / "images")),
        *("--labels", str(made.parent / "labels.csv"), "--declared-patients", "15"),
    )
    assert again.returncode == 2
    assert "there is a site here already" in again.stderr
    assert made.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": Path("nowhere")}, "no such folder of images"),
        ({"labels": Path("nowhere.csv")}, "the label file does not exist"),
        ({"declared_patients": 0}, "a site needs patients"),
        ({"name": "North!"}, "name of the site is not allowed"),
    ],
)
def test_a_mistake_in_init_leaves_nothing_behind(
    made: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = made.parent
    right = Description(
        "north", folder / "images", folder / "labels.csv", 15, "chest-xray", "label"
    )
    with pytest.raises(ConsiliumError, match=says) as caught:
        init(tmp_path / "site.toml", replace(right, **change))
    if says.startswith("no such"):
        assert "do" in caught.value.details
    assert list(tmp_path.iterdir()) == []


def test_check_without_options_checks_what_the_site_file_names(made: Path, tmp_path: Path) -> None:
    done = command(made, "check")
    assert done.returncode == 0, done.stderr
    assert "data set chest-xray" in done.stdout
    assert "declared_patients 15: good (about 19 found)" in done.stdout
    assert "most_patients 30: good" in done.stdout

    greedy = made.parent / "greedy.toml"
    text = made.read_text().replace("declared_patients = 15", "declared_patients = 24")
    greedy.write_text(text.replace("delta = 0.0066", "delta = 0.001"))
    done = command(greedy, "check")
    assert done.returncode == 2
    assert "declares more patients than its archive has" in done.stderr


def test_check_says_when_there_are_more_patients_than_the_bound(made: Path) -> None:
    crowded = made.parent / "crowded.toml"
    crowded.write_text(made.read_text().replace("most_patients = 30", "most_patients = 18"))
    done = command(crowded, "check")
    assert done.returncode == 2
    assert "has more patients than the site file allows" in done.stderr
    assert "more than about 19: 24 patients" in done.stderr.replace("\n", "")
    assert "raise the number" in done.stderr


def test_without_a_daemon_every_question_says_how_to_start_it(made: Path) -> None:
    for question in (["status"], ["approve", "small", "--yes"], ["audit"], ["opt-out", "P01"]):
        done = command(made, *question)
        assert done.returncode == 2
        assert "is not running" in done.stderr
        assert "serve" in done.stderr


@pytest.mark.parametrize("none", ["", "0123456789a", "not-a-hash-at-all"])
def test_what_is_no_hash_approves_nothing(made: Path, none: str) -> None:
    done = command(made, "approve", "small", "--hash", none, "--yes")
    assert done.returncode == 2
    assert "not the hash of a plan" in done.stderr


def test_without_a_site_file_the_way_to_one_is_shown(tmp_path: Path) -> None:
    (tmp_path / "COORDINATOR.json").write_text("{}")
    join = ["join", str(tmp_path / "COORDINATOR.json"), "--yes"]
    for question in (["status"], ["check"], ["serve"], ["card"], join):
        done = command(Path("nowhere.toml"), *question)
        assert done.returncode == 2
        assert "consilium-site init" in done.stderr
        assert str(Path("nowhere.toml").absolute()) in done.stderr.replace("\n", "")


@pytest.mark.parametrize("patients", [1, 3, 15, 24, 999, 10_000, 123_457])
def test_the_delta_that_init_writes_is_allowed_and_no_smaller_than_needed(patients: int) -> None:
    assert 0.09 / patients < float(delta_for(patients)) <= 0.1 / patients


def test_an_administrator_decides_and_sees_everything(tmp_path: Path) -> None:
    """From a proposal that waits to a study that is stopped, over the daemon's socket."""
    hospital = Hospital(tmp_path, policy={"approval": "ask"})
    hospital.open().close()
    with (
        coordinator(hospital.state) as centre,
        daemon(tmp_path / "site.toml", worker=REAL, seed=SEED) as it,
    ):
        with hospital.open() as site:
            plan = plan_for(site, STUDY)
        assert _asked(centre, proposal(plan)) == RefusalCode.PENDING
        waiting = it.ask("status")
        assert "NOT PRIVATE: KNOWN KEY" in waiting
        assert "pending" in waiting
        assert "To decide: consilium-site show small" in waiting
        shown = it.ask("show", "small")
        assert plan.hash in shown
        assert "there is no terminal" in it.ask("approve", "small", code=2)
        assert "Reading" not in it.ask("approve", "small", "--hash", "0" * 64, "--yes", code=2)
        connected = centre.asked.count("connect")
        approved = it.ask(
            "approve", "small", "--hash", plan.hash[:12].upper(), "--days", "30", "--yes"
        )
        assert "Approved: small" in approved
        until(lambda: centre.asked.count("connect") > connected)  # asks to be asked again
        assert _asked(centre, proposal(plan)) == "ok"
        assert _asked(centre, asking(plan)) == "ok"
        rows = json.loads(it.ask("studies", "--json"))["studies"]
        assert [(row["name"], row["state"], row["round"]) for row in rows] == [
            ("small", "approved", "1")
        ]
        assert "1" in it.ask("ledger")

        stopped = it.ask("stop", "small")
        assert "small is stopped" in stopped
        assert "replies" in stopped
        pushed = len(centre.pushed)
        centre.ask(asking(plan, 2))
        centre.ask(asking(plan))
        assert _asked(centre, _offer(), after=pushed) == "ok"  # what came before it got silence
        assert len(centre.pushed) == pushed + 1
        assert "no study named nobody" in it.ask("stop", "nobody", code=2)

        it.ask("pause")
        assert "paused by a person" in it.ask("status")
        it.ask("resume")
        assert "2 added" in it.ask("opt-out", "--file", "-", text="P00\n# nobody\nP01\n")
        wrong = it.ask("opt-out", "P0O")
        assert "P0O was not found in any loaded data: check the spelling" in wrong
        assert "P00" in (hospital.state / "opt-out.txt").read_text()
        log = it.ask("audit")
        for event in ("study.proposed", "study.approved", "study.stopped", "message.silence"):
            assert event in log
        assert "P00" not in log + it.log.read_text()
        assert "Audit log verified" in it.ask("audit", "verify")
        it.end()
    lines = (hospital.state / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (hospital.state / "audit.jsonl").write_bytes(b"".join(lines[:2] + lines[3:]))
    done = command(tmp_path / "site.toml", "audit", "verify")
    assert done.returncode == 2
    assert "line 3" in done.stderr


@pytest.mark.long  # starts two daemons, each with a worker that imports torch
def test_what_failed_is_shown_after_a_restart_too_until_it_goes_well(tmp_path: Path) -> None:
    """The images are away at round 1; another study's proposal goes well meanwhile."""
    hospital = Hospital(tmp_path, {"P00": 1, "P01": 1})
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
    images, away = tmp_path / "images", tmp_path / "away"
    with coordinator(hospital.state) as centre:
        with daemon(tmp_path / "site.toml", worker=REAL, seed=SEED) as it:
            assert _asked(centre, proposal(plan)) == "ok"
            until(lambda: "cohort.frozen" in it.log.read_text())
            images.rename(away)
            pushed = len(centre.pushed)
            centre.ask(asking(plan))
            assert _asked(centre, _offer(), after=pushed) == "ok"  # what came before got silence
            first = it.ask("status")
            assert "small got no answer for round 1 at" in first
            assert "  do: " in first
            it.end()
        with daemon(tmp_path / "site.toml", worker=REAL, seed=SEED) as it:
            assert "small got no answer for round 1 at" in it.ask("status")
            assert "LAST FAILURE" in it.ask("show", "small")
            away.rename(images)
            assert _asked(centre, asking(plan)) == "ok"
            assert "got no answer" not in it.ask("status")
            assert "LAST FAILURE" not in it.ask("show", "small")


def test_who_joins_while_the_daemon_runs_is_told_to_start_it_again(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"approval": "ask"})
    hospital.open().close()
    card = CoordinatorCard(
        name="other",
        address="consilium.example.org:9092",
        ca=certificate(authority=True),
        signing_key="ab" * 32,
    )
    (tmp_path / "COORDINATOR.json").write_text(card.text)
    with daemon(tmp_path / "site.toml", seed=SEED) as it:
        before = it.ask("audit").count("site.st")
        it.ask("join", str(tmp_path / "COORDINATOR.json"), "--yes")
        assert it.ask("audit").count("site.st") == before  # said of what serves alone
        said = it.ask("status")
        assert "this site has joined other since the daemon started" in said
        assert "restart the daemon" in said


def test_the_printed_audit_log_steers_no_terminal_and_has_a_line_an_entry(tmp_path: Path) -> None:
    foreign = "x\x1b[2K\x9b\u202e\n     1  2026-11-26T05:00:00Z  study.approved [bold]"
    hospital = Hospital(tmp_path, policy={"approval": "ask"})
    with hospital.open() as site:
        before = site.audit.head.length
        site.audit.append("study.proposed", study=foreign, by="policy", **{foreign: foreign})
    with daemon(tmp_path / "site.toml", seed=SEED) as it:
        printed = it.ask("audit").splitlines()
    assert not {each for each in "".join(printed) if unicodedata.category(each) in UNSEEN}
    assert [int(line[:6]) for line in printed] == list(range(1, len(printed) + 1))
    assert printed[before].count(r"\x1b[2K\x9b\u202e\x0a") == 3
    assert not any("study.approved" in line[:50] for line in printed)


def test_receipts_that_were_kept_elsewhere_are_counted(made: Path, tmp_path: Path) -> None:
    verify = ["audit", "verify", "--receipts", str(tmp_path)]
    for folder, found in ((tmp_path / "x", "no such folder"), (tmp_path, "without receipts.jsonl")):
        done = command(made, *verify[:-1], str(folder))
        assert done.returncode == 2
        assert found in done.stderr
    (tmp_path / "receipts.jsonl").touch()
    done = command(made, *verify)
    assert done.returncode == 0, done.stderr
    assert "0 of them came from" in done.stdout


def test_what_a_coordinator_signed_and_the_site_never_sent_is_told_as_such(made: Path) -> None:
    with open_site(made) as site:
        key, state = SigningKey(b"c" * 32), site.state
        site.audit.append("coordinator.joined", fingerprint="K7QM", signing_key=key.public)
    signature = key.sign(receipt_bytes("north", LedgerHead(), NO_SEAL))
    forged = Receipt("north", key.public, LedgerHead(), NO_SEAL, signature)
    (state / DISPUTED).write_bytes(forged.line)
    done = command(made, "audit", "verify")
    (state / DISPUTED).unlink()
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Not caused by this site: disputed.jsonl, line 1: coordinator K7QM signed for" in said


def _offer() -> object:
    from tests.client.site_fixtures import offer_request

    return offer_request(STUDY)


def _asked(centre: Coordinator, request: object, *, after: int | None = None) -> str:
    """The code of the answer to one request."""
    before = len(centre.pushed) if after is None else after
    centre.ask(request)  # type: ignore[arg-type]
    until(lambda: len(centre.pushed) > before)
    return centre.replies()[-1].code


def test_help_tells_what_each_argument_is() -> None:
    assert "The study's name" in CliRunner().invoke(app, ["show", "--help"]).output
