"""Two hospitals that differ in one patient, asked the same: what leaves is the same.

The adversary chooses the messages, and their order; what happens to the patient happens in one
of the two hospitals alone. Whether there is an answer, its code, its document, the shape of its
array and the ledger's head must be equal, message by message; the seal is never twice the same
(``tests/client/records/test_seals.py``). Arrays may
differ only in the patient's own part, and only while the patient stands in the plan: both sites
draw from the same known keys, so that everything else is equal to the last bit.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from client.administration import service
from client.consent.decisions import freeze_pending
from client.requests.handler import answer
from client.site import Site
from common.errors import ConsiliumError
from common.plan import Plan
from common.study.one_shot import CLIP_NORM
from common.study.study_file import Study
from common.tasks.task import TargetForm
from common.tasks.tasks import KINDS
from common.wire.messages import NO_SEAL, LedgerHead, Purpose, Reply, Request
from tests.client.site_fixtures import (
    CLASSES,
    Hospital,
    asking,
    code_of,
    frozen_of,
    offer_request,
    plan_for,
    proposal,
    write_image,
    write_images,
    write_mask,
)
from tests.common.studies import small_study, study_of, task_of

X = "X01"
"""The patient who is in one of the two hospitals alone, in both of its data sets."""
ROUNDS = 3
ABOUT: dict[str, Any] = {
    "training": {"rounds": ROUNDS, "local_steps": 1, "batch_size": 5, "learning_rate": 0.5},
    "evaluation": {"rounds": [1, ROUNDS], "bins": 4, "epsilon_share": 0.5},
    "privacy": {"epsilon": 4.0},
    "model": {"name": "cnn", "widths": [2], "norm": "none", "pooling": "flatten"},
}
WORDS: dict[TargetForm, tuple[str, str]] = {
    "label": CLASSES,
    "mask": CLASSES,
    "value": ("0.25", "0.75"),
}
"""What a label file says of patients, by the form of a task's targets."""


WHOLE: dict[str, Any] = {}
ADAPTERS: dict[str, Any] = {"model": {"trainable": ["head"], "adapters": 1}}
ONE_SHOT: dict[str, Any] = {
    "model": {"trainable": ["head"], "projection": 3},
    "training": {"method": "one-shot", "rounds": 1, "learning_rate": 1.0},
    "evaluation": {"rounds": [1]},
    "privacy": {"clip_norm": CLIP_NORM},
}


def mixed(kind: str) -> tuple[dict[str, Any], ...]:
    """What five studies of a task train."""
    released = ONE_SHOT if task_of(kind).sums else ADAPTERS
    return ADAPTERS, WHOLE, released, WHOLE, released


def studies(kind: str, parts: Sequence[dict[str, Any]]) -> tuple[Study, ...]:
    """Several studies of one task, on two data sets."""
    about = ABOUT | ({"model": {}} if task_of(kind).heads().dense else {})
    found = []
    for number, (dataset, part) in enumerate(zip("ababa", parts, strict=True)):
        sections = {key: about[key] | part.get(key, {}) for key in about}
        sections |= {key: part[key] for key in part if key not in about}
        study, data = {"name": f"study-{number}"}, {"dataset": dataset}
        found.append(study_of(kind, study=study, data=data, **sections))
    return tuple(found)


STUDIES = studies(KINDS[0], (WHOLE, WHOLE, WHOLE, WHOLE, WHOLE))
MESSAGES = (
    *("offer", "propose", "train", "evaluate", "close", "again", "wrong", "other", "junk"),
    "provide",
)
OURS = (
    *("restart", "crash", "expire", "pause", "stop", "approve", "approve"),
    *("root", "labels", "lists", "freeze_pending"),
)
THEIRS = ("opt out", "erase", "change", "new", "two labels", "outside", "row gone", "spoil", "back")


class Killed(BaseException):
    """In the place of kill -9."""


KILLED = Reply("", "", "", "", 0, "train")


@dataclass
class World:
    """One of the two hospitals.

    Attributes:
        hospital: its folder.
        has_x: whether the patient is there.
        form: of the targets that its patients have.
        site: open.
        heads: the newest ledger head that was sent.
    """

    hospital: Hospital
    has_x: bool
    form: TargetForm = "label"
    site: Site = field(init=False)
    head: LedgerHead = field(default=LedgerHead())

    def __post_init__(self) -> None:
        shutil.rmtree(self.hospital.folder / "b")
        write_images(self.hospital.folder / "b", {f"P{number}": 1 for number in range(10, 20)})
        for place in self.hospital.datasets:
            self.say_otherwise(self.hospital.folder / place)
        if self.has_x:
            for place in ("a", "b"):
                self.write(place, X, (0, 1))
        self.site = self.hospital.open()

    def say_otherwise(self, folder: Path) -> None:
        """Bring labels to the form, and add masks."""
        text = (folder / "labels.csv").read_text()
        for label, word in zip(CLASSES, WORDS[self.form], strict=True):
            text = text.replace(f",{label}\n", f",{word}\n")
        (folder / "labels.csv").write_text(text)
        for file in sorted((folder / "images").glob("*.dcm")):
            patient, number = file.stem.split("-")
            self.mask(folder, patient, int(number))

    def mask(self, folder: Path, patient: str, number: int, end: str = "", least: int = 0) -> None:
        """A mask of an image, where masks are the targets."""
        if self.form == "mask":
            path = folder / "masks" / f"{patient}-{number}{end}.png"
            write_mask(path, patient, number + len(end), least=least, most=2 + least)

    def masks_of(self, folder: Path, patient: str) -> list[Path]:
        """The masks of a patient."""
        return sorted((folder / "masks").glob(f"{patient}-*.png"))

    def write(self, place: str, patient: str, numbers: tuple[int, ...], label: str = "") -> None:
        """Images of a patient, and rows of the label file."""
        folder = self.hospital.folder / place
        rows = []
        for number in numbers:
            file = folder / "images" / f"{patient}-{number}.dcm"
            instance = write_image(file, patient, number)
            rows.append(f"{instance},{label or WORDS[self.form][int(patient[1:]) % 2]}\n")
            self.mask(folder, patient, number)
        with (folder / "labels.csv").open("a") as labels:
            labels.writelines(rows)

    def rows_of(self, place: str, patient: str, to: Callable[[list[str]], list[str]]) -> None:
        """Change the rows of a patient in the label file."""
        path = self.hospital.folder / place / "labels.csv"
        lines = path.read_text().splitlines(keepends=True)
        begins = f"1.2.3.{int.from_bytes(patient.encode(), 'big')}."
        mine = [line for line in lines if line.startswith(begins)]
        path.write_text("".join([line for line in lines if line not in mine] + to(mine)))

    def restart(self) -> None:
        self.site.close()
        self.site = self.hospital.open()

    def ask(self, request: Request) -> Reply | None:
        """What leaves for a request; of a site that died of it, :data:`KILLED`."""
        try:
            reply = answer(self.site, replace(request, ledger=self.head))
        except Killed:
            self.restart()
            return KILLED
        if reply is not None:
            self.head = reply.ledger
        return reply


@dataclass(frozen=True)
class Seen:
    """All that leaves of an answer but the entries of its array and what covers them."""

    reply: Reply
    array: tuple[str, tuple[int, ...]] | None
    bits: bytes


def seen(reply: Reply | None) -> Seen | None:
    if reply is None:
        return None
    rest = replace(reply, arrays=None, seal=NO_SEAL, signature=b"")
    if reply.arrays is None:
        return Seen(rest, None, b"")
    return Seen(rest, (str(reply.arrays.dtype), reply.arrays.shape), reply.arrays.tobytes())


class Game:
    """One long sequence, played in both worlds at once.

    Args:
        folder: for both.
        seed: of the sequence.
        kind: of the task of its studies.
    """

    def __init__(self, folder: Path, seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.studies = studies(kind, mixed(kind))
        self.draw = random.Random(seed)
        self.dies = False
        monkeypatch.setattr("client.requests.round.reach", self.reach)
        self.policy = {
            "max_epsilon_total": self.draw.choice((5.0, 6.0, 9.0)),
            "max_open_studies": 3,
            "tasks": list(KINDS),
            "approval": self.draw.choice(("automatic", "automatic", "ask")),
        }
        self.split = self.draw.choice(((0.5, 0.5, 0.0), (0.75, 0.25, 0.0), (0.4, 0.3, 0.3)))
        self.worlds = [
            self.world(folder / name, seed, has_x) for name, has_x in (("n", False), ("n+1", True))
        ]
        self.plans = [plan_for(self.worlds[0].site, study) for study in self.studies]
        assert self.plans == [plan_for(self.worlds[1].site, study) for study in self.studies]
        self.next = [1] * len(self.studies)
        self.last = proposal(self.plans[0])
        self.did: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self.codes: Counter[str] = Counter()
        self.proposed: set[int] = set()
        self.with_x: dict[str, bool] = {}
        self.without_x = 0

    def world(self, folder: Path, seed: int, has_x: bool) -> World:
        folder.mkdir(parents=True)
        (folder / "list.txt").write_text("# nobody yet\n")
        patients = {f"P{number:02}": 1 + number % 2 for number in range(10)}
        hospital = Hospital(
            folder,
            patients,
            policy=dict(self.policy),
            datasets={"a": "a", "b": "b"},
            split=self.split,
            seed=seed,
            opt_out="list.txt",
            masks=self.form == "mask",
        )
        return World(hospital, has_x, self.form)

    @property
    def form(self) -> TargetForm:
        """Of the targets."""
        return self.studies[0].task.target

    def reach(self, point: str, _: int) -> None:
        if self.dies and point == "reservation.made":
            raise Killed

    def play(self, steps: int) -> None:
        self.message("propose")
        self.message("propose")
        for _ in range(steps):
            kind = self.draw.choices(("message", "ours", "theirs"), (8, 1, 1))[0]
            if self.broken and self.draw.random() < 0.3:
                self.ours(*self.broken[0])
            elif kind == "message":
                self.message(self.draw.choices(MESSAGES, (1, 3, 16, 4, 0.4, 2, 2, 1, 1, 3))[0])
            elif kind == "ours":
                self.ours(self.draw.choice(OURS), self.draw.choice("ab"))
            else:
                self.theirs(self.draw.choice(THEIRS), self.draw.choice("ab"))

    def message(self, what: str) -> None:
        """Ask both the same, and hold what leaves of the two against each other."""
        which = self.which(what)
        plan, number = self.plans[which], self.next[which]
        request = self.request(what, which, plan, min(number, ROUNDS))
        self.did.append(f"{what} {which} {request.round}")
        answers = [world.ask(request) for world in self.worlds]
        assert (answers[0] is KILLED) == (answers[1] is KILLED), self.did
        if answers[0] is KILLED:
            self.dies = False
            return
        one, other = map(seen, answers)
        assert (one is None) == (other is None), self.did
        if what == "propose":
            self.proposed.add(which)
            settles, approves = self.draw.random() < 0.7, self.draw.random() < 0.7
            for world in self.worlds:
                if settles:
                    freeze_pending(world.site)
                if approves:
                    self.happens(world, "approve", "", plan.study.study.name)
        if request.purpose == "train" and one is not None and one.reply.code == "ok":
            self.next[self.plans.index(plan)] = max(request.round + 1, number)
        self.last = request
        self.codes[one.reply.code if one else "silence"] += 1
        if one is None or other is None:
            return
        assert (one.reply, one.array) == (other.reply, other.array), self.did
        if one.array is None:
            return
        identity = one.reply.request
        if not self.with_x.setdefault(identity, self.holds_x(one.reply.plan_hash, request.purpose)):
            self.without_x += 1
            assert one.bits == other.bits, self.did

    def which(self, what: str) -> int:
        """A plan: for a round, mostly one that was proposed and is not over."""
        open_ = [each for each in sorted(self.proposed) if self.next[each] <= ROUNDS]
        if what in ("train", "wrong", "other", "junk") and open_ and self.draw.random() < 0.9:
            return self.draw.choice(open_)
        frozen = [each for each in sorted(self.proposed) if self.plans[each].frozen]
        if what == "provide" and frozen:
            return self.draw.choice(frozen)
        over = [each for each in sorted(self.proposed) if self.next[each] > ROUNDS]
        if what == "close" and over and self.draw.random() < 0.9:
            return self.draw.choice(over)
        if what == "evaluate" and self.proposed and self.draw.random() < 0.9:
            return self.draw.choice(sorted(self.proposed))
        return self.draw.randrange(len(self.plans))

    def request(self, what: str, which: int, plan: Plan, number: int) -> Request:
        name = plan.study.study.name
        purpose: Purpose = "evaluate" if what == "evaluate" else "train"
        if what == "evaluate":
            number = self.draw.choice((1, ROUNDS))
        made = {
            "offer": lambda: offer_request(self.studies[which]),
            "propose": lambda: proposal(plan),
            "provide": lambda: Request(
                name, plan.hash, 0, "provide", frozen_of(plan.study, self.draw.choice((0, 0, 0, 1)))
            ),
            "close": lambda: Request(name, plan.hash, number, "close", acknowledged=number),
            "again": lambda: self.last,
            "wrong": lambda: asking(
                plan, self.draw.randrange(1, ROUNDS + 2), seed=self.draw.randrange(3)
            ),
            "other": lambda: asking(plan, max(number - 1, 1), seed=9),
            "junk": lambda: replace(asking(plan, number), document="{}"),
        }
        usual = asking(plan, number, purpose, acknowledged=max(number - 2, 0))
        return made.get(what, lambda: usual)()

    def holds_x(self, plan_hash: str, purpose: str) -> bool:
        """Whether the patient is in what was just computed."""
        row = (
            self.worlds[1]
            .site.store.execute(
                "SELECT part FROM members WHERE plan_hash = ? AND patient = ? AND until IS NULL",
                plan_hash,
                self.worlds[1].site.pseudonyms.of(X),
            )
            .fetchone()
        )
        part = "train" if purpose == "train" else "validation"
        return row is not None and row["part"] == part

    def ours(self, what: str, place: str) -> None:
        """What happens at both hospitals alike; what is broken is mended the second time."""
        self.did.append(f"{what} {place}")
        title = self.draw.choice(self.studies).study.name
        if (what, place) in self.broken:
            self.broken.remove((what, place))
        elif what in ("pause", "root", "labels", "lists"):
            self.broken.append((what, place))
        self.dies = self.dies or what == "crash"
        for world in self.worlds:
            self.happens(world, what, place, title)

    def happens(self, world: World, what: str, place: str, study: str) -> None:
        folder = world.hospital.folder
        if what == "restart":
            world.restart()
        elif what == "expire":
            world.site.store.execute(
                "UPDATE approvals SET expires_at = '2020' WHERE study = ?", study
            )
        elif what == "pause":
            (service.resume if service.is_paused(world.site) else service.pause)(
                world.site, by="somebody"
            )
        elif what in ("stop", "approve"):
            with suppress(ConsiliumError):
                getattr(service, what)(world.site, study, by="somebody")
        elif what in ("root", "labels", "lists"):
            targets = "masks" if self.form == "mask" else "labels.csv"
            path = {"root": folder / place / "images", "labels": folder / place / targets}.get(
                what, folder / "list.txt"
            )
            away = path.with_name(f"{path.name}.away")
            path.rename(away) if path.exists() else away.rename(path)
            world.restart()
        elif what == "freeze_pending":
            freeze_pending(world.site)

    def theirs(self, what: str, place: str) -> None:
        """What happens to the patient, or somebody who decides for one, or to another patient."""
        mine = self.draw.random() < 0.6
        patient = X if mine else f"P{self.draw.randrange(10):02}"
        self.did.append(f"{what} {patient} {place}")
        restarts = self.draw.random() < 0.7
        for world in self.worlds:
            if world.has_x or not mine:
                self.befalls(world, what, patient, place)
            if restarts:
                world.restart()

    def befalls(self, world: World, what: str, patient: str, place: str) -> None:
        images = world.hospital.folder / place / "images"
        labels = world.hospital.folder / place / "labels.csv"
        masks = images.with_name("masks")
        if not images.exists() or not labels.exists() or masks.exists() != (self.form == "mask"):
            return
        files = sorted(images.glob(f"{patient}-*.dcm"))
        self.befalls_masks(world, what, patient, images.parent)
        if what == "opt out":
            if (world.hospital.folder / "list.txt").exists():
                service.opt_out(world.site, [patient], by="somebody")
        elif what == "erase":
            for file in files:
                file.unlink()
        elif what == "change" and files:
            content = bytearray(files[0].read_bytes())
            content[-1] ^= 1
            files[0].write_bytes(content)
        elif what == "spoil" and files:
            files[0].write_bytes(files[0].read_bytes()[:200])
        elif what == "new":
            world.write(place, patient, (7,))
        elif what == "two labels":
            words = WORDS[self.form]
            flip = {f",{one}\n": f",{other}\n" for one, other in (words, words[::-1])}
            world.rows_of(
                place,
                patient,
                lambda rows: (
                    [
                        row.replace(row[row.index(",") :], flip.get(row[row.index(",") :], row))
                        for row in rows[:1]
                    ]
                    + rows[1:]
                ),
            )
        elif what == "outside":
            world.rows_of(
                place, patient, lambda rows: [row.split(",")[0] + ",fracture\n" for row in rows]
            )
        elif what == "row gone":
            world.rows_of(place, patient, lambda rows: rows[1:])
        elif what == "back":
            world.rows_of(place, patient, lambda rows: [])
            world.write(place, patient, (0, 1))

    def befalls_masks(self, world: World, what: str, patient: str, folder: Path) -> None:
        """The same of the patient's masks, where there are some."""
        files = world.masks_of(folder, patient)
        if what == "two labels":
            world.mask(folder, patient, 0, end="_mask")
        elif what == "outside":
            world.mask(folder, patient, 0, least=7)
        elif what == "spoil" and files:
            files[0].write_bytes(files[0].read_bytes()[:40])
        elif what == "change" and files:
            write_mask(files[0], patient, 9)
        elif what in ("row gone", "back"):
            for file in files[: 1 if what == "row gone" else None]:
                file.unlink()

    def close(self) -> None:
        for world in self.worlds:
            world.site.close()


@contextmanager
def game(folder: Path, seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Game]:
    played = Game(folder, seed, kind, monkeypatch)
    try:
        yield played
    finally:
        played.close()


@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        (2, 60),
        *[pytest.param(seed, 60, marks=pytest.mark.long) for seed in (4, 6, 8)],
        *[pytest.param(seed, 300, marks=pytest.mark.long) for seed in range(100, 104)],
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_one_patient_more_changes_nothing_but_that_patients_part(
    tmp_path: Path, kind: str, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with game(tmp_path, seed, kind, monkeypatch) as played:
        played.play(steps)
        assert played.codes["ok"] > 10
        assert played.without_x


@pytest.mark.parametrize("approval", ["automatic", "ask"])
def test_a_study_goes_on_when_a_patient_it_shares_with_another_could_not_pay_for_both(
    tmp_path: Path, approval: str
) -> None:
    """Each plan alone is within the total, and both together are not."""
    told = []
    for has_x in (False, True):
        hospital = Hospital(
            tmp_path / str(has_x),
            {f"P{number:02}": 1 for number in range(10)},
            policy={"max_epsilon_total": 6.0, "approval": approval},
            datasets={"a": "a", "b": "b"},
            split=(1.0, 0.0, 0.0),
        )
        world = World(hospital, has_x)
        plans, codes = [plan_for(world.site, study) for study in STUDIES[:2]], []
        for plan in plans:
            codes.append(code_of(world.site, proposal(plan)))
            if approval == "ask":
                service.approve(world.site, plan.hash, by="somebody")
        for number in range(1, ROUNDS + 1):
            codes += [code_of(world.site, asking(plan, number)) for plan in plans]
        told.append((codes, world.site.ledger.head(), world.site.audit.head.length))
        left_out = [row["left_out"] for row in hospital.rows("approvals")]
        assert left_out == [0, int(has_x)]
        world.site.close()
    assert told[0] == told[1]
    assert set(told[0][0]) <= {"ok", "pending"}


def test_files_that_come_go_or_change_between_two_rounds_change_no_answer(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", datasets={"a": "a", "b": "b"})
    world = World(hospital, has_x=True)
    plan = plan_for(world.site, STUDIES[0])
    codes = [code_of(world.site, proposal(plan)), code_of(world.site, asking(plan, 1))]
    world.write("a", "P77", (0,))
    for file in (hospital.folder / "a" / "images").glob(f"{X}-*.dcm"):
        file.unlink()
    world.restart()
    codes.append(code_of(world.site, asking(plan, 2)))
    world.rows_of("a", "P03", lambda _: [])
    world.restart()
    codes += [code_of(world.site, asking(plan, 3)), code_of(world.site, proposal(plan))]
    assert codes == ["ok"] * 5
    newcomer, gone = world.site.pseudonyms.of("P77"), world.site.pseudonyms.of(X)
    rows = {row["patient"]: row for row in hospital.rows("members")}
    assert newcomer not in rows
    assert rows[gone]["until"] == 1
    world.site.close()


@pytest.mark.parametrize(
    "sections",
    [
        {"task": {"classes": ["normal", "fracture"]}},
        {"task": {"classes": ["normal", "bacterial"]}},
        {"data": {"dataset": "a", "modalities": ["PT"]}},
    ],
    ids=str,
)
def test_plans_that_would_find_nobody_are_answered_as_any_other(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    """Which labels and modalities there are could be read off one code a plan, free of charge."""
    hospital = Hospital(tmp_path / "north", datasets={"a": "a"})
    with hospital.open() as site:
        study = small_study(**{"data": {"dataset": "a"}, **sections})
        plan = plan_for(site, study)
        asked = [proposal(plan), asking(plan), asking(plan, 3, "evaluate"), asking(plan, 2, seed=3)]
        codes = [code_of(site, request) for request in asked]
    assert codes == ["ok"] * 4
