"""What the guarantee rests on, tried out piece by piece: samples, noise, and one patient's part.

A bound on epsilon sees that a claim is broken, not where; and a fault can hide where a canary does
not look. So each premise of the argument in ``docs/privacy.md`` is held against what a site's
functions do. Premises about chance are tested at a level at which a sound function fails once in
a million audits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest, chi2, kstest, norm
from torch import nn

from client.training.sampling import Batch, RoundStreams
from client.training.targets import TARGETS
from common.models.networks import build_model
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream, derive
from common.study.study_file import Study
from simulations.audit.findings import Check
from simulations.audit.parts import PRODUCTION, Parts
from simulations.audit.tiny import Canaries, canaries, capped, linear

LEVEL: Final = 1e-6
SAMPLES: Final = "sampling"
NOISE: Final = "noise"
PART: Final = "one patient's part"
_SIDE: Final = 16
_STEPS: Final = 400
# Room for float32; a fault changes a part by a share of the clip norm.
_TOLERANCE: Final = 1e-3
_SEVERAL: Final = 4
_PATIENTS: Final = 6
_AMPLIFIED: Final = 8.0


def check_all(
    study: Study, mechanism: PatientMechanism, *, site: str, key: bytes, parts: Parts = PRODUCTION
) -> tuple[Check, ...]:
    """Every check of one site's mechanism."""
    made = canaries(study, mechanism, _SIDE)
    tried = capped(study, mechanism, len(made.patients))
    return (
        check_sampling(made, tried, site=site, key=key, parts=parts),
        check_noise(made, mechanism, site=site, key=key, parts=parts),
        check_part(study, mechanism, site=site, key=key, parts=parts),
    )


def check_sampling(
    made: Canaries, mechanism: PatientMechanism, *, site: str, key: bytes, parts: Parts
) -> Check:
    """Whether patients take part independently, each with the mechanism's probability.

    Three tests: how many took part in all, how much the number varies from step to step (not at
    all where batches have a fixed size), and how evenly patients were drawn.
    """
    rate, patients = mechanism.step.sampling_rate, len(made.patients)
    streams = RoundStreams(derive(key, purpose="sampling check"))
    drawn = np.stack(
        [
            _who(
                parts.draw(
                    made.study, mechanism, made.images, made.patients, streams=streams, step=k
                )
            )
            for k in range(_STEPS)
        ]
    )
    sizes, wanted = (
        drawn.sum(axis=1),
        f"batches of random size, on average {rate:.1%} of the patients",
    )
    found = (
        f"{_STEPS} batches drawn from {patients} made-up patients: {sizes.mean():.1f} on average "
        f"(wanted {rate * patients:.1f}), standard deviation {sizes.std():.1f}"
    )
    # The tests of chance below divide by the variance, which is zero here.
    if rate == 1.0:
        wanted = "every patient in every batch"
        return _check(SAMPLES, site, wanted, found, passed=bool(drawn.all()))
    variance = rate * (1.0 - rate)
    least = min(
        binomtest(int(sizes.sum()), drawn.size, rate).pvalue,
        # Two-sided: batches of a fixed size vary too little, not too much.
        _two_sided(((sizes - rate * patients) ** 2).sum() / (variance * patients), _STEPS),
        _two_sided(
            ((drawn.sum(axis=0) - rate * _STEPS) ** 2).sum() / (variance * _STEPS), patients
        ),
    )
    found += f" (wanted {np.sqrt(variance * patients):.1f}); {_chance(least)}"
    return _check(SAMPLES, site, wanted, found, passed=least > LEVEL)


def check_noise(
    made: Canaries, mechanism: PatientMechanism, *, site: str, key: bytes, parts: Parts
) -> Check:
    """Whether noise is normal, as strong as claimed, and new in every step and every weight."""
    weights = made.directions.numel()
    streams = RoundStreams(derive(key, purpose="noise check"))
    # Some 200,000 draws, which show a deviation of one per cent.
    steps = range(max(8, min(_STEPS, 200_000 // weights)))
    nothing = torch.zeros(weights)
    drawn = np.stack(
        [
            parts.noised(nothing, mechanism, streams.stream("noise", step)).double().numpy()
            for step in steps
        ]
    ) / (mechanism.clip_norm * mechanism.step.noise_multiplier)
    least = min(
        _two_sided(float((drawn**2).sum()), drawn.size),
        kstest(drawn.reshape(-1), "norm").pvalue,
        # Noise may repeat from step to step, from weight to weight, or in the halves of a step.
        _correlation(drawn[1:], drawn[:-1]),
        _correlation(drawn[:, 1:], drawn[:, :-1]),
        _correlation(drawn[:, : weights // 2], drawn[:, weights // 2 : weights // 2 * 2]),
    )
    deviation = float(drawn.std() * mechanism.step.noise_multiplier)
    wanted = (
        f"normal noise of {mechanism.step.noise_multiplier:.3f} times the clip norm, "
        "new in every step and every weight"
    )
    again = float(np.corrcoef(drawn[1:].reshape(-1), drawn[:-1].reshape(-1))[0, 1])
    found = f"{deviation:.3f} times the clip norm, correlation between steps {again:+.3f}"
    return _check(NOISE, site, wanted, f"{found}; {_chance(least)}", passed=least > LEVEL)


def check_part(
    study: Study, mechanism: PatientMechanism, *, site: str, key: bytes, parts: Parts
) -> Check:
    """Whether a patient changes a step's sum by at most the clip norm, whichever others are there.

    The study's own network and a linear one, images that push hard, one and several images
    of a patient, a clip norm that all exceed: the sum with a patient less the sum without has to
    be what the patient gives alone, and no longer than the clip norm.
    """
    stream = Stream(derive(key, purpose="part check"))
    longest, apart = 0.0, 0.0
    for model, batch, clip in _cases(study, mechanism, stream):
        tried = mechanism.model_copy(update={"clip_norm": clip})
        total = parts.clipped_sum(model, batch, tried, study).double()
        for place in range(len(batch.targets)):
            others = [number for number in range(len(batch.targets)) if number != place]
            part = total - parts.clipped_sum(model, _some(batch, others), tried, study).double()
            alone = parts.clipped_sum(model, _some(batch, [place]), tried, study).double()
            longest = max(longest, float(part.norm()) / clip)
            apart = max(apart, float((part - alone).norm()) / clip)
    return _check(
        PART,
        site,
        "at most one clip norm, the same whichever other patients are in the batch",
        f"at most {longest:.4f} clip norms; differs by {apart:.2g} from the patient alone",
        passed=longest <= 1 + _TOLERANCE and apart <= _TOLERANCE,
    )


def _cases(
    study: Study, mechanism: PatientMechanism, stream: Stream
) -> Iterator[tuple[nn.Module, Batch, float]]:
    """Models, batches and clip norms at which a fault of clipping shows."""
    data, form = study.data, TARGETS[study.task.target]
    shape = (_PATIENTS, max(_SEVERAL, study.training.images_per_patient))
    pixels = stream.normal((*shape, data.channels, *data.image_size)) * _AMPLIFIED
    targets = form.made_up(study.task, _PATIENTS, shape[1], data.image_size)
    batch = Batch(torch.from_numpy(pixels).float(), targets)
    like = Batch(batch.pixels[:1, :1].expand_as(batch.pixels).contiguous(), targets * 0)
    for network in (linear(study), _own(study, stream)):
        model = network
        for case in (batch, like, _some(batch, [0, 1, 2], images=1)):
            yield model, case, mechanism.clip_norm
            yield model, case, mechanism.clip_norm / 1000


def _own(study: Study, stream: Stream) -> nn.Module:
    """The study's network with weights that follow from the stream."""
    model = build_model(study)
    with torch.no_grad():
        for value in model.parameters():
            fan = max(1, value[0].numel())
            value.copy_(torch.from_numpy(stream.normal(tuple(value.shape)) / np.sqrt(fan)))
    return model


def _some(batch: Batch, places: list[int], images: int | None = None) -> Batch:
    targets = batch.targets[places]
    targets = targets if targets.dim() == 1 else targets[:, :images]
    return Batch(batch.pixels[places, :images], targets)


def _who(batch: Batch) -> npt.NDArray[np.bool_]:
    """Which canaries are in a batch: each has its own bright pixel."""
    lit = batch.pixels[:, 0].flatten(1)
    return (lit.sum(dim=0) > 0).numpy()


def _two_sided(statistic: float, freedom: int) -> float:
    """How likely a sum of squared standard normals is to lie so far out on either side."""
    return float(min(1.0, 2 * min(chi2.cdf(statistic, freedom), chi2.sf(statistic, freedom))))


def _correlation(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """How likely independent noise is to be so correlated."""
    found = np.corrcoef(left.reshape(-1), right.reshape(-1))[0, 1]
    return float(2 * norm.sf(abs(found) * np.sqrt(left.size)))


def _chance(probability: float) -> str:
    return f"probability by chance {probability:.2g} (fails at {LEVEL:g} or less)"


def _check(name: str, site: str, wanted: str, found: str, *, passed: bool) -> Check:
    return Check(name=name, site=site, wanted=wanted, found=found, passed=passed)
