"""The simulation's engine beside Flower's, the same apps under both; and whole commands.

Some eight minutes on two processors. ``python -m benchmarks.simulation large`` runs a round of
10,000 hospitals instead, which takes half an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import tomli_w

from benchmarks._medmnist import data_file
from benchmarks.engines.apps import size_of_cnn
from simulations.hospitals.array_writer import write_array_hospitals
from simulations.hospitals.npz import read_source, write_divided
from simulations.partitions.divided import Part

TINY: Final[dict[str, dict[str, Any]]] = {
    "study": {"name": "tiny", "title": "A private step of a tiny network"},
    "task": {"classes": ["normal", "pneumonia"]},
    "data": {"dataset": "squares", "modalities": ["DX"], "image_size": [28, 28]},
    "model": {"name": "cnn", "widths": [4], "norm": "none"},
    "training": {"rounds": 3, "local_steps": 1, "batch_size": 8, "learning_rate": 0.1},
    "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
    "evaluation": {"rounds": "none"},
    "aggregation": {"strategy": "fedavg"},
}
WIDE: Final = {
    "name": "cnn",
    "widths": [8, 16],
    "norm": "none",
    "pooling": "flatten",
    "hidden": 300,
}
"""Some 240,000 weights."""
WHOLE: Final[dict[str, dict[str, Any]]] = {
    "study": {"name": "whole", "title": "A whole command"},
    "task": {"classes": ["normal", "pneumonia"]},
    "data": {"dataset": "pneumoniamnist", "modalities": ["DX"], "image_size": [28, 28]},
    "model": {"name": "cnn", "widths": [16, 32], "norm": "group"},
    "training": {"rounds": 5, "local_steps": 20, "batch_size": 64, "learning_rate": 0.1},
    "privacy": {"mode": "none"},
    "evaluation": {"rounds": "none"},
    "aggregation": {"strategy": "fedavg"},
}
ROOT: Final = Path(__file__).resolve().parent.parent
PATIENTS: Final = 20


def say(name: str, ours: float, peer: float | None, unit: str) -> None:
    """Print a comparison; the ratio is how many times the peer's figure ours is."""
    line = {
        "name": name,
        "ours": round(ours, 6),
        "peer": None if peer is None else round(peer, 6),
        "ratio": None if peer is None else round(ours / peer, 4),
        "unit": unit,
    }
    print(json.dumps(line), flush=True)


def measured(engine: str, sites: int, parameters: int, rounds: int, kind: str) -> dict[str, float]:
    """Seconds of a later round, of a client, and from the command to the end of the first round."""
    asked = {"engine": engine, "sites": sites, "parameters": parameters, "rounds": rounds}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.engines.child"]
    begun = time.time()
    done = subprocess.run(
        [*command, json.dumps(asked | {"client": kind})],
        cwd=ROOT,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    later = median(found["rounds"][1:] or found["rounds"])
    return {"round": later, "client": later / sites, "first": found["ended"] - begun}


def squares(folder: Path, sites: int) -> Path:
    """So many hospitals of twenty patients."""

    def part(patients: int, seed: int) -> Part:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, patients)
        images = rng.integers(0, 150, (patients, 28, 28)) + 80 * labels[:, None, None]
        return Part(images.astype(np.uint8), labels.astype(np.int64), np.arange(patients))

    write_array_hospitals(
        folder,
        {f"site-{number:05d}": part(PATIENTS, number) for number in range(sites)},
        part(100, sites),
        {
            "kind": "arrays",
            "seed": 0,
            "dataset": "squares",
            "redraws": 0,
            "classes": ["normal", "pneumonia"],
        },
        split=(0.9, 0.1, 0.0),
    )
    return folder


def run(study: Path, hospitals: Path, out: Path, *more: str) -> dict[str, float]:
    """A whole command: its seconds, those before the first round, of a round, and its memory."""
    words = ["run", study, "--hospitals", hospitals, "--out", out, "--no-baselines", "--no-package"]
    command = [sys.executable, "-W", "ignore", "-m", "simulations.cli.app", *map(str, words), *more]
    begun = time.time()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.time() - begun
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    lines = (out / "coordinator" / "rounds.jsonl").read_text().splitlines()
    rounds = [float(json.loads(line)["seconds"]) for line in lines]
    return {
        "whole": whole,
        "round": median(rounds),
        "start": whole - sum(rounds),  # and the report, which takes as long for any number
        "memory": usage.ru_maxrss / 1024,
    }


def engines() -> None:
    """Ours and Flower's, the same apps."""
    few = {each: measured(each, 100, 10_000, 4, "nothing") for each in ("process", "flower")}
    say("a client that does nothing, 100 sites", *_pair(few, "client"), "s a client")
    say("command to the end of the first round", *_pair(few, "first"), "s")
    many = {each: measured(each, 1000, 10_000, 3, "nothing") for each in ("process", "flower")}
    say("a client that does nothing, 1,000 sites", *_pair(many, "client"), "s a client")
    for engine in ("process", "flower"):
        name = f"{engine}: a client at 1,000 sites over one at 100"
        say(name, many[engine]["client"], few[engine]["client"], "s a client")
    large = {each: measured(each, 20, 11_200_000, 3, "nothing") for each in ("process", "flower")}
    say("a client that does nothing, 11.2 million weights", *_pair(large, "client"), "s a client")
    cnn = {each: measured(each, 100, size_of_cnn(), 3, "cnn") for each in ("pool", "flower")}
    say("a small CNN, 64 images, 2 steps, 100 sites", *_pair(cnn, "round"), "s a round")


def _pair(found: dict[str, dict[str, float]], name: str) -> tuple[float, float]:
    ours = next(each for each in found if each != "flower")
    return found[ours][name], found["flower"][name]


def private(folder: Path) -> None:
    """Private steps with all gates, and what a thousand hospitals take."""
    study = folder / "tiny.toml"
    study.write_text(tomli_w.dumps(TINY))
    hundred, thousand = squares(folder / "hundred", 100), squares(folder / "thousand", 1000)
    found = {}
    for grid in ("process", "pool"):
        found[grid] = run(study, hundred, folder / grid, "--grid", grid)
    kept = run(study, hundred, folder / "kept", "--grid", "process", "--keep-records")
    say(
        "a private step, records in memory over on disk",
        found["process"]["round"] / 100,
        kept["round"] / 100,
        "s a site and round",
    )
    say(
        "a private step, two processes over one",
        found["pool"]["round"] / 100,
        found["process"]["round"] / 100,
        "s a site and round",
    )
    many = run(study, thousand, folder / "many", "--grid", "process")
    say(
        "a private step at 1,000 sites over one at 100",
        many["round"] / 1000,
        found["process"]["round"] / 100,
        "s a site and round",
    )
    say("starting 1,000 sites over 100", many["start"], found["process"]["start"], "s")
    wide = folder / "wide.toml"
    wide.write_text(
        tomli_w.dumps(TINY | {"model": WIDE, "training": TINY["training"] | {"rounds": 1}})
    )
    heavy = run(wide, thousand, folder / "heavy", "--grid", "process")
    light = run(wide, hundred, folder / "light", "--grid", "process")
    say("memory, 1,000 sites of 240,000 weights over 100", heavy["memory"], light["memory"], "MiB")


def whole(folder: Path) -> None:
    """A study of PneumoniaMNIST as a command, over a plain loop."""
    data, study = data_file("pneumoniamnist"), folder / "whole.toml"
    study.write_text(tomli_w.dumps(WHOLE))
    write_divided(folder / "hospitals", read_source(data), sites=4, alpha=0.5, seed=0)
    begun = time.time()
    loop = [sys.executable, "-m", "benchmarks.engines.plain_loop", str(data)]
    subprocess.run(loop, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    plain = time.time() - begun
    for name in ("first time", "again"):
        found = run(study, folder / "hospitals", folder / name)
        say(f"PneumoniaMNIST, the whole command, {name}", found["whole"], plain, "s")


def large(folder: Path) -> None:
    """A round of ten thousand hospitals over one of a thousand."""
    study = folder / "tiny.toml"
    study.write_text(tomli_w.dumps(TINY | {"training": TINY["training"] | {"rounds": 1}}))
    found = {
        sites: run(
            study, squares(folder / f"{sites}", sites), folder / f"run-{sites}", "--grid", "pool"
        )
        for sites in (1000, 10_000)
    }
    for name, unit in (("round", "s a site and round"), ("start", "s a site")):
        few, many = found[1000][name] / 1000, found[10_000][name] / 10_000
        say(f"10,000 hospitals over 1,000: {name}", many, few, unit)
    say(
        "10,000 hospitals over 1,000: memory", found[10_000]["memory"], found[1000]["memory"], "MiB"
    )


def main() -> None:
    """Everything but the ten thousand, or these alone."""
    with tempfile.TemporaryDirectory() as name:
        if sys.argv[1:] == ["large"]:
            large(Path(name))
            return
        engines()
        private(Path(name))
        whole(Path(name))


if __name__ == "__main__":
    main()
