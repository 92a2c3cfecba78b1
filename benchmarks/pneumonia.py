"""The shipped pneumonia studies over five divisions of PneumoniaMNIST into four hospitals.

The peer is the published ResNet-18 of MedMNIST v2 (Yang et al. 2023, table 4, images of 28
pixels), trained in one place without privacy: AUC 0.944, accuracy 0.854.
"""

from __future__ import annotations

import sys

from benchmarks._medmnist import compare

STUDIES = ("pneumonia", "pneumonia-epsilon3", "pneumonia-epsilon1")
PUBLISHED = {"AUC": 0.944, "accuracy": 0.854}
CLAIMS = {
    ("pneumonia", "AUC"): 0.944,
    ("pneumonia", "accuracy"): 0.854,
    ("pneumonia-epsilon3", "AUC"): 0.935,
    ("pneumonia-epsilon3", "accuracy"): 0.854,
    ("pneumonia-epsilon1", "AUC"): 0.900,
}


def main() -> int:
    """Print what the studies reach.

    Returns:
        1 where a claim is missed.
    """
    return compare("pneumoniamnist", STUDIES, PUBLISHED, CLAIMS)


if __name__ == "__main__":
    sys.exit(main())
