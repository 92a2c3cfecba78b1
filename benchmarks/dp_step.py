"""One step of private training beside plain SGD and other ways to clip, on six models.

``python -m benchmarks.dp_step [MODEL ...]``

Every contender forms the gradient of the same batch: plain SGD the plain one, in both layouts
of images in memory, the others the sum of clipped per-patient gradients. First a gate: all
clipped sums must agree. Then all take turns in one process, so that they meet the same
machine; a ratio is the median of the turns' own. Noise is timed in the same turns. Peak memory
is each contender's in a process of its own, tuning included, beyond what the process held before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import torch

from benchmarks.step.contenders import CLIP, CONTENDERS, choose, prepare
from benchmarks.step.models import MODELS, Setting, in_float64
from client.training.noise import noised
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream

AGREE: Final = 1e-6
"""Relative difference of two float64 clipped sums that is rounding (Opacus adds 1e-6 to norms)."""
GATED: Final = 8
"""Patients of the gate's batch."""
THREADS: Final = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Limits:
    """What is claimed of a model: time over plain SGD, speed over Opacus' hooks, peak memory."""

    over_sgd: float
    over_hooks: float
    memory: float = 2.0


LIMITS: Final = {
    "cnn-28": Limits(1.5, 1.8),
    "cnn-128": Limits(1.2, 1.9),
    "resnet18-64": Limits(1.8, 4.0),
    "densenet121-64": Limits(1.5, 1.4),
    "unet-64": Limits(2.0, 2.0),
    "unet-128": Limits(2.0, 2.0),
}
WITH_NOISE: Final = 1.1


def gate(setting: Setting, choice: EngineChoice) -> None:
    """Refuse to time contenders that do not agree, in float64: float32 turns some ReLUs over.

    Raises:
        SystemExit: names the contender and by how much it is off.
    """
    exact = in_float64(setting, GATED)
    sums = {name: prepare(name, exact, choice)() for name in CONTENDERS if "SGD" not in name}
    reference = sums["per-patient loop"]
    for name, found in sums.items():
        apart = float((found - reference).norm() / reference.norm())
        if not apart <= AGREE:
            raise SystemExit(f"{setting.name}: {name} is {apart:.2g} away from the loop")


def timed(setting: Setting, choice: EngineChoice) -> dict[str, list[float]]:
    """Milliseconds a step of every contender and of both kinds of noise, turn by turn.

    In each turn another one begins.
    """
    steps = {name: prepare(name, setting, choice) for name in CONTENDERS}
    total = steps["ours"]()
    steps["ordinary noise"] = lambda: total + torch.randn(total.shape)
    steps["secure noise"] = _secure(total)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = deque(steps)
    for turn in range(setting.turns + 1):
        names.rotate(1)
        for name in names:
            start = time.perf_counter()
            steps[name]()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _secure(total: torch.Tensor) -> Callable[[], torch.Tensor]:
    event = SampledGaussian(sampling_rate=0.5, noise_multiplier=1.0, count=1)
    mechanism = PatientMechanism(
        step=event,
        evaluation=None,
        most_sampled=10**9,
        clip_norm=CLIP,
        divisor=1.0,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=1e-5,
    )
    stream = Stream(bytes(32))
    return lambda: noised(total, mechanism, stream)


def peak(model: str, contender: str) -> float:
    """Peak memory of a contender's first steps, MiB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dp_step", "--peak", model, contender]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(found.stdout.splitlines()[-1])


def _peak_here(model: str, contender: str) -> float:
    setting = MODELS[model]()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: proc(5)
    step = prepare(contender, setting, choose(setting) if contender == "ours" else EngineChoice())
    for _ in range(3):
        step()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def report(model: str) -> bool:
    """Print a model's lines; tells whether what is claimed holds."""
    setting = MODELS[model]()
    choice = choose(setting)
    gate(setting, choice)
    taken, limits = timed(setting, choice), LIMITS[model]
    ours, sgd = taken["ours"], taken["plain SGD"]
    noisy = {
        kind: [step + noise for step, noise in zip(ours, taken[f"{kind} noise"], strict=True)]
        for kind in ("secure", "ordinary")
    }
    memory = [peak(model, name) for name in ("ours", "plain SGD")]
    holds = [_line(f"{model}: step over plain SGD", ours, sgd, at_most=limits.over_sgd)]
    _line(f"{model}: step over plain SGD, channels_last", ours, taken["plain SGD, channels_last"])
    for name in ("Opacus hooks", "Opacus ghost", "per-patient loop"):
        least = limits.over_hooks if name == "Opacus hooks" else None
        holds.append(_line(f"{model}: speed over {name}", ours, taken[name], at_least=least))
    name = f"{model}: step with secure noise over ordinary noise"
    holds.append(_line(name, noisy["secure"], noisy["ordinary"], at_most=WITH_NOISE))
    name = f"{model}: peak memory over plain SGD"
    holds.append(_line(name, memory[:1], memory[1:], at_most=limits.memory, unit="MiB"))
    return all(holds)


def _line(
    name: str,
    ours: list[float],
    peer: list[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "ms",
) -> bool:
    """Print a comparison, its ratio the median of the turns' own; tells whether it holds."""
    faster = name.split(": ")[1].startswith("speed")
    pairs = zip(peer, ours, strict=True) if faster else zip(ours, peer, strict=True)
    ratio = median(one / other for one, other in pairs)
    line: dict[str, str | float] = {
        "name": name,
        "ours": round(median(ours), 2),
        "peer": round(median(peer), 2),
        "ratio": round(ratio, 3),
        "unit": unit,
    }
    line |= {} if at_most is None else {"at_most": at_most}
    line |= {} if at_least is None else {"at_least": at_least}
    print(json.dumps(line), flush=True)
    return (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)


def main() -> int:
    """Print the lines of the models named, or of all.

    Returns:
        1 where a model misses what is claimed of it.
    """
    torch.set_num_threads(THREADS)
    given = sys.argv[1:]
    if given[:1] == ["--peak"]:
        print(_peak_here(given[1], given[2]))
        return 0
    holds = [report(model) for model in given or MODELS]
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
