"""A private step on each device of this machine, beside plain SGD and Opacus: time and memory.

``python -m benchmarks.device [cpu | cuda]``

On the processor always; on the graphics card where there is one, in float32 and with bfloat16
activations, for which the peers run under torch's autocast. Contenders take turns in one process,
so that they meet the same machine, and a ratio is the median of the turns' own. For each model and
precision:

- a step over plain SGD (in the faster of both layouts), and the speed over Opacus' hooks and ghost
  clipping; images a second;
- the largest batch that fits into one memory, by doubling it until it does not, each try in a
  process of its own: ours works in tiles, so it ends where the batch's own images fill the memory,
  or at :data:`MOST_BATCH`;
- the share of a step in which the device waits: a whole step of local training (patients are drawn
  from the memory-mapped cache, moved and augmented, their sum formed, noise made and added) beside
  the sum alone, of a batch that is there.

Exits with 1 where a claim does not hold: on a card, of ResNet-18 at 224x224 in bfloat16.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from benchmarks.step.contenders import MEMORY, choose, prepare, tiled
from benchmarks.step.models import LARGE, MODELS, Setting, of_patients, on_device
from client.data.cohort import Patient
from client.training.gradients import GradientSum
from client.training.noise import DrawnAhead, drawing, noised
from client.training.sampling import RoundStreams, draw
from common.devices.device import DeviceName, Precision
from common.devices.devices import DEVICES
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import PatientMechanism
from common.study.study_file import Study

CONTENDERS: Final = (
    *("ours", "plain SGD", "plain SGD, channels_last"),
    *("Opacus hooks", "Opacus ghost"),
)
MOST_BATCH: Final = 2048
SMALLEST_BATCH: Final = 64
CARD_MEMORY: Final = 16 * 2**30
"""What contenders may take of a card, bytes: a common one's, so that cards can be compared."""
ROUNDS: Final = 7
EXIT_FULL: Final = 9
CLAIMS: Final = {"resnet18-224, cuda, bfloat16": (1.4, 3.0)}
"""Time over plain SGD at most, and speed over Opacus' hooks at least."""
RUNS: Final[dict[DeviceName, tuple[tuple[str, Precision], ...]]] = {
    "cpu": (("cnn-28", "float32"), ("resnet18-64", "float32")),
    "cuda": (
        ("cnn-28", "float32"),
        ("resnet18-64", "float32"),
        ("resnet18-224", "float32"),
        ("resnet18-224", "bfloat16"),
        ("densenet121-224", "bfloat16"),
    ),
}


@dataclass(frozen=True)
class Run:
    """A model on a device.

    Attributes:
        model: by its name in :mod:`benchmarks.step.models`.
        device: that computes.
        precision: of activations.
    """

    model: str
    device: DeviceName
    precision: Precision

    @property
    def name(self) -> str:
        """As a line says it."""
        return f"{self.model}, {self.device}, {self.precision}"

    @property
    def memory(self) -> int:
        """Bytes that contenders may take."""
        return CARD_MEMORY if self.device == "cuda" else MEMORY

    def setting(self, patients: int | None = None) -> Setting:
        """Model and batch, on the device."""
        found = (MODELS | LARGE)[self.model]()
        found = found if patients is None else of_patients(found, patients)
        return on_device(found, DEVICES[self.device])

    def choice(self, setting: Setting, *, timing: bool = True) -> EngineChoice:
        """How ours computes; without timing, by kernels that follow from shapes."""
        blank = EngineChoice(device=self.device, precision=self.precision)
        return (choose if timing else tiled)(setting, blank, self.memory)

    @contextmanager
    def autocast(self, contender: str) -> Iterator[None]:
        """The peers' way to have short activations; ours has its own."""
        short = self.precision == "bfloat16" and contender != "ours"
        with torch.autocast(self.device, torch.bfloat16, enabled=short):
            yield

    def steps(self, setting: Setting, choice: EngineChoice) -> dict[str, Callable[[], object]]:
        """Each contender's step, done when it returns."""

        def of(name: str) -> Callable[[], None]:
            step = prepare(name, setting, choice)

            def once() -> None:
                with self.autocast(name):
                    step()
                DEVICES[self.device].finish()

            return once

        return {name: of(name) for name in CONTENDERS}


def timed(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each, turn by turn; in each turn another one begins."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = deque(steps)
    for turn in range(turns + 1):
        names.rotate(1)
        for name in names:
            start = time.perf_counter()
            steps[name]()
            if turn:  # in the first, libraries allocate and choose
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def report(run: Run) -> bool:
    """Print a run's lines; tells whether what is claimed of it holds."""
    DEVICES[run.device].repeat(torch.get_num_threads())
    setting = run.setting()
    choice = run.choice(setting)
    taken = timed(run.steps(setting, choice), setting.turns)
    ours = taken["ours"]
    plain = min((taken[name] for name in CONTENDERS[1:3]), key=median)
    slower = _line(f"{run.name}: step over plain SGD", ours, plain)
    faster = {
        peer: _line(f"{run.name}: speed over {peer}", taken[peer], ours, swapped=True)
        for peer in ("Opacus hooks", "Opacus ghost")
    }
    speeds = [[1e3 * len(setting.batch) / each for each in times] for times in (ours, plain)]
    _line(f"{run.name}: images a second; peer: plain SGD", *speeds, unit="1/s")
    batches = [[float(largest(run, peer))] for peer in ("ours", "Opacus hooks")]
    _line(
        f"{run.name}: largest batch in {run.memory // 2**20} MiB, of at most {MOST_BATCH}; "
        "peer: Opacus hooks",
        *batches,
        unit="patients",
    )
    whole, alone = waiting(run, choice)
    waits = [max(0.0, 1 - one / other) for one, other in zip(alone, whole, strict=True)]
    line = {
        "name": f"{run.name}: share of a step in which the device waits; ours: a whole step of "
        "local training, peer: its sum alone",
        "ours": round(median(whole), 2),
        "peer": round(median(alone), 2),
        "ratio": round(median(waits), 3),
        "unit": "ms",
    }
    print(json.dumps(line), flush=True)
    at_most, at_least = CLAIMS.get(run.name, (float("inf"), 0.0))
    return slower <= at_most and faster["Opacus hooks"] >= at_least


def _line(
    name: str, ours: list[float], peer: list[float], *, unit: str = "ms", swapped: bool = False
) -> float:
    """Print a comparison and give its ratio, the median of the turns' own."""
    ratio = median(one / other for one, other in zip(ours, peer, strict=True) if other)
    if swapped:
        ours, peer = peer, ours
    line = {
        "name": name,
        "ours": round(median(ours), 2),
        "peer": round(median(peer), 2),
        "ratio": round(ratio, 3),
        "unit": unit,
    }
    print(json.dumps(line), flush=True)
    return ratio


def largest(run: Run, contender: str) -> int:
    """The largest batch, by powers of two, of which a step fits into the memory; 0 for none."""
    fits, batch = 0, SMALLEST_BATCH
    while batch <= MOST_BATCH:
        given = [run.model, run.device, run.precision, contender, str(batch)]
        command = [sys.executable, "-m", "benchmarks.device", "--fits", *given]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == EXIT_FULL:
            break
        if done.returncode:
            raise SystemExit(f"{run.name}, {contender}: {done.stderr[-2000:]}")
        fits, batch = batch, 2 * batch
    return fits


def _fits(run: Run, contender: str, batch: int) -> int:
    """The exit code of a process that tries one step."""
    if run.device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, run.memory / whole))
    setting = run.setting()
    choice = run.choice(setting, timing=False)
    if run.device == "cpu":
        # Beyond what the process holds with everything imported and the model built.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + run.memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        step = prepare(contender, run.setting(batch), choice)
        with run.autocast(contender):
            step()
        DEVICES[run.device].finish()
    except (RuntimeError, MemoryError) as error:  # torch has no type of its own for the processor
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error)
        if not full:
            raise
        return EXIT_FULL
    return 0


STUDY: Final[dict[str, Any]] = {
    "study": {"name": "device", "title": "How long a device waits"},
    "task": {"classes": ["normal", "ill"]},
    "training": {"batch_size": 64, "augmentation": {"flip": True, "rotate": 10.0}},
    "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-5},
    "aggregation": {"min_sites": 2},
}


def waiting(run: Run, choice: EngineChoice) -> tuple[list[float], list[float]]:
    """Milliseconds of whole steps of local training, and of their sums alone."""
    setting, device = run.setting(), DEVICES[run.device]
    patients, (channels, *size) = len(setting.batch), setting.batch.inputs.shape[2:]
    data = {"dataset": "made-up", "modalities": ["DX"], "image_size": size, "channels": channels}
    study = Study.model_validate(STUDY | {"data": data, "model": {"name": "cnn"}})
    mechanism = PatientMechanism(
        step=SampledGaussian(sampling_rate=1.0, noise_multiplier=1.0, count=1),
        evaluation=None,
        most_sampled=10**9,
        clip_norm=1.0,
        divisor=1.0,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=0.5,
    )
    everyone = tuple(
        Patient(f"{place:064x}", place % 2, (place,), "0" * 64) for place in range(patients)
    )
    sums = GradientSum(
        device.place(setting.build(), choice.memory_format), mechanism, study.task, choice
    )
    whole, alone = [], []
    with tempfile.TemporaryDirectory() as folder, drawing(ahead=device.is_apart) as pool:
        path, shape = Path(folder) / "images.f16", (patients, channels, *size)
        np.random.default_rng(0).random(shape, dtype=np.float32).astype(np.float16).tofile(path)
        images = np.memmap(path, np.float16, "r", shape=shape)
        for turn in range(ROUNDS + 1):
            streams = RoundStreams(bytes([turn]) * 32)
            how: dict[str, Any] = {"streams": streams, "step": 0, "tile": choice.tile}
            start = time.perf_counter()
            stream = streams.stream("noise")
            count = sums.over([]).numel()
            noise = stream if pool is None else DrawnAhead(stream, count, pool)
            drawn = draw(study, mechanism, images, everyone, **how, device=device)
            noised(sums.over(drawn), mechanism, noise)
            device.finish()
            taken = 1e3 * (time.perf_counter() - start)
            batches = [*draw(study, mechanism, images, everyone, **how, device=device)]
            device.finish()
            start = time.perf_counter()
            sums.over(batches)
            device.finish()
            if turn:
                whole.append(taken)
                alone.append(1e3 * (time.perf_counter() - start))
    return whole, alone


def main(given: list[str]) -> int:
    """Print the lines of a device, or of those that are here.

    Returns:
        1 where a claim does not hold; of a try, whether it fits.
    """
    if given[:1] == ["--fits"]:
        model, device, precision, contender, batch = given[1:]
        return _fits(Run(model, device, precision), contender, int(batch))  # type: ignore[arg-type] # our own words
    here: list[DeviceName] = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    asked = [device for device in here if device in (given or here)]
    runs = [Run(model, device, kind) for device in asked for model, kind in RUNS[device]]
    held = [report(run) for run in runs]  # all of them, also after one that does not hold
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
