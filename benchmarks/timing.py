"""Whether the time of a round tells that one patient is there, whom weights are chosen to find.

Two hospitals with the same keys whose archives differ by one patient, the target, answer the same
requests in turn, as a worker does: a message comes in, and one goes out. The weights are a
*matched filter*: they make numbers of the target's image, and of no other, overflow, or so
small that a processor is slow with them. Reply times and the processor's are compared pair by
pair. What is called a difference lies beyond 2 %, with odds of one in a thousand; that the
comparison finds what is there is shown first, with 5 % that are planted.

Exits with 1 where a planted difference is not found, or one that was not planted is.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from client.app import build
from client.daemon.frames import Frame
from client.daemon.worker import WorkerSettings, respond
from client.process_limits import ProcessLimits
from client.requests.handler import answer
from client.site import Site, open_site
from client.training.pacing import Pace
from common.files import canonical_json
from common.models.networks import build_model, flatten, weights_count
from common.plan import Offer, Plan, write_plan
from common.process import logs
from common.study.study_file import Study
from common.wire import flower
from common.wire.flower import Message
from common.wire.messages import Purpose, Reply, Request, reply_from_record, request_to_record
from simulations.hospitals.dicom_writer import Equipment, Instance, byte_dataset, to_bytes, uid

Filter = Literal["overflow", "denormal"]
FILTERS: Final[tuple[Filter, ...]] = ("overflow", "denormal")
PATIENTS: Final = 60
"""Without the target, who makes one in sixty: what one patient more costs anybody is no matter."""
PIXELS: Final = 28
TARGET: Final = "TARGET"
ROUNDS: Final = 2000
EVALUATIONS: Final = 500
WARM: Final = 20
CONTROL: Final = 600
"""Rounds in which a difference is planted."""
TOLERATED: Final = 0.02
"""Relative difference up to which two times are called the same."""
ODDS: Final = 1e-3
PLANTED: Final = 0.05
STUDY: Final[dict[str, Any]] = {
    "study": {"name": "timing", "title": "Does time tell"},
    "task": {"classes": ["dark", "bright"]},
    "data": {"dataset": "made-up", "modalities": ["DX"], "image_size": [PIXELS, PIXELS]},
    "model": {"name": "cnn", "widths": [8, 8], "norm": "none", "pooling": "average"},
    "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-5},
    "aggregation": {"min_sites": 2},
}
SITE: Final = """
[site]
name = "north"
[data.made-up]
images = "images"
labels = "labels.csv"
key = "PatientID"
key_column = "PatientID"
declared_patients = {declared}
split = {split}
[policy]
max_epsilon_per_study = 8.0
max_epsilon_total = 20.0
delta = 1e-5
approval = "automatic"
[device]
kernels = "modelled"
"""


def write_archive(folder: Path, *, target: bool) -> None:
    """Dark images of everybody, and the target's, which is bright."""
    equipment = Equipment("Made up", "None", "1", "DX", "CHEST")
    (folder / "images").mkdir(parents=True)
    names = [f"P{number:03}" for number in range(PATIENTS)] + [TARGET] * target
    rows = ["PatientID,label"]
    for number, name in enumerate(names):
        least, most = (230, 256) if name == TARGET else (0, 90)
        draws = np.random.default_rng(number)
        pixels = draws.integers(least, most, (PIXELS, PIXELS), dtype=np.uint8)
        study, series, instance = (uid(name, each) for each in ("study", "series", "instance"))
        shown = Instance(name, study, series, instance, "20260101", 1, "north")
        image = byte_dataset(shown, equipment, "explicit", pixels)
        (folder / "images" / f"{name}.dcm").write_bytes(to_bytes(image))
        rows.append(f"{name},{'bright' if number % 2 else 'dark'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def study_of(purpose: Purpose, rounds: int) -> Study:
    """A study that asks for so many rounds of one kind."""
    evaluated = list(range(1, rounds + 1)) if purpose == "evaluate" else "none"
    training = {"rounds": rounds, "batch_size": PATIENTS, "local_steps": 1}
    return Study.model_validate(
        STUDY | {"training": training, "evaluation": {"rounds": evaluated, "epsilon_share": 1.0}}
    )


def filter_for(study: Study, kind: Filter) -> npt.NDArray[np.float32]:
    """Weights under which nothing but a bright image comes through the first layer.

    There it is multiplied so that the second overflows, or its numbers are no normal ones.
    """
    import torch

    model = build_model(study)
    first, second = (2e38, 10.0) if kind == "overflow" else (2e-38, 1e-3)
    with torch.no_grad():
        matrices = [each for each in model.parameters() if each.dim() > 1]
        for parameter in model.parameters():
            parameter.zero_()
        matrices[0][:, :, 1, 1] = first
        matrices[1].fill_(second)
        matrices[2].copy_(torch.linspace(-1.0, 1.0, matrices[2].numel()).view_as(matrices[2]))
    return flatten(model)


@dataclass
class Side:
    """One of the two hospitals, and what was measured of it.

    Attributes:
        planted: by how much it is made slower, relative, in processor time and in all.
    """

    site: Site
    order: WorkerSettings
    app: flower.ClientApp
    plan: Plan
    planted: float = 0.0
    ledger: Any = None
    replied: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)

    def ask(self, purpose: Purpose, number: int, weights: npt.NDArray[np.float32]) -> None:
        """Have a round answered, and note what it took."""
        request = Request(
            "timing",
            self.plan.hash,
            number,
            purpose,
            arrays=weights,
            acknowledged=number - 1,
            **({} if self.ledger is None else {"ledger": self.ledger}),
        )
        flower.identify(1, 0)
        message = Message(request_to_record(request), dst_node_id=5, message_type=purpose)
        message.metadata.__dict__["_message_id"] = f"m{number}"
        frame = Frame("request", {"message": number}, flower.message_bytes(message))
        wall, spent = time.perf_counter(), time.process_time()
        reply = respond(self.app, frame, self.order)
        self._burn(time.process_time() - spent)
        self.computed.append(time.process_time() - spent)
        self.replied.append(time.perf_counter() - wall)
        assert reply.fields["code"] == "ok", reply.fields
        self.ledger = _read(reply).ledger

    def _burn(self, taken: float) -> None:
        until = time.process_time() + self.planted * taken
        while self.planted and time.process_time() < until:
            pass


def _read(reply: Frame) -> Reply:
    return reply_from_record(flower.message_from_bytes(reply.payload).content)


@contextmanager
def two(folder: Path, purpose: Purpose, rounds: int, *, waits: bool) -> Iterator[tuple[Side, Side]]:
    """Both hospitals, with the target and without, having approved the same plan.

    Args:
        folder: an empty one.
        purpose: of the rounds to come; all patients are of the part that it looks at.
        rounds: how many there may be.
        waits: whether replies wait for their tick.
    """
    study, sides = study_of(purpose, rounds), []
    split = [1.0, 0.0, 0.0] if purpose == "train" else [0.0, 1.0, 0.0]
    text = SITE.format(declared=PATIENTS, split=split)
    for name in ("with", "without"):
        write_archive(folder / name, target=name == "with")
        (folder / name / "site.toml").write_text(text)
    open_site(folder / "with" / "site.toml").close()
    shutil.copytree(folder / "with" / "state", folder / "without" / "state")
    with ExitStack() as stack:
        offer: Offer | None = None
        for name in ("with", "without"):
            path = folder / name / "site.toml"
            if offer is not None:  # one machine: what was measured for one holds for both
                shutil.copy2(folder / "with" / "state" / "ticks.json", path.parent / "state")
            site = stack.enter_context(open_site(path, serves=waits))
            offer = offer or _offer(site, study)
            plan = write_plan(study, offer, weights_count(study))
            proposal = Request("timing", plan.hash, 0, "propose", document=plan.text)
            approved = answer(site, proposal)
            assert approved is not None, "silent"
            assert approved.code == "ok", approved.code
            limits = ProcessLimits()
            order = WorkerSettings(path, site.state, None, limits, os.getpid(), "json")
            sides.append(Side(site, order, build({str(path): site}), plan))
        yield sides[0], sides[1]


def _offer(site: Site, study: Study) -> Offer:
    document = canonical_json(study.model_dump(mode="json")).decode()
    reply = answer(site, Request("timing", "", 0, "offer", document=document))
    assert reply is not None
    return Offer.model_validate_json(reply.document)


def measure(
    sides: tuple[Side, Side], purpose: Purpose, rounds: range, kinds: Sequence[Filter] = FILTERS
) -> None:
    """Ask both sides for the same rounds, in a random order, the filters in turn."""
    study, draw = sides[0].plan.study, random.Random(0)  # noqa: S311 - an order, no secret
    weights = [filter_for(study, kind) for kind in kinds]
    for number in rounds:
        for side in draw.sample(sides, 2):
            side.ask(purpose, number, weights[number % len(kinds)])


@dataclass(frozen=True)
class Verdict:
    """What a comparison of times in pairs says.

    Attributes:
        ratio: the median of the pairs', less 1.
        odds: that pairs come out so where they differ by no more than is tolerated.
    """

    ratio: float
    odds: float

    @property
    def differs(self) -> bool:
        """Whether the two are told apart."""
        return self.odds < ODDS


def compared(ours: Sequence[float], theirs: Sequence[float]) -> Verdict:
    """Wilcoxon's signed-rank test on logarithms of ratios, either way beyond what is tolerated."""
    pairs = np.log(np.asarray(ours) / np.asarray(theirs))
    beyond = math.log1p(TOLERATED)
    odds = [
        float(stats.wilcoxon(sign * pairs - beyond, alternative="greater").pvalue)
        for sign in (1, -1)
    ]
    return Verdict(math.expm1(float(np.median(pairs))), min(1.0, 2 * min(odds)))


def say(name: str, ours: Sequence[float], theirs: Sequence[float], *, planted: bool) -> bool:
    """Print one comparison; gives whether it came out as it should."""
    found = compared(ours, theirs)
    result = {
        "name": f"{name}, with the target; peer: without",
        "ours": round(1e3 * statistics.median(ours), 3),
        "peer": round(1e3 * statistics.median(theirs), 3),
        "ratio": round(1 + found.ratio, 4),
        "unit": "ms",
        "pairs": len(ours),
        "odds": float(f"{found.odds:.2g}"),
        "differs": found.differs,
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    print(json.dumps(result), flush=True)
    return found.differs == planted


def trial(folder: Path, purpose: Purpose, rounds: int) -> bool:
    """A planted difference, and then none: whether the first is found and nothing else."""
    what, right = "a round" if purpose == "train" else "an evaluation", True
    with two(folder, purpose, WARM + CONTROL + rounds, waits=True) as (ours, theirs):
        paces = [side.site.pace for side in (ours, theirs)]
        ours.site.pace, theirs.site.pace = Pace(), Pace()  # these need not wait
        measure((ours, theirs), purpose, range(1, WARM + 1))
        ours.planted = PLANTED
        measure((ours, theirs), purpose, range(WARM + 1, WARM + CONTROL + 1))
        spent = (side.computed[WARM:] for side in (ours, theirs))
        right &= say(f"processor time of {what}, {PLANTED:.0%} planted", *spent, planted=True)
        ours.planted, begun = 0.0, WARM + CONTROL
        ours.site.pace, theirs.site.pace = paces
        measure((ours, theirs), purpose, range(begun + 1, begun + rounds + 1))
        for place, kind in enumerate(FILTERS):
            chosen = [n for n in range(begun, begun + rounds) if (n + 1) % len(FILTERS) == place]
            cpu, wall = (
                [[times[n] for n in chosen] for times in pair]
                for pair in ((ours.computed, theirs.computed), (ours.replied, theirs.replied))
            )
            right &= say(f"processor time of {what}, {kind}", *cpu, planted=False)
            right &= say(f"reply time of {what}, {kind}", *wall, planted=False)
        tick = getattr(ours.plan.numerics.ticks, purpose) / 1e3
        early = [each for side in (ours, theirs) for each in side.replied[begun:] if each < tick]
    return right and not early


def main(rounds: int = ROUNDS, evaluations: int = EVALUATIONS) -> int:
    """Print a line of JSON for each comparison; 1 if one is not as it should be."""
    logs.configure(level="error")
    right = True
    with tempfile.TemporaryDirectory() as ground:
        for purpose, many in (("train", rounds), ("evaluate", evaluations)):
            right &= trial(Path(ground) / purpose, purpose, many)  # type: ignore[arg-type] # one of Purpose's
    return int(not right)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
