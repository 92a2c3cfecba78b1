"""Patient-level DP-SGD, held to plain autograd and to arithmetic on the flat weights by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from scipy import stats
from torch.nn import functional

from client.data.cohort import Patient
from client.training.gradients import GradientSum
from client.training.local import learning_rate, local_change, require_probed
from client.training.sampling import Batch, RoundStreams, draw
from common.models.networks import build_model, initial_weights, load_flat
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import Stream
from common.study.study_file import Study
from tests.common.studies import classification, small_study

Flat = npt.NDArray[np.float32]
DIVISOR = 5.0
STREAMS = RoundStreams(bytes(range(32)))
NONE = NoMechanism(sampling_rate=1.0, divisor=DIVISOR)


def private(
    rate: float = 1.0, noise: float = 1e-9, clip: float = 1.0, most: int = 10**9
) -> PatientMechanism:
    """A mechanism; its noise is too small to see unless asked for."""
    return PatientMechanism(
        step=SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=1),
        evaluation=None,
        most_sampled=most,
        clip_norm=clip,
        divisor=DIVISOR,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=1e-5,
    )


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.float16]:
    return np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float16)


def patients(counts: tuple[int, ...] = (1, 1, 1, 1, 1, 1)) -> tuple[Patient, ...]:
    """Patients with so many images each, in rows of their own; labels alternate."""
    ends = np.cumsum((0, *counts))
    return tuple(
        Patient(str(place), place % 2, tuple(range(ends[place], ends[place + 1])), "0" * 64)
        for place in range(len(counts))
    )


def batch_of(count: int, images: int, *, side: int = 8, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = scale * torch.randn(count, images, 1, side, side, generator=generator)
    return Batch(pixels, torch.arange(count) % 2)


CHOICE = EngineChoice(tile=64)


def model_of(study: Study, seed: int = 1) -> torch.nn.Module:
    """The study's model with its first weights."""
    model = build_model(study)
    load_flat(model, initial_weights(study, seed))
    return model


def patient_gradient(
    model: torch.nn.Module, batch: Batch, place: int, class_weights: tuple[float, ...] | None = None
) -> torch.Tensor:
    """Plain autograd: the mean over a patient's images of the weighted cross-entropy's gradient."""
    label = batch.targets[place]
    loss = functional.cross_entropy(
        model(batch.pixels[place]), label.expand(batch.pixels.shape[1]), reduction="mean"
    )
    if class_weights is not None:
        loss = class_weights[int(label)] * loss
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([each.reshape(-1) for each in gradients])


def clipped(gradient: torch.Tensor, clip: float) -> torch.Tensor:
    # A float32 norm of millions of numbers is off by a thousandth.
    return gradient * min(1.0, clip / float(gradient.double().norm()))


def gradient_sum(
    model: torch.nn.Module,
    batch: Batch,
    mechanism: PatientMechanism | NoMechanism,
    class_weights: tuple[float, ...] | None,
    choice: EngineChoice,
) -> torch.Tensor:
    return GradientSum(model, mechanism, classification(class_weights), choice).over([batch])


MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"widths": [4, 6], "hidden": 8},
    "cnn with group norm": {"widths": [4, 8], "norm": "group", "groups": 2, "hidden": 8},
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("clip", [0.05, 1.0, 1e6])
def test_the_clipped_sum_is_that_of_a_loop_over_patients(kind: str, clip: float) -> None:
    """Three images a patient, averaged before the one clip."""
    model = model_of(small_study(model=MODELS[kind]))
    batch = batch_of(5, 3)
    by_hand = sum(
        (clipped(patient_gradient(model, batch, place), clip) for place in range(5)),
        start=torch.zeros(()),
    )
    found = gradient_sum(model, batch, private(clip=clip), None, CHOICE)
    assert torch.allclose(found, by_hand.double(), atol=1e-5 * max(1.0, float(by_hand.norm())))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 8),
        ("vit", 16),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                ("densenet121", 32),
                ("resnet50", 8),
                ("seresnet50", 8),
                ("efficientnet_b0", 16),
                ("efficientnet_lite0", 16),
            )
        ),
    ],
)
def test_the_larger_models_are_clipped_patient_by_patient_too(name: str, side: int) -> None:
    chosen: dict[str, Any] = {"name": name, "widths": None, "hidden": None}
    model = model_of(small_study(model=chosen, data={"image_size": [side, side]}))
    batch = batch_of(2, 2, side=side)
    by_hand = sum(
        (clipped(patient_gradient(model, batch, place), 0.5) for place in range(2)),
        start=torch.zeros(()),
    )
    found = gradient_sum(model, batch, private(clip=0.5), None, CHOICE)
    assert torch.allclose(found, by_hand.double(), atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_without_privacy_the_sum_is_that_of_the_same_loop_unclipped(kind: str) -> None:
    model = model_of(small_study(model=MODELS[kind]))
    batch = batch_of(5, 3)
    by_hand = sum(
        (patient_gradient(model, batch, place) for place in range(5)), start=torch.zeros(())
    )
    found = gradient_sum(model, batch, NONE, None, CHOICE)
    assert torch.allclose(found, by_hand.double(), atol=1e-5 * max(1.0, float(by_hand.norm())))


@pytest.mark.parametrize("mechanism", [private(clip=0.5), NONE], ids=["patient", "none"])
def test_class_weights_are_factors_of_a_patients_loss(
    mechanism: PatientMechanism | NoMechanism,
) -> None:
    weights = (0.25, 3.0)
    model = model_of(small_study())
    batch = batch_of(4, 2)
    clip = 0.5 if isinstance(mechanism, PatientMechanism) else math.inf
    by_hand = sum(
        (clipped(patient_gradient(model, batch, place, weights), clip) for place in range(4)),
        start=torch.zeros(()),
    )
    found = gradient_sum(model, batch, mechanism, weights, CHOICE)
    assert torch.allclose(found, by_hand.double(), atol=1e-5)


@pytest.mark.parametrize("images_each", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_no_patient_adds_more_than_the_clip_norm(images_each: int, scale: float) -> None:
    model = model_of(small_study(model=MODELS["cnn"]))
    batch = batch_of(6, images_each, scale=scale)
    for place in range(6):
        alone = Batch(batch.pixels[place : place + 1], batch.targets[place : place + 1])
        added = gradient_sum(model, alone, private(clip=0.3), None, CHOICE)
        assert added.norm() <= 0.3 * (1 + 1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mechanism", [private(clip=0.5), NONE], ids=["patient", "none"])
def test_a_patient_whose_gradient_is_not_finite_counts_as_zero_and_the_others_as_ever(
    mechanism: PatientMechanism | NoMechanism, value: float
) -> None:
    model = model_of(small_study(model=MODELS["cnn"]))
    batch = batch_of(5, 2)
    batch.pixels[2, 1] = value
    others = Batch(batch.pixels[[0, 1, 3, 4]], batch.targets[[0, 1, 3, 4]])
    found = gradient_sum(model, batch, mechanism, None, CHOICE)
    expected = gradient_sum(model, others, mechanism, None, CHOICE)
    assert torch.isfinite(found).all()
    assert found.norm() > 0
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.4e38])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_weights_that_ran_away_let_no_patient_add_more_than_the_clip_norm(
    name: str, value: float, share: float
) -> None:
    """What training ends with is sent, so each step before is bounded whatever the weights are."""
    model = model_of(small_study(model=MODELS[name]))
    spoilt = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand(parameter.shape, generator=spoilt) <= share] = value
    batch = batch_of(5, 2)
    total = torch.zeros_like(gradient_sum(model, batch, private(clip=0.3), None, CHOICE))
    for place in range(5):
        alone = Batch(batch.pixels[place : place + 1], batch.targets[place : place + 1])
        added = gradient_sum(model, alone, private(clip=0.3), None, CHOICE)
        assert torch.isfinite(added).all()
        assert added.norm() <= 0.3 * (1 + 1e-5)
        total += added
    found = gradient_sum(model, batch, private(clip=0.3), None, CHOICE)
    assert torch.allclose(found, total, atol=1e-6)


def test_training_that_runs_away_gives_the_largest_number_and_no_failure(
    images: npt.NDArray[np.float16],
) -> None:
    """A failure would be a silence: nobody would learn why the study waits."""
    study = small_study(training={"learning_rate": 1000.0, "local_steps": 2})
    wild = study.training.model_copy(update={"learning_rate": 1e300})
    probed = require_probed(study.model_copy(update={"training": wild}), NONE, CHOICE)
    start = initial_weights(study, 0)
    found = local_change(probed, start, images, patients(), round_number=1, streams=STREAMS)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    units = study.fixed_point.encode(found)
    assert np.abs(units).max() == study.fixed_point.limit


def test_the_tile_changes_no_more_than_the_last_digits() -> None:
    model = model_of(small_study(model=MODELS["cnn"]))
    batch = batch_of(7, 2)
    whole = gradient_sum(model, batch, private(clip=0.5), None, CHOICE)
    for tile in (1, 2, 5, 13):
        found = gradient_sum(model, batch, private(clip=0.5), None, EngineChoice(tile=tile))
        assert torch.allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("mechanism", [private(), NONE], ids=["patient", "none"])
def test_the_sum_over_nobody_is_zero(mechanism: PatientMechanism | NoMechanism) -> None:
    model = model_of(small_study())
    nobody = Batch(torch.zeros(0, 1, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    assert not gradient_sum(model, nobody, mechanism, None, EngineChoice(tile=8)).any()


def train(
    study: Study,
    mechanism: PatientMechanism | NoMechanism,
    images: npt.NDArray[np.float16],
    cohort: tuple[Patient, ...] | None = None,
    *,
    round_number: int = 1,
    streams: RoundStreams = STREAMS,
    weights: Flat | None = None,
) -> Flat:
    """One round from some first weights."""
    return local_change(
        require_probed(study, mechanism, CHOICE),
        initial_weights(study, 1) if weights is None else weights,
        images,
        patients() if cohort is None else cohort,
        round_number=round_number,
        streams=streams,
    )


def sum_at(
    study: Study,
    weights: torch.Tensor,
    images: npt.NDArray[np.float16],
    rows: list[int],
    clip: float,
) -> torch.Tensor:
    """The clipped sum over patients ``0, 1, 2 …`` of one image each, by plain autograd."""
    model = build_model(study)
    load_flat(model, weights.numpy())
    pixels = (torch.from_numpy(images[rows].astype(np.float32)) - 0.5) / 0.25
    batch = Batch(pixels[:, None], torch.arange(len(rows)) % 2)
    return sum(
        (clipped(patient_gradient(model, batch, place), clip) for place in range(len(rows))),
        start=torch.zeros(()),
    )


@pytest.mark.parametrize(
    ("mechanism", "clip"), [(NONE, math.inf), (private(clip=0.4), 0.4)], ids=["none", "patient"]
)
def test_fedproxs_term_changes_the_second_step_as_a_hand_computation_says(
    images: npt.NDArray[np.float16], mechanism: PatientMechanism | NoMechanism, clip: float
) -> None:
    """w1 = w0 - a g(w0), w2 = w1 - a (g(w1) + mu (w1 - w0)); all six patients, divided by 5."""
    free: dict[str, Any] = {"privacy": {"mode": "none"}}
    rate, mu, rows = 0.5, 0.7, list(range(6))
    plain = small_study(**free)
    prox = small_study(**free, aggregation={"strategy": "fedprox", "options": {"proximal_mu": mu}})
    start = torch.from_numpy(initial_weights(plain, 1))
    first = start - rate * sum_at(plain, start, images, rows, clip) / DIVISOR
    gradient = sum_at(plain, first, images, rows, clip) / DIVISOR
    without = first - rate * gradient
    with_term = first - rate * (gradient + mu * (first - start))
    assert train(plain, mechanism, images) == pytest.approx((without - start).numpy(), abs=2e-6)
    found = train(prox, mechanism, images)
    assert found == pytest.approx((with_term - start).numpy(), abs=2e-6)
    difference = found - train(plain, mechanism, images)
    assert difference == pytest.approx((-rate * mu * (first - start)).numpy(), abs=2e-6)
    assert np.linalg.norm(difference) > 1e-2


@pytest.mark.parametrize("mechanism", [NONE, private(0.5, 1.0)], ids=["none", "patient"])
def test_fedproxs_term_vanishes_on_the_first_step(
    images: npt.NDArray[np.float16], mechanism: PatientMechanism | NoMechanism
) -> None:
    one = {"training": {"local_steps": 1}}
    prox = {"strategy": "fedprox", "options": {"proximal_mu": 0.7}}
    with_term = train(small_study(**one, aggregation=prox), mechanism, images)
    assert with_term.tobytes() == train(small_study(**one), mechanism, images).tobytes()


def test_momentum_and_decay_are_added_to_the_gradient_of_each_step_by_hand(
    images: npt.NDArray[np.float16],
) -> None:
    """v1 = g0, v2 = m v1 + g1; w - a (v + d w): decay is not part of the momentum."""
    rate, momentum, decay, rows = 0.5, 0.9, 0.01, list(range(6))
    study = small_study(training={"momentum": momentum, "weight_decay": decay})
    start = torch.from_numpy(initial_weights(study, 1))
    first = sum_at(study, start, images, rows, math.inf) / DIVISOR
    middle = start - rate * (first + decay * start)
    second = momentum * first + sum_at(study, middle, images, rows, math.inf) / DIVISOR
    end = middle - rate * (second + decay * middle)
    assert train(study, NONE, images) == pytest.approx((end - start).numpy(), abs=2e-6)


def noise_of(step: int, size: int, deviation: float) -> npt.NDArray[np.float64]:
    return deviation * STREAMS.stream("noise", step).normal(size)


def test_momentum_and_decay_come_after_the_noise(images: npt.NDArray[np.float16]) -> None:
    """With nobody sampled the gradient is the noise over the divisor, and nothing else."""
    study = small_study(training={"momentum": 0.9, "weight_decay": 0.1})
    start = initial_weights(study, 1).astype(np.float64)
    mechanism = private(1e-12, noise=2.0, clip=0.3)
    noises = [noise_of(step, start.size, mechanism.noise_deviation) / DIVISOR for step in (0, 1)]
    middle = start - 0.5 * (noises[0] + 0.1 * start)
    end = middle - 0.5 * (0.9 * noises[0] + noises[1] + 0.1 * middle)
    found = train(study, mechanism, images)
    assert found == pytest.approx(end - start, abs=1e-6)


def test_an_empty_batch_leaves_pure_noise_of_the_planned_deviation(
    images: npt.NDArray[np.float16],
) -> None:
    """Learning rate 0.5, noise 3 x clip 0.7 over 5: 0.21 a step, two steps."""
    study = small_study(model={"widths": [8], "hidden": 128})
    found = train(study, private(1e-12, noise=3.0, clip=0.7), images)
    expected = 0.5 * 3.0 * 0.7 / DIVISOR * math.sqrt(2)
    assert found.size > 15_000
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert stats.kstest(found / expected, "norm").pvalue > 0.01


def test_a_site_without_training_patients_sends_pure_noise_too(
    images: npt.NDArray[np.float16],
) -> None:
    mechanism = private(0.5, noise=2.0)
    nobody = train(small_study(), mechanism, images, ())
    unlucky = train(small_study(), private(1e-12, noise=2.0), images)
    assert nobody.tobytes() == unlucky.tobytes()


def test_patients_and_images_are_drawn_by_name_and_divided_by_the_public_number(
    images: npt.NDArray[np.float16],
) -> None:
    """A patient takes part where its own coin is below q; so is one of its images drawn.

    Coin and draws are HKDF-Expand of a key for the step, by an implementation that is not ours.
    """
    study = small_study(training={"local_steps": 1})
    cohort = patients((2, 3, 1, 4, 2, 3))
    secret = STREAMS.of_patients(0).secret

    def expanded(use: bytes, patient: Patient) -> bytes:
        info = b"consilium/1 " + use + patient.pseudonym.encode()
        return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(secret)

    coins = [int.from_bytes(expanded(b"coin", each)[:8], "little") / 2**64 for each in cohort]
    taken = [place for place in range(6) if coins[place] < 0.8]
    rows = [
        cohort[place].images[
            int(Stream(expanded(b"draws", cohort[place])).uniform() * len(cohort[place].images))
        ]
        for place in taken
    ]
    assert 0 < len(taken) < 6
    model = build_model(study)
    load_flat(model, initial_weights(study, 1))
    pixels = (torch.from_numpy(images[rows].astype(np.float32)) - 0.5) / 0.25
    batch = Batch(pixels[:, None], torch.tensor([cohort[place].label for place in taken]))
    by_hand = sum(
        (patient_gradient(model, batch, place) for place in range(len(taken))),
        start=torch.zeros(()),
    )
    often = NoMechanism(sampling_rate=0.8, divisor=DIVISOR)
    found = train(study, often, images, cohort)
    assert found == pytest.approx((-0.5 * by_hand / DIVISOR).numpy(), abs=1e-6)


def test_each_patient_takes_part_with_probability_q_and_by_itself(
    images: npt.NDArray[np.float16],
) -> None:
    study = small_study(training={"local_steps": 1})
    hits = np.array(
        [
            [
                RoundStreams(number.to_bytes(32, "little")).of_patients(0).coin(each.pseudonym)
                < 0.3
                for each in patients()
            ]
            for number in range(400)
        ]
    )
    assert hits.mean(axis=0) == pytest.approx(np.full(6, 0.3), abs=0.07)
    correlations = np.corrcoef(hits.T) - np.eye(6)
    assert np.abs(correlations).max() < 0.2
    quiet = next(number for number in range(400) if not hits[number].any())
    streams = RoundStreams(quiet.to_bytes(32, "little"))
    third = NoMechanism(sampling_rate=0.3, divisor=DIVISOR)
    assert not train(study, third, images, streams=streams).any()


def test_each_step_of_a_round_draws_by_itself(images: npt.NDArray[np.float16]) -> None:
    """Where only the second of two steps has anybody, it alone changes the weights; and so on."""
    third = NoMechanism(sampling_rate=0.3, divisor=DIVISOR)

    def taken(streams: RoundStreams) -> tuple[bool, ...]:
        steps = (streams.of_patients(step) for step in (0, 1))
        return tuple(any(own.coin(each.pseudonym) < 0.3 for each in patients()) for own in steps)

    every = [RoundStreams(number.to_bytes(32, "little")) for number in range(200)]
    chosen = {taken(streams): streams for streams in every}
    once, twice = (small_study(training={"local_steps": steps}) for steps in (1, 2))
    nobody, second, first, both = (chosen[each] for each in sorted(chosen))
    assert not train(twice, third, images, streams=nobody).any()
    assert train(twice, third, images, streams=second).any()
    for streams, same in ((first, True), (both, False)):
        one, two = (train(study, third, images, streams=streams) for study in (once, twice))
        assert one.any()
        assert (one.tobytes() == two.tobytes()) is same


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_a_sample_of_more_than_the_cap_counts_as_the_empty_one(
    images: npt.NDArray[np.float16], tile: int
) -> None:
    study, sizes = small_study(), set()
    for number in range(60):
        streams = RoundStreams(number.to_bytes(32, "little"))

        def drawn(most: int, streams: RoundStreams = streams) -> list[bytes]:
            rule = private(0.5, most=most)
            batches = draw(study, rule, images, patients(), streams=streams, step=0, tile=tile)
            return [row.numpy().tobytes() for batch in batches for row in batch.pixels]

        everyone = drawn(6)
        sizes.add(len(everyone))
        for most in range(1, 6):
            assert drawn(most) == (everyone if len(everyone) <= most else [])
    assert sizes >= {1, 2, 3, 4, 5}


def test_a_step_whose_sample_is_too_large_adds_noise_alone(
    images: npt.NDArray[np.float16],
) -> None:
    """What is released is to the last bit what a site without patients would release."""
    study = small_study(training={"local_steps": 2})
    six = train(study, private(1.0, noise=0.5, most=6), images)
    five = train(study, private(1.0, noise=0.5, most=5), images)
    nobody = train(study, private(1.0, noise=0.5, most=5), images, ())
    assert five.tobytes() == nobody.tobytes()
    assert six.tobytes() != nobody.tobytes()


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_with_the_secret_fixed_a_patient_more_changes_no_other_patients_draws(
    images: npt.NDArray[np.float16], tile: int
) -> None:
    """Wherever in the list: the others' coins, images and changes are the same bits."""
    study = small_study(
        training={
            "images_per_patient": 2,
            "augmentation": {"flip": True, "rotate": 9.0, "intensity": 0.2, "copies": 2},
        }
    )
    cohort = patients((2, 3, 1, 4, 2, 3))

    def drawn(whom: tuple[Patient, ...], step: int) -> dict[bytes, bytes]:
        batches = draw(study, private(0.7), images, whom, streams=STREAMS, step=step, tile=tile)
        rows = [
            (pixels.numpy().tobytes(), target.numpy().tobytes())
            for batch in batches
            for pixels, target in zip(batch.pixels, batch.targets, strict=True)
        ]
        assert len({pixels for pixels, _ in rows}) == len(rows)
        return dict(rows)

    for step in range(4):
        everyone = drawn(cohort, step)
        for left_out in range(6):
            others = drawn(cohort[:left_out] + cohort[left_out + 1 :], step)
            assert others.items() <= everyone.items()
            assert len(everyone) - len(others) in (0, 1)


def test_memory_for_a_step_does_not_depend_on_how_many_are_drawn(
    images: npt.NDArray[np.float16],
) -> None:
    many = patients((2,) * 6)
    batches = draw(small_study(), private(1.0), images, many, streams=STREAMS, step=0, tile=4)
    assert [len(each.targets) for each in batches] == [4, 2]


def test_images_per_patient_and_copies_are_averaged_before_the_one_clip(
    images: npt.NDArray[np.float16],
) -> None:
    """Copies of one image without a random change are that image, however many there are."""
    once = small_study()
    often = small_study(training={"images_per_patient": 3, "augmentation": {"copies": 4}})
    found = train(often, private(clip=0.2), images)
    assert found == pytest.approx(train(once, private(clip=0.2), images), abs=2e-6)


def test_augmented_copies_still_clip_as_one_patient(images: npt.NDArray[np.float16]) -> None:
    turned = {"flip": True, "rotate": 20.0, "copies": 5}
    study = small_study(training={"local_steps": 1, "augmentation": turned})
    alone = train(study, private(clip=0.2), images, patients((2,)))
    assert np.linalg.norm(alone) == pytest.approx(0.5 * 0.2 / DIVISOR, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_learning_rates_of_four_rounds_by_hand(
    images: npt.NDArray[np.float16], schedule: str, factors: list[float]
) -> None:
    study = small_study(training={"rounds": 4, "local_steps": 1, "schedule": schedule})
    found = [learning_rate(study, number) for number in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5 * factor for factor in factors])
    first, third = (train(study, NONE, images, round_number=number) for number in (1, 3))
    assert third == pytest.approx(first * factors[2], abs=1e-7)


def test_the_same_streams_make_the_same_bits_and_others_others(
    images: npt.NDArray[np.float16],
) -> None:
    study = small_study(training={"augmentation": {"flip": True, "rotate": 10.0}})
    cohort = patients((2, 3, 1, 4, 2, 3))
    mechanism = private(0.5, noise=1.0)
    first = train(study, mechanism, images, cohort)
    torch.manual_seed(99)
    assert train(study, mechanism, images, cohort).tobytes() == first.tobytes()
    other = RoundStreams(bytes(32))
    assert train(study, mechanism, images, cohort, streams=other).tobytes() != first.tobytes()


def test_the_global_weights_are_not_modified(images: npt.NDArray[np.float16]) -> None:
    weights = initial_weights(small_study(), 1)
    weights.flags.writeable = False
    before = weights.tobytes()
    change = train(small_study(), private(0.5, noise=1.0), images, weights=weights)
    assert weights.tobytes() == before
    assert change.dtype == np.float32
    assert change.shape == weights.shape


def test_each_purpose_and_step_has_a_stream_of_its_own_and_none_is_shown() -> None:
    first = {
        STREAMS.stream(purpose, step).bytes(32)
        for purpose in ("noise", "evaluation")
        for step in (0, 1, 2)
    }
    first |= {
        STREAMS.of_patients(step).stream(name).bytes(32) for name in "ab" for step in (0, 1, 2)
    }
    assert len(first) == 12
    assert len({STREAMS.of_patients(step).coin(name) for name in "ab" for step in (0, 1)}) == 4
    assert repr(STREAMS.of_patients(0).secret) not in repr(STREAMS.of_patients(0))
    assert STREAMS.secret.hex() not in repr(STREAMS)
    assert repr(STREAMS.secret) not in repr(STREAMS)
