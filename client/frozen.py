"""Frozen weights: the public part of a study's model that no round changes.

They come once, after the plan is approved, and the approval holds for them: the plan has their
hash. They are kept under that hash until no running plan names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import Refusal, RefusalCode
from common.files import write_atomic
from common.plan import Plan
from common.wire.messages import content_hash

Flat = npt.NDArray[np.float32]
_STORED = "<f4"


@dataclass(frozen=True)
class FrozenWeights:
    """Where a site keeps them.

    Attributes:
        folder: in the state folder; made when there is something to keep.
    """

    folder: Path

    def keep(self, plan: Plan, arrays: Flat | None) -> None:
        """Keep what came for a plan.

        Raises:
            Refusal: ``malformed``: they are not those that the plan names, or it names none.
        """
        if arrays is None or not plan.frozen or content_hash(arrays) != plan.frozen:
            raise Refusal(
                RefusalCode.MALFORMED,
                "the frozen weights are not those of the plan",
                found="none" if arrays is None else content_hash(arrays)[:16],
                wanted=plan.frozen[:16] or "none",
            )
        if not np.isfinite(arrays).all():
            raise Refusal(RefusalCode.MALFORMED, "the frozen weights are not all finite")
        if not self._path(plan.frozen).exists():
            write_atomic(self._path(plan.frozen), arrays.astype(_STORED).tobytes(), mode=0o600)

    def has(self, plan: Plan) -> bool:
        """Whether those of a plan have come."""
        return bool(plan.frozen) and self._path(plan.frozen).exists()

    def of(self, plan: Plan) -> Flat | None:
        """Those of a plan; None where it trains all weights.

        Raises:
            Refusal: ``not-approved``: they have not come yet, or were damaged.
        """
        if not plan.frozen:
            return None
        try:
            found = np.frombuffer(self._path(plan.frozen).read_bytes(), dtype=_STORED)
        except FileNotFoundError:
            found = np.zeros(0, dtype=_STORED)
        found = found.astype(np.float32)
        if content_hash(found) != plan.frozen:
            self._path(plan.frozen).unlink(missing_ok=True)
            raise Refusal(
                RefusalCode.NOT_APPROVED, "the frozen weights of the plan have not arrived"
            )
        return found

    def tidy(self, running: Iterable[Plan]) -> None:
        """Delete what no running plan names."""
        named = {plan.frozen for plan in running}
        for path in self.folder.glob("*"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self.folder / digest
