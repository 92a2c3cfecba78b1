"""The adversary of the one-run audit: a coordinator that keeps what it sees and looks for canaries.

It sees what any coordinator sees: the weights that it sends and each site's change. It knows, as
the guarantee allows, everything about all other patients. From a change it reads the noised
sum of clipped gradients, takes away what the others are expected to have added, and asks of each
canary how much likelier the rest is with the canary's clipped gradient in it than without (the
matched filter of Neyman and Pearson 1933, for normal noise and normal samples of the others). The
evidence of all rounds is added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call, grad, vmap

from client.data.cohort import Patient
from client.engine.clipped import flat_zeros
from client.training.gradients import loss_of
from client.training.local import learning_rate
from client.training.sampling import Batch
from common.models.networks import build_model, initial_weights, join, load_flat, split
from common.privacy.mechanisms import PatientMechanism
from common.study.study_file import Study, load_initial
from common.wire.messages import OK, reply_from_record, request_from_record
from simulations.audit.parts import clipped_sum

if TYPE_CHECKING:
    from common.wire.flower import Context, Message
    from simulations.grids.grid import Client

# Half a gigabyte of float32.
_MOST_NUMBERS: Final = 2**27
"""Of gradients that are held at once; of larger models the last weights alone are looked at."""
_AT_ONCE: Final = 2**25
_PATIENTS_AT_ONCE: Final = 512
_KNOWN: Final = 200
"""Of the other patients, how many tell how a sample of them varies."""

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One image a patient, with labels.

    Attributes:
        pictures: (patients, channels, height, width) in [0, 1], of any float type.
        labels: index into the study's classes, of each.
    """

    pictures: npt.NDArray[Any]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, images: npt.NDArray[Any], patients: Sequence[Patient]) -> LabelledImages:
        """The first image of each patient of a cohort."""
        return cls(
            images[[one.images[0] for one in patients]], tuple(int(one.label) for one in patients)
        )

    def batches(self, study: Study, size: int) -> Iterator[Batch]:
        """The patients as a step of training works on them, some at a time."""
        for first in range(0, len(self.labels), size):
            part = slice(first, first + size)
            pixels = torch.from_numpy(np.asarray(self.pictures[part], dtype=np.float32))
            pixels = (pixels - study.data.mean) / study.data.std
            yield Batch(
                pixels.unsqueeze(1), torch.tensor(self.labels[part], dtype=torch.int64)[:, None]
            )


class Listener:
    """Scores canaries as a study runs.

    Args:
        study: what runs.
        mechanisms: of each site that has canaries.
        canaries: of each of them.
        others: each site's training patients but for the canaries.
        frozen: flat weights that are not trained; None where all are.

    Attributes:
        scores: evidence that each canary of a site is in, float64, added up over the rounds.
        heard: changes that were listened to.
        failure: why listening ended early, if it did.
    """

    def __init__(
        self,
        study: Study,
        mechanisms: Mapping[str, PatientMechanism],
        canaries: Mapping[str, LabelledImages],
        others: Mapping[str, LabelledImages],
        frozen: Flat | None = None,
    ) -> None:
        self._frozen = frozen
        self._study, self._mechanisms = study, mechanisms
        self._canaries, self._others = canaries, others
        self.scores = {site: np.zeros(len(one.labels)) for site, one in canaries.items()}
        self.heard = 0
        self.failure: Exception | None = None

    def tap(self, client: Client) -> Client:
        """The sites' code, listened to."""

        def answer(message: Message, context: Context) -> Message:
            reply = client(message, context)
            if reply.has_content() and self.failure is None:
                try:
                    self._overhear(message, reply)
                except Exception as error:  # noqa: BLE001 - the grid would blame the site for it
                    self.failure = error
            return reply

        return answer

    def _overhear(self, message: Message, answer: Message) -> None:
        request, reply = request_from_record(message.content), reply_from_record(answer.content)
        if request.purpose != "train" or reply.code != OK or reply.site not in self._canaries:
            return
        assert request.arrays is not None
        assert reply.arrays is not None
        change = self._study.fixed_point.decode(reply.arrays)
        self.hear(reply.site, request.round, np.asarray(request.arrays), change)

    def hear(self, site: str, number: int, weights: Flat, change: npt.NDArray[np.float64]) -> None:
        """Weigh one site's change of one round."""
        study, mechanism = self._study, self._mechanisms[site]
        canaries, others = self._canaries[site], self._others[site]
        known = LabelledImages(others.pictures[:_KNOWN], others.labels[:_KNOWN])
        kept = min(weights.size, _MOST_NUMBERS // (len(canaries.labels) + len(known.labels)))
        weights = join(study, weights, self._frozen)
        # A change is minus the rate times noised sums over the divisor: this undoes it.
        length = learning_rate(study, number) * mechanism.clip_norm
        seen = torch.from_numpy(-change * mechanism.divisor / length).float()
        self.scores[site] += evidence(
            seen[-kept:],
            clipped_gradients(study, weights, canaries, mechanism.clip_norm, kept),
            clipped_gradients(study, weights, known, mechanism.clip_norm, kept),
            summed(study, weights, others, mechanism)[-kept:],
            others=len(others.labels),
            rate=mechanism.step.sampling_rate,
            noise=mechanism.step.noise_multiplier,
            steps=study.training.local_steps,
        )
        self.heard += 1


def frozen_weights(study: Study, seed: int, folder: Path) -> Flat:
    """The weights that a run of the study does not train, flat.

    Args:
        study: what runs.
        seed: of the run.
        folder: of the study file and its starting weights.
    """
    return split(study, initial_weights(study, seed, load_initial(study, folder)))[1]


def summed(
    study: Study, weights: Flat, data: LabelledImages, mechanism: PatientMechanism
) -> torch.Tensor:
    """The sum of patients' clipped gradients in units of the clip norm, flat float32."""
    model = build_model(study)
    load_flat(model, weights)
    total = flat_zeros(model)
    for batch in data.batches(study, _PATIENTS_AT_ONCE):
        total += clipped_sum(model, batch, mechanism, study)
    return (total / mechanism.clip_norm).float()


def clipped_gradients(
    study: Study, weights: Flat, data: LabelledImages, clip_norm: float, kept: int
) -> torch.Tensor:
    """Each image's gradient, clipped to 1, its last ``kept`` entries: float32 (images, kept)."""
    model = build_model(study)
    load_flat(model, weights)
    values = {
        name: value.detach() for name, value in model.named_parameters() if value.requires_grad
    }
    of = loss_of(study.task, study.training.method)

    def loss(
        values: dict[str, torch.Tensor], pixels: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        outputs = functional_call(model, values, (pixels.unsqueeze(0),))
        return of(outputs[0], target)

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    found = []
    for batch in data.batches(study, max(1, _AT_ONCE // weights.size)):
        gradients = each(values, batch.pixels[:, 0], batch.targets[:, 0]).values()
        flat = torch.cat([one.flatten(1) for one in gradients], dim=1)
        norms = flat.norm(dim=1, keepdim=True)
        # Divided by the norm or the clip norm, whichever is larger: the clipped gradient in its
        # unit.
        found.append((flat / norms.clamp(min=clip_norm))[:, -kept:].clone())
    return torch.cat(found)


def evidence(
    seen: torch.Tensor,
    canaries: torch.Tensor,
    known: torch.Tensor,
    total: torch.Tensor,
    *,
    others: int,
    rate: float,
    noise: float,
    steps: int,
) -> npt.NDArray[np.float64]:
    """The logarithm of each canary's likelihood ratio, in against out.

    Args:
        seen: the noised sum over some steps, in units of the clip norm, float32 (weights,).
        canaries: clipped gradients, float32 (canaries, weights).
        known: the same of some of the others, who tell how the others spread.
        total: the sum over all of the others.
        others: how many others there are.
        rate: probability that a patient takes part in a step.
        noise: standard deviation of a step's noise.
        steps: in the sum.
    """
    coin = rate / 2  # in by a fair coin, and then drawn
    # Whether a patient is drawn has variance rate (1 - rate); the known stand for all others.
    spread = torch.cat(
        [
            known * math.sqrt(others * rate * (1 - rate) / len(known)),
            canaries * math.sqrt(coin * (1 - coin)),
        ]
    )
    mean = rate * total + coin * canaries.sum(dim=0)
    left = whitened((seen / steps - mean).unsqueeze(0), spread, noise, steps)[0]
    # Half of a canary's own part is in the mean, which makes the terms in its square cancel.
    return rate * (canaries @ left).double().numpy()


def whitened(values: torch.Tensor, spread: torch.Tensor, noise: float, steps: int) -> torch.Tensor:
    """Values times the inverse covariance of a mean over steps (Woodbury 1950).

    The covariance of one step is ``noise**2`` times the identity plus ``spread.T @ spread``.
    """
    # A system of as many equations as known gradients (hundreds), not weights (thousands).
    inner = (spread @ spread.T).double() + noise**2 * torch.eye(len(spread), dtype=torch.float64)
    along = torch.linalg.solve(inner, (spread @ values.T).double()).float()
    left: torch.Tensor = values - (spread.T @ along).T
    return left * (steps / noise**2)
