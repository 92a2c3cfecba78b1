"""Lower-grade glioma at its institutions: pooled, alone, and federated without and with privacy.

The file is that of TCGA-LGG (Buda et al. 2019), its FLAIR channel at 128 x 128 pixels. Each figure
is the Dice of a patient's whole volume, on test patients who are at none of the hospitals. The peer
is the model that is trained on everything in one place without privacy. Published, at 256 x 256
with three channels and by another protocol: a mean of 0.82 to 0.84.

``python -m benchmarks.glioma 128`` does the same at the file's own size, which takes some four
times as long.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Final

import numpy as np
from scipy import stats

from benchmarks._studies import changed
from common.figures.paired import paired
from common.process.logs import configure
from common.process.progress import silent
from simulations.hospitals.masked_npz import Arrays, read_masked, write_masked
from simulations.reports.result import Outcome
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings

FILE: Final = Path(__file__).resolve().parents[2] / "shared/data/lgg_mri/lgg_flair_128.npz"
ARRAYS: Final = Arrays(images="flair", masks="mask_bits", site="institution")
MARGIN: Final = 0.03
"""Less Dice than this is called not worse."""
WRONG: Final = 0.05
"""How often a model that is worse by the margin may be called not worse."""


def main(size: int = 64) -> int:
    """Print a line for each model.

    Args:
        size: height and width of an image.

    Returns:
        1 where federated training without privacy is not shown to be as good as pooled training.
    """
    data = Path(os.environ.get("LGG", FILE))
    if not data.exists():
        print(f"skipped: no {data.name}; LGG=FILE names it", file=sys.stderr)
        return 0
    configure(level="error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = read_masked(data, classes=("tumour",), arrays=ARRAYS, dataset="lgg", modality="MR")
        write_masked(folder / "hospitals", source, seed=0, progress=silent)
        spawn = multiprocessing.get_context("spawn")
        quietly = partial(configure, level="error")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=quietly) as other:
            # Beside the rounds of the first, which leave a core idle.
            private = other.submit(
                run_study, _settings(folder, "lgg-epsilon8", size, baselines=False)
            )
            opened = run_study(_settings(folder, "lgg", size))
        pooled = opened.of_kind("pooled")[0]
        for outcome in opened.of_kind("alone"):
            report(f"{outcome.site} alone, no privacy", outcome, pooled)
        report("federated, no privacy", opened.shared, pooled)
        report("federated, epsilon 8", private.result().shared, pooled)
    return int(not_worse(dices(opened.shared), dices(pooled), MARGIN) > WRONG)


def _settings(folder: Path, study: str, size: int, *, baselines: bool = True) -> RunSettings:
    """A shipped study at another size of its images."""
    sized = {"image_size = [64, 64]": f"image_size = [{size}, {size}]"}
    path = changed(study, sized, folder / f"{study}.toml")
    return RunSettings(path, folder / "hospitals", folder / study, baselines=baselines)


def dices(outcome: Outcome) -> list[float]:
    """The Dice of each test patient, all of whom have a tumour."""
    return [value for value in outcome.each["dice"][0] if value is not None]


def not_worse(ours: list[float], theirs: list[float], margin: float) -> float:
    """How likely our mean would look this good if it were worse by the margin: a one-sided p."""
    apart = np.subtract(ours, theirs)
    return float(stats.ttest_1samp(apart, -margin, alternative="greater").pvalue)


def report(name: str, outcome: Outcome, pooled: Outcome) -> None:
    """Print one comparison, patient by patient."""
    ours, theirs = dices(outcome), dices(pooled)
    difference = paired(ours, theirs)
    assert difference is not None
    line = {
        "name": f"glioma: {name}, against everything pooled without privacy",
        "ours": round(mean(ours), 4),
        "peer": round(mean(theirs), 4),
        "ratio": round(mean(ours) / mean(theirs), 4),
        "unit": "mean Dice of test patients' volumes",
        "median": round(median(ours), 4),
        "peer_median": round(median(theirs), 4),
        "patients": len(ours),
        "difference": round(difference.value or 0.0, 4),
        "interval": [round(difference.low, 4), round(difference.high, 4)],
        f"p_not_worse_by_{MARGIN}": round(not_worse(ours, theirs, MARGIN), 4),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
