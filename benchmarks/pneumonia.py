"""The shipped pneumonia studies over five divisions of PneumoniaMNIST into four hospitals.

``python -m benchmarks.pneumonia [STUDY ...]``

The convolutional network's study is also run at epsilon 3 and 1, all else being the same.

The peer is the published ResNet-18 of MedMNIST v2 (Yang et al. 2023, table 4, images of 28
pixels), trained in one place without privacy: AUC 0.944, accuracy 0.854.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import tomli_w

from benchmarks._medmnist import compare
from common.study.study_file import load_study
from simulations.cli.studies import find_study

LINEAR: Final = ("pneumonia", "pneumonia-epsilon3", "pneumonia-epsilon1")
CNN: Final = "pneumonia-cnn"
PUBLISHED: Final = {"AUC": 0.944, "accuracy": 0.854}
CLAIMS: Final = {
    ("pneumonia", "AUC"): 0.944,
    ("pneumonia", "accuracy"): 0.854,
    ("pneumonia-epsilon3", "AUC"): 0.935,
    ("pneumonia-epsilon3", "accuracy"): 0.854,
    ("pneumonia-epsilon1", "AUC"): 0.900,
}


def at_epsilon(epsilon: float, folder: Path) -> Path:
    """A file of the convolutional network's study with another epsilon."""
    document = load_study(find_study(CNN)).model_dump(mode="json", exclude_none=True)
    document["privacy"]["epsilon"] = epsilon
    path = folder / f"{CNN}-epsilon{epsilon:g}.toml"
    path.write_text(tomli_w.dumps(document))
    return path


def main(names: list[str]) -> int:
    """Print what the studies reach.

    Args:
        names: of those to run; none for all.

    Returns:
        1 where a claim is missed.
    """
    with tempfile.TemporaryDirectory() as folder:
        others = (at_epsilon(each, Path(folder)) for each in (3.0, 1.0))
        studies: dict[str, str | Path] = {name: name for name in (*LINEAR, CNN)}
        studies |= {path.stem: path for path in others}
        chosen = {name: studies[name] for name in names or studies}
        return compare("pneumoniamnist", chosen, PUBLISHED, CLAIMS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
