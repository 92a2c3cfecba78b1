"""What an audit found: the schema of ``audit.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from common.settings import Section
from simulations.reports.result import write_readable

FORMAT: Final = 1
FILE: Final = "audit.json"


class LowerBound(Section):
    """A lower bound on epsilon.

    Attributes:
        name: what is bounded and from what.
        epsilon: at least this much, with the confidence.
        confidence: of this bound alone.
        assumes: what it takes for granted.
        source: the paper that describes the method.
        detail: the counts that it follows from.
    """

    name: str
    epsilon: float
    confidence: float
    assumes: str
    source: str
    detail: str


class Bounded(Section):
    """A claim, and the lower bounds that an audit found.

    Attributes:
        claimed: epsilon of the whole training, by the account.
        delta: of the claim.
        bounds: all hold at once with the audit's confidence.
    """

    claimed: float
    delta: float
    bounds: tuple[LowerBound, ...]

    @property
    def empirical(self) -> float:
        """The largest of the bounds."""
        return max(bound.epsilon for bound in self.bounds)

    @property
    def survived(self) -> bool:
        """Whether no bound reaches the claim."""
        # A bound equal to the claim breaks it: the true epsilon is at least the bound.
        return self.empirical < self.claimed


class MechanismFinding(Bounded):
    """What the mechanism audit found at one site.

    Attributes:
        site: whose mechanism it is.
        sampling_rate: probability that a patient takes part in a step.
        noise_multiplier: standard deviation of a step's noise over the clip norm.
        steps: of the whole study.
        canaries: in each repetition.
        repetitions: tiny studies; the first quarter only chose how to guess.
    """

    site: str
    sampling_rate: float
    noise_multiplier: float
    steps: int
    canaries: int
    repetitions: int


class Check(Section):
    """A property that the guarantee rests on, tried out.

    Attributes:
        name: which.
        site: at which site, where it depends on one.
        wanted: what has to hold, in plain words.
        found: what was found.
        passed: whether it held.
    """

    name: str
    site: str | None = None
    wanted: str
    found: str
    passed: bool


class Membership(Section):
    """How well members can be told from others, independent of what that proves.

    Attributes:
        members: scored canaries that were in.
        others: scored canaries that were out.
        auc: area under the curve.
        caught: true positive rate at each false positive rate.
        points: false and true positive rates, ascending.
    """

    members: int
    others: int
    auc: float
    caught: tuple[tuple[float, float], ...]
    points: tuple[tuple[float, float], ...]


class OneRunFinding(Bounded):
    """What the one-run audit found of the study as it really runs; claimed is the largest by site.

    Attributes:
        kind: of canary.
        canaries: in and out, over all sites and runs.
        inserted: of those, who were in.
        sites: where they were.
        runs: independent runs of the study.
        ceiling: the most that this number of canaries can show, if every guess is right.
        membership: the curve beside them.
    """

    kind: str
    canaries: int
    inserted: int
    sites: tuple[str, ...]
    runs: int
    ceiling: float
    membership: Membership


class Findings(Section):
    """A finished audit."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    study: str
    title: str
    study_sha256: str
    warnings: tuple[str, ...]
    confidence: float
    one_run: OneRunFinding | None
    mechanism: tuple[MechanismFinding, ...]
    checks: tuple[Check, ...]
    seed: int
    seconds: dict[str, float]
    versions: dict[str, str]
    command: str

    @property
    def survived(self) -> bool:
        """Whether nothing that was tried broke the claim."""
        whole = self.one_run is None or self.one_run.survived
        pieces = all(each.survived for each in self.mechanism)
        return whole and pieces and all(each.passed for each in self.checks)


def write_findings(folder: Path, findings: Findings) -> Path:
    """Write ``audit.json``."""
    document = findings.model_dump(mode="json") | {"survived": findings.survived}
    return write_readable(folder / FILE, document)
