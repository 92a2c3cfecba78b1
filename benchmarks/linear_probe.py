"""Epoch two of a linear probe at 224 x 224, over epoch one: ``python -m benchmarks.linear_probe``.

One hospital of drawn radiographs, through all of its gates, charges and signatures: the network
of ``efficientnet_lite0`` is frozen, its head trained at epsilon 8, and a round is an epoch of eight
steps. In the first the site computes each image's features, from then on it reads them. The images
are decoded before, and the frozen weights are random: neither changes what is compared.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from client.administration import service
from client.requests.handler import answer
from client.site import Site, open_site
from common.files import canonical_json
from common.models.networks import initial_weights, split, trained_count
from common.plan import Offer, write_plan
from common.process.progress import silent
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Reply, Request, content_hash
from simulations.hospitals.synth import Size, write_synthetic

PIXELS: Final = 224
PATIENTS: Final = 160
"""Of whom 0.8 are trained on."""
STEPS: Final = 8
EPOCHS: Final = 4
SEED: Final = 1
STUDY: Final[dict[str, dict[str, Any]]] = {
    "study": {"name": "probe", "title": "A head on a frozen network"},
    "task": {"classes": ["normal", "pneumonia"]},
    "data": {"dataset": "chest-xray", "modalities": ["DX", "CR"], "image_size": [PIXELS, PIXELS]},
    "model": {"name": "efficientnet_lite0", "trainable": ["head"]},
    "training": {"rounds": EPOCHS, "local_steps": STEPS, "batch_size": PATIENTS // 10},
    "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
    "evaluation": {"rounds": "none"},
}


def asked(site: Site, request: Request) -> Reply:
    """What the site answers.

    Raises:
        SystemExit: it refuses, or is silent.
    """
    reply = answer(site, request)
    if reply is None or reply.code != "ok":
        raise SystemExit(f"{request.purpose}: {reply.code if reply else 'silence'}")
    return reply


def epochs(site: Site, study: Study) -> list[float]:
    """Seconds of each."""
    name, ledger = study.study.name, LedgerHead()
    document = canonical_json(study.model_dump(mode="json")).decode()
    offer = asked(site, Request(name, "", 0, "offer", document=document)).document
    trained, frozen = split(study, initial_weights(study, SEED))
    plan = write_plan(
        study,
        Offer.model_validate_json(offer),
        trained_count(study),
        content_hash(frozen),
    )
    asked(site, Request(name, plan.hash, 0, "propose", document=plan.text))
    asked(site, Request(name, plan.hash, 0, "provide", arrays=frozen))
    service.approve(site, name, by="benchmark")
    found = []
    for number in range(1, EPOCHS + 1):
        request = Request(name, plan.hash, number, "train", arrays=trained, ledger=ledger)
        start = time.perf_counter()
        asked(site, request)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Print one line of JSON."""
    study = Study.model_validate(STUDY)
    with tempfile.TemporaryDirectory() as folder:
        size = Size(patients=PATIENTS, test_patients=2, pixels=PIXELS, sites=1)
        write_synthetic(Path(folder), size, seed=SEED, progress=silent)
        (path,) = Path(folder).glob("*/site.toml")
        threads = len(os.sched_getaffinity(0))
        with open_site(path, known_seed=SEED, threads=threads) as site:
            first, *later = epochs(site, study)
    name = f"epoch of a linear probe at {PIXELS} x {PIXELS}: second and later over first"
    ours, peer = median(later), first
    print(
        json.dumps(
            {
                "name": name,
                "ours": round(ours, 4),
                "peer": round(peer, 4),
                "ratio": round(peer / ours, 1),
                "unit": "s",
                "wanted": 30,
            }
        )
    )


if __name__ == "__main__":
    main()
