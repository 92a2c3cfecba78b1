"""A small study, and sites that sign what anyone can compute: the coordinator's whole world."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common.files import sha256
from common.numerics import EngineChoice, NumericsRecord, Ticks
from common.plan import Offer, read_plan
from common.process.killpoints import VARIABLE
from common.wire.flower import ClientApp, Context, Message, context
from common.wire.messages import LedgerHead, Reply, Request, reply_to_record, request_from_record
from common.wire.signing import SigningKey
from server.app import build
from server.study.context import nobody
from simulations.grids.in_process import LocalGrid

STUDY = """
[study]
name = "small"
title = "Nothing to learn"
[task]
classes = ["normal", "pneumonia"]
[data]
dataset = "chest-xray"
modalities = ["DX"]
min_patients = 50
image_size = [8, 8]
[model]
name = "cnn"
widths = [2]
hidden = {hidden}
[training]
rounds = {rounds}
batch_size = 16
learning_rate = 0.1
[privacy]
mode = "none"
[evaluation]
rounds = {evaluations}
[aggregation]
round_timeout = "0.3s"
min_sites = 2
"""
Alter = Callable[[str, Request, Reply], Reply]


def as_is(_site: str, _request: Request, reply: Reply) -> Reply:
    """The reply of a site that behaves."""
    return reply


@dataclass
class World:
    """One study, its sites and its run folder.

    Attributes:
        folder: of the run.
        aggregation: lines added to the study's last section.
        patients: declared by each site.
        agreed: with each site; what it declares, where nothing is said.
        ticks: of each site that waits before it replies.
        alter: what becomes of a reply after it was signed.
        grid_type: how messages travel.
        hidden: width of the model's dense layer.
        rounds: of the study.
        evaluations: after which rounds, as in the study file.
        remembers: whether ``asked`` is filled.
        asked: every request that reached a site, in this process.
    """

    folder: Path
    aggregation: str = ""
    patients: dict[str, int] = field(
        default_factory=lambda: {"north": 100, "south": 60, "west": 210}
    )
    agreed: dict[str, int] | None = None
    ticks: dict[str, Ticks] = field(default_factory=dict)
    alter: Alter = as_is
    grid_type: type[LocalGrid] = LocalGrid
    hidden: int = 0
    rounds: int = 4
    evaluations: str = "[2, 4]"
    remembers: bool = True
    asked: list[tuple[str, Request]] = field(default_factory=list)

    @property
    def study_file(self) -> Path:
        path = self.folder.with_suffix(".toml")
        settings = {
            "hidden": self.hidden,
            "rounds": self.rounds,
            "evaluations": self.evaluations,
        }
        path.write_text(STUDY.format(**settings) + self.aggregation)
        return path

    def key(self, site: str) -> SigningKey:
        return SigningKey(sha256(site.encode()).encode()[:32])

    def sign(self, reply: Reply) -> Reply:
        return reply.with_signature(self.key(reply.site).sign(reply.signed_bytes))

    def client(self) -> ClientApp:
        app = ClientApp()

        def handle(message: Message, node: Context) -> Message:
            site = str(node.node_config["site"])
            request = request_from_record(message.content)
            if self.remembers:
                self.asked.append((site, request))
            reply = self.sign(self.answer(site, request))
            return Message(reply_to_record(self.alter(site, request, reply)), reply_to=message)

        for question in ("offer", "propose", "amend", "close"):
            app.query(question)(handle)
        app.train()(handle)
        app.evaluate()(handle)
        return app

    def answer(self, site: str, request: Request) -> Reply:
        reply = Reply(
            site=site,
            request=request.identity,
            study=request.study,
            plan_hash=request.plan_hash,
            round=request.round,
            purpose=request.purpose,
            ledger=head(site, request),
        )
        if request.purpose == "offer":
            return replace(reply, document=self.offer(site).model_dump_json())
        if request.purpose == "propose":
            read_plan(request.document)
        elif request.purpose == "train":
            assert request.arrays is not None
            return replace(reply, arrays=update(site, request))
        elif request.purpose == "evaluate":
            return replace(reply, arrays=np.arange(20, dtype=np.int64) // 4)
        return reply

    def offer(self, site: str) -> Offer:
        return Offer(
            site=site,
            public_key=self.key(site).public,
            declared_patients=self.patients[site],
            most_patients=min(2 * self.patients[site], 10**9),
            known_key=True,
            numerics=NumericsRecord(
                threads=1,
                choice=EngineChoice(),
                cpu_capability="any",
                versions={},
                ticks=self.ticks.get(site, Ticks()),
            ),
        )

    def grid(self, order: list[str] | None = None) -> LocalGrid:
        sites = {
            number: (name, context(1, number, node={"site": name}, run={}))
            for number, name in enumerate(self.patients, start=1)
        }
        return self.grid_type(self.client(), sites, order=order)

    def run(
        self,
        *,
        order: list[str] | None = None,
        resume: bool = False,
        seed: int = 0,
        observer: Callable[[str, dict[str, object]], None] = nobody,
    ) -> dict[str, Any]:
        """Run the study to its end; gives its outcome."""
        roster = self.folder.with_suffix(".json")
        roster.write_text(
            json.dumps(
                {
                    site: {"key": self.key(site).public, "patients": {"chest-xray": patients}}
                    for site, patients in (self.agreed or self.patients).items()
                }
            )
        )
        config = {
            "study": str(self.study_file),
            "run": str(self.folder),
            "roster": str(roster),
            "seed": str(seed),
            "resume": "1" if resume else "0",
        }
        grid = self.grid(order)
        build(observer)(grid, context(1, 0, node={}, run=config))
        outcome: dict[str, Any] = json.loads((self.coordinator / "outcome.json").read_bytes())
        return outcome

    def killed_at(self, point: str) -> None:
        """Run the study in a process of its own, which dies at ``point`` as in a power cut."""

        def child() -> None:
            torch.set_num_threads(1)  # a fork has none of the threads that torch waits for
            os.environ[VARIABLE] = point
            self.run()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"{point} was not reached"

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.coordinator / "checkpoints").glob("*.json"))


def head(site: str, request: Request) -> LedgerHead:
    """The ledger of a site that writes down each thing it is asked."""
    length = 2 * request.round + (request.purpose in {"evaluate", "close"})
    if request.purpose in {"offer", "propose"}:  # says how far it has come by now
        length = 100
    return LedgerHead(length, sha256(f"{site} {length}".encode()))


def update(site: str, request: Request) -> npt.NDArray[np.int32]:
    """Noise that follows from the site and the request alone, as a stored reply would."""
    assert request.arrays is not None
    seed = [*site.encode(), request.round, *bytes.fromhex(request.arrays_hash)[:8]]
    units = np.random.default_rng(seed).integers(-(2**20), 2**20, size=request.arrays.size)
    return units.astype(np.int32)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[[str], World]:
    """Builds worlds that share nothing, from lines for ``[aggregation]``."""
    count = itertools.count()

    def make(aggregation: str = "") -> World:
        return World(tmp_path / f"run-{next(count)}", aggregation)

    return make
