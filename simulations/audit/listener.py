"""The adversary of the one-run audit: a coordinator that keeps what it sees and looks for canaries.

It sees what any coordinator sees: the weights that it sends and each site's change. From a
change it reads the noised sum of clipped gradients, and asks of each canary how much likelier the
sum is with the canary's clipped gradient in it than without (the matched filter of Neyman and
Pearson 1933, for normal noise and normal others). What the other patients add is taken to
be like what the patients of the kept-apart test set would add: an adversary may know more, and
never less, than that. The evidence of all rounds is added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from client.training import learning_rate
from common.messages import OK, reply_from_record, request_from_record
from common.model import build_model, load_flat
from common.privacy import PatientMechanism
from common.study import Study

if TYPE_CHECKING:
    from common.flower import Context, Message
    from simulations.grid import Client

_MOST_NUMBERS: Final = 2**27
"""Of gradients that are held at once; of larger models the last weights alone are looked at."""
_AT_ONCE: Final = 2**25

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images as the model takes them, with labels.

    Attributes:
        pixels: float32 (images, channels, height, width), normalised.
        labels: int64 (images,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, study: Study, pictures: npt.NDArray[np.float32], labels: Sequence[int]) -> Labelled:
        """Pictures in [0, 1] with their labels."""
        pixels = (torch.from_numpy(pictures) - study.data.mean) / study.data.std
        return cls(pixels, torch.tensor(labels, dtype=torch.int64))


class Listener:
    """Scores canaries as a study runs.

    Args:
        study: what runs.
        mechanisms: of each site that has canaries.
        patients: how many each of them trains on, about: its public number.
        canaries: of each of them.
        reference: patients like those of the sites.

    Attributes:
        scores: evidence that each canary of a site is in, float64, added up over the rounds.
        heard: changes that were listened to.
    """

    def __init__(
        self,
        study: Study,
        mechanisms: Mapping[str, PatientMechanism],
        patients: Mapping[str, int],
        canaries: Mapping[str, Labelled],
        reference: Labelled,
    ) -> None:
        self._study, self._mechanisms, self._patients = study, mechanisms, patients
        self._canaries, self._reference = canaries, reference
        self._round: tuple[int, dict[str, torch.Tensor], torch.Tensor] | None = None
        self.scores = {site: np.zeros(len(one.labels)) for site, one in canaries.items()}
        self.heard = 0

    def tap(self, client: Client) -> Client:
        """The sites' code, listened to."""

        def answer(message: Message, context: Context) -> Message:
            reply = client(message, context)
            if reply.has_content():
                self._overhear(message, reply)
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
        if self._round is None or self._round[0] != number:
            self._round = (number, *self._gradients(weights))
        _, canaries, reference = self._round
        mechanism, training = self._mechanisms[site], self._study.training
        rate = learning_rate(self._study, number)
        total = -change * mechanism.divisor / (rate * mechanism.clip_norm)
        seen = torch.from_numpy(total).float()[-reference.shape[1] :]
        self.scores[site] += evidence(
            seen,
            canaries[site],
            reference,
            others=self._patients[site],
            rate=mechanism.step.sampling_rate,
            noise=mechanism.step.noise_multiplier,
            steps=training.local_steps,
        )
        self.heard += 1

    def _gradients(self, weights: Flat) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The clipped gradients of canaries and reference, in units of the clip norm."""
        everyone = [*self._canaries.values(), self._reference]
        rows = sum(len(one.labels) for one in everyone)
        kept = min(weights.size, _MOST_NUMBERS // rows)
        clip = next(iter(self._mechanisms.values())).clip_norm
        found = [clipped_gradients(self._study, weights, one, clip, kept) for one in everyone]
        return dict(zip(self._canaries, found, strict=False)), found[-1]


def clipped_gradients(
    study: Study, weights: Flat, data: Labelled, clip_norm: float, kept: int
) -> torch.Tensor:
    """Each image's gradient, clipped to 1, its last ``kept`` entries: float32 (images, kept)."""
    model = build_model(study)
    load_flat(model, weights)
    values = {name: value.detach() for name, value in model.named_parameters()}
    factors = torch.tensor(study.training.class_weights or (1.0,) * len(study.task.classes))

    def loss(
        values: dict[str, torch.Tensor], pixels: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = functional_call(model, values, (pixels.unsqueeze(0),))
        return functional.cross_entropy(logits, label.unsqueeze(0), factors, reduction="sum")

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    found = []
    step = max(1, _AT_ONCE // weights.size)
    for first in range(0, len(data.labels), step):
        part = slice(first, first + step)
        flat = torch.cat(
            [one.flatten(1) for one in each(values, data.pixels[part], data.labels[part]).values()],
            dim=1,
        )
        norms = flat.norm(dim=1, keepdim=True)
        found.append((flat / norms.clamp(min=clip_norm))[:, -kept:].clone())
    return torch.cat(found)


def evidence(
    seen: torch.Tensor,
    canaries: torch.Tensor,
    reference: torch.Tensor,
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
        reference: the same of patients like the others.
        others: how many others there are.
        rate: probability that a patient takes part in a step.
        noise: standard deviation of a step's noise.
        steps: in the sum.
    """
    coin = rate / 2  # in by a fair coin, and then drawn
    spread = torch.cat(
        [
            # rate and not rate * (1 - rate): the others are only like the reference
            reference * math.sqrt(others * rate / len(reference)),
            canaries * math.sqrt(coin * (1 - coin)),
        ]
    )
    mean = others * rate * reference.mean(dim=0) + coin * canaries.sum(dim=0)
    left = whitened((seen / steps - mean).unsqueeze(0), spread, noise, steps)[0]
    # Half of a canary's own part stands in the mean, which makes the terms in its square cancel.
    return rate * (canaries @ left).double().numpy()


def whitened(values: torch.Tensor, spread: torch.Tensor, noise: float, steps: int) -> torch.Tensor:
    """Values times the inverse covariance of a mean over steps (Woodbury 1950).

    The covariance of one step is ``noise**2`` times the identity plus ``spread.T @ spread``.
    """
    inner = spread @ spread.T + noise**2 * torch.eye(len(spread))
    along: torch.Tensor = torch.linalg.solve(inner, spread @ values.T)
    return (values - (spread.T @ along).T) * (steps / noise**2)
