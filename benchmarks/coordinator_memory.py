"""What another site costs the coordinator in memory: this package beside Flower's strategy.

Ours is two rounds of a study over a grid in the process: asking, verifying, folding, the
server optimiser's step and the checkpoint, with 4 and with 64 sites whose updates are made
when they are pulled. Flower's is one ``FedAvg.aggregate_train`` on the replies of 4 and of
16 sites, which it takes as a list; 64 would need more memory than a laptop has. Each
measurement is the peak resident memory of a process of its own, less what it had before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import structlog

WEIGHTS: Final = 11_000_000
"""About those of a resnet18."""
FEW, MANY, PEER_MANY = 4, 64, 16
MOST_GROWTH: Final = 0.5
"""MiB that another site may cost: a site's names, hashes and plan, and no array."""
ROUNDS: Final = 2
STUDY: Final = {
    "study": {"name": "memory", "title": "Nothing to learn"},
    "task": {"classes": ["no", "yes"]},
    "data": {"dataset": "none", "modalities": ["DX"], "image_size": [64, 64]},
    "model": {"name": "resnet18"},
    "training": {"rounds": ROUNDS, "batch_size": 16, "learning_rate": 0.1},
    "privacy": {"mode": "none"},
    "evaluation": {"rounds": "none"},
}


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(strategy: str, sites: int) -> float:
    """MiB that a study of ``sites`` sites adds to this process at its peak."""
    from common.checkpoint import Checkpoint, write
    from common.numerics import EngineChoice, NumericsRecord
    from common.plan import Offer, write_plan
    from common.study.study_file import Study
    from common.wire.flower import Context, Message, context
    from common.wire.messages import Reply, reply_to_record, request_from_record
    from common.wire.signing import SigningKey
    from server.study.context import StudyContext
    from server.study.rounds import run_rounds
    from simulations.grids.in_process import LocalGrid

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    study = Study.model_validate(STUDY | {"aggregation": {"strategy": strategy}})
    names = [f"site-{number:02d}" for number in range(sites)]
    keys = {name: SigningKey(hashlib.sha256(name.encode()).digest()) for name in names}
    numerics = NumericsRecord(
        threads=1,
        choice=EngineChoice(),
        cpu_capability="any",
        versions={},
    )
    offers = {
        name: Offer(
            site=name,
            public_key=keys[name].public,
            declared_patients=100,
            most_patients=200,
            known_key=True,
            numerics=numerics,
        )
        for name in names
    }
    plans = {name: write_plan(study, offer, WEIGHTS) for name, offer in offers.items()}
    random = np.random.default_rng(0)

    def client(message: Message, node: Context) -> Message:
        request, name = request_from_record(message.content), str(node.node_config["site"])
        reply = Reply(
            site=name,
            request=request.identity,
            study=request.study,
            plan_hash=request.plan_hash,
            round=request.round,
            purpose=request.purpose,
            arrays=random.integers(-(2**20), 2**20, size=WEIGHTS, dtype=np.int32),
        )
        signed = reply.with_signature(keys[name].sign(reply.signed_bytes))
        return Message(reply_to_record(signed), reply_to=message)

    nodes = {
        number: (name, context(1, number, node={"site": name}, run={}))
        for number, name in enumerate(names)
    }
    roster = {name: keys[name].public for name in names}
    start = Checkpoint("memory", 0, {}, 0, np.zeros(WEIGHTS, dtype=np.float32))
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        run_rounds(
            StudyContext(LocalGrid(client, nodes), roster, "1h"),
            study,
            plans,
            unavailable={},
            state=start,
            save=lambda state: write(Path(folder), state),
        )
    return peak_mib() - before


def peer(sites: int) -> float:
    """MiB that Flower's FedAvg, fed with all replies, adds to this process at its peak."""
    from common.wire.flower import Array, ArrayRecord, Message, RecordDict, identify

    # isort: split
    from flwr.app import MetricRecord
    from flwr.serverapp.strategy import FedAvg

    identify(1)
    random = np.random.default_rng(0)
    before = peak_mib()
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord(
                        {"flat": Array(random.random(size=WEIGHTS, dtype=np.float32))}
                    ),
                    "metrics": MetricRecord({"num-examples": 100}),
                }
            ),
            0,
            "train",
        )
        for _ in range(sites)
    ]
    FedAvg().aggregate_train(1, replies)
    return peak_mib() - before


def measure(*arguments: str) -> float:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.coordinator_memory", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Print one line of JSON for each strategy; 1 if memory grows with the sites."""
    worst = 0.0
    flowers = (measure("peer", str(PEER_MANY)) - measure("peer", str(FEW))) / (PEER_MANY - FEW)
    for strategy in ("fedavg", "fedadam"):
        few, many = (measure(strategy, str(sites)) for sites in (FEW, MANY))
        growth = (many - few) / (MANY - FEW)
        result = {
            "name": f"coordinator memory per further site, {strategy}, {WEIGHTS} weights, "
            f"{FEW} to {MANY} sites ({few:.0f} and {many:.0f} MiB in all); "
            f"peer: Flower's FedAvg.aggregate_train, {FEW} to {PEER_MANY} sites",
            "ours": round(growth, 3),
            "peer": round(flowers, 3),
            "ratio": round(growth / flowers, 5),
            "unit": "MiB per site",
        }
        print(json.dumps(result), flush=True)
        worst = max(worst, growth)
    return int(worst > MOST_GROWTH)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", number]:
            print(peer(int(number)))
        case [name, number]:
            print(ours(name, int(number)))
        case _:
            sys.exit(main())
