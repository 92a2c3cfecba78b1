"""A result written by hand, from which pictures and report can be drawn without a run."""

from __future__ import annotations

import math

import pytest

from common.numerics import EngineChoice, NumericsRecord
from common.package.statement import Figure
from common.tasks.classification import Classification
from simulations.reports.plots import Plot, draw_all
from simulations.reports.result import (
    CurvePoint,
    FederatedEvaluation,
    HospitalsFacts,
    Kind,
    Line,
    Outcome,
    Result,
    ResultMetrics,
    Seeds,
    SiteFacts,
    SiteFigure,
    StudyFacts,
)

SITES = ("east", "north", "south", "west")
ROUNDS = 60
SCORES = [cell / 10 + 0.05 for cell in range(10)]


def figure(value: float, half_width: float = 0.03) -> Figure:
    return Figure(value=value, low=value - half_width, high=min(1.0, value + half_width))


def metrics(auc: float) -> ResultMetrics:
    return ResultMetrics(
        patients=400,
        headline="auc",
        figures={
            "auc": figure(auc),
            "accuracy": figure(auc - 0.08),
            "sensitivity": figure(auc - 0.05, 0.05),
            "specificity": figure(auc - 0.11, 0.05),
            "f1": figure(auc - 0.09),
            "calibration_error": figure(0.06, 0.02),
        },
    )


def outcome(kind: Kind, auc: float, site: str | None = None) -> Outcome:
    power = (1 - auc) / auc
    return Outcome(
        kind=kind,
        site=site,
        learning_rate=0.5,
        epsilon=7.99 if kind in {"shared", "alone-private"} else None,
        weights_sha256="ab" * 32,
        metrics=metrics(auc),
        curve=tuple(
            CurvePoint(
                round=number,
                value=0.5 + (auc - 0.5) * (1 - math.exp(-number / 12)),
            )
            for number in range(3, ROUNDS + 1, 3)
        ),
        series={
            "roc": (
                Line(
                    label="opacity",
                    points=tuple((step / 40, (step / 40) ** power) for step in range(41)),
                ),
            ),
            "calibration": (
                Line(
                    label="opacity",
                    points=tuple((score, score**1.2) for score in SCORES),
                    ends=tuple((score**1.2 - 0.05, score**1.2 + 0.05) for score in SCORES),
                ),
            ),
        },
    )


def site(epsilon: float) -> SiteFacts:
    return SiteFacts(
        declared_patients=220,
        weight=220,
        share=0.25,
        epsilon_training=epsilon,
        epsilon_evaluation=0.79,
        noise_multiplier=1.9,
        sampling_rate=0.29,
        spent=tuple(
            (number, epsilon * math.sqrt(number / ROUNDS)) for number in range(3, ROUNDS + 1, 3)
        ),
        plan_hash="cd" * 32,
    )


@pytest.fixture(scope="session")
def made_plots(made_result: Result) -> tuple[Plot, ...]:
    """Its pictures, drawn once."""
    return draw_all(made_result)


@pytest.fixture(scope="session")
def made_result() -> Result:
    """Four hospitals, shared AUC 0.90, alone 0.78 to 0.84 private, pooled 0.95."""
    shared = outcome("shared", 0.90)
    return Result(
        warnings=("NOT PRIVATE: KNOWN KEY (a simulation, or a daemon set up as one)",),
        study=StudyFacts(
            name="demo",
            title="Opacities on synthetic chest radiographs",
            sha256="12" * 32,
            task="classification",
            classes=("clear", "opacity"),
            figures=tuple(Classification.names.items())[:6],
            rounds=ROUNDS,
            local_steps=2,
            batch_size=64,
            learning_rate=0.5,
            model="cnn",
            weights=5234,
            strategy="fedavgm",
            average_decay=0.9,
            privacy="patient",
            epsilon=8.0,
            clip_norm=1.0,
        ),
        hospitals=HospitalsFacts(
            kind="synth", seed=0, sha256="34" * 32, facts=("The pictures are of nobody.",)
        ),
        final_weights_sha256="ab" * 32,
        numerics={
            name: NumericsRecord(
                threads=1,
                choice=EngineChoice(tile=64),
                cpu_capability="AVX2",
                versions={"torch": "2.13.0", "numpy": "2.2.0"},
            )
            for name in SITES
        },
        metrics=shared.metrics,
        shared=shared,
        federated_evaluation=(
            FederatedEvaluation(
                round=ROUNDS,
                figures={
                    "auc": figure(0.88, 0.09),
                    "accuracy": figure(0.80, 0.1),
                    "sensitivity": figure(0.9, 0.15),
                    "specificity": Figure(
                        value=0.7,
                        low=0.2,
                        high=1.0,
                        meaningful=False,
                        why="noise exceeds signal: 9 patients of class clear "
                        "read through noise of ±31",
                    ),
                    "f1": figure(0.8, 0.12),
                    "calibration_error": Figure(
                        value=None,
                        low=0.0,
                        high=1.0,
                        meaningful=False,
                        why="too few patients: 3 patients",
                    ),
                },
            ),
        ),
        at_sites={
            name: SiteFigure(patients=40 + number, figure=figure(0.7 + number / 20, 0.1))
            for number, name in enumerate(SITES)
        },
        per_site={name: site(7.999 - number / 1000) for number, name in enumerate(SITES)},
        epsilon=dict.fromkeys(SITES, 7.999),
        delta=1e-5,
        baselines=(
            *(outcome("alone-private", 0.78 + n / 50, name) for n, name in enumerate(SITES)),
            *(outcome("alone", 0.83 + n / 50, name) for n, name in enumerate(SITES)),
            outcome("pooled", 0.95),
        ),
        versions={"consilium": "0.1.0", "flwr": "1.41.0"},
        seeds=Seeds(run=0, hospitals=0),
        seconds={"decode": 12.0, "rounds": 60.5, "baselines": 90.0},
        command="consilium-sim demo --out runs/demo",
    )
