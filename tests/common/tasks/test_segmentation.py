from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from monai.losses import DiceLoss
from pydantic import ValidationError
from torch.nn import functional

from common.figures.release import tally
from common.process.denormals import set_threads
from common.tasks.segmentation import Segmentation

ONE = Segmentation(classes=("lesion",))
TWO = Segmentation(classes=("lesion", "oedema"))


def images(
    items: int, classes: int, size: tuple[int, int] = (64, 64), seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets at random."""
    draw = torch.Generator().manual_seed(seed)
    outputs = torch.randn(items, classes + 1, *size, generator=draw) * 3.0
    return outputs, torch.randint(0, classes + 1, (items, *size), generator=draw)


def scores(named: list[list[int]], classes: int = 1) -> torch.Tensor:
    """Outputs of one image, of a model that is sure of these labels."""
    labels = torch.tensor(named)
    return functional.one_hot(labels, classes + 1).permute(2, 0, 1).float()


def losses(
    task: Segmentation, outputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each item's loss and gradient, mapped over items as the engine does."""
    outputs = outputs.clone().requires_grad_()
    each = torch.func.vmap(task.loss)(outputs, targets)
    (gradient,) = torch.autograd.grad(each.sum(), outputs)
    return each.detach(), gradient


@pytest.mark.parametrize(("share", "smooth"), [(0.0, 0.02), (0.3, 0.1), (1.0, 0.004)])
def test_the_loss_is_monai_s_soft_dice_and_torch_s_cross_entropy(
    share: float, smooth: float
) -> None:
    task = Segmentation(classes=TWO.classes, dice_share=share, dice_smooth=smooth)
    outputs, targets = images(3, 2, (12, 20))
    pixels = smooth * 12 * 20
    soft = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=pixels, smooth_dr=pixels
    )
    for loss, output, target in zip(
        losses(task, outputs, targets)[0], outputs, targets, strict=True
    ):
        dice = soft(output[None], target[None, None])
        entropy = functional.cross_entropy(output[None], target[None])
        assert loss == pytest.approx(float(share * dice + (1 - share) * entropy), rel=1e-5)


def test_class_weights_multiply_the_pixels_of_their_class_and_background_counts_once() -> None:
    task = Segmentation(classes=TWO.classes, dice_share=0.0, class_weights=(3.0, 0.5))
    output, target = (each[0] for each in images(1, 2))
    each = functional.cross_entropy(output[None], target[None], reduction="none")[0]

    expected = (each * torch.tensor([1.0, 3.0, 0.5])[target]).mean()
    assert float(task.loss(output, target)) == pytest.approx(float(expected), rel=1e-5)
    assert task.largest_factor == 3.0
    assert Segmentation(classes=("a",), class_weights=(3.0,)).largest_factor == 2.0
    assert Segmentation(classes=("a",), class_weights=(0.5,)).largest_factor == 1.0


def test_an_empty_mask_has_a_small_loss_where_nothing_is_found_and_small_gradients() -> None:
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    sure = torch.tensor([30.0, -30.0])[None, :, None, None].expand(1, 2, 16, 16)
    for outputs, most in ((sure, 1e-6), (-sure, 0.51 + 0.5 * 60.0)):
        loss, gradient = losses(ONE, outputs, target)
        assert 0.0 <= float(loss) <= most
        assert gradient.abs().max() <= 2.0


@given(
    arrays.arrays(np.float32, (3, 4, 4), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    arrays.arrays(np.int64, (4, 4), elements=st.integers(-300, 300)),
)
def test_finite_outputs_and_any_labels_have_a_finite_loss_and_gradient(
    output: np.ndarray, target: np.ndarray
) -> None:
    loss, gradient = losses(TWO, torch.tensor(output)[None], torch.tensor(target)[None])

    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    background = np.where((target < 1) | (target > 2), 0, target)
    same, _ = losses(TWO, torch.tensor(output)[None], torch.tensor(background)[None])
    assert torch.equal(loss, same)


def test_outputs_that_are_no_numbers_raise_nothing() -> None:
    for bad in (float("nan"), float("inf"), -float("inf"), 3e38):
        outputs, targets = images(2, 1)
        outputs[0] = bad
        loss, gradient = losses(ONE, outputs, targets)
        assert torch.isfinite(loss[1]) and torch.isfinite(gradient[1]).all()
    certain = torch.tensor([-3e38, 3e38])[None, :, None, None].expand(1, 2, 4, 4)
    loss, gradient = losses(ONE, certain, torch.ones(1, 4, 4, dtype=torch.int64))
    assert loss.tolist() == [0.0] and not gradient.any()


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    set_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("task", [ONE, TWO], ids=["one class", "two classes"])
def test_an_item_has_the_same_bits_at_every_place_and_beside_any_others(
    task: Segmentation, size: tuple[int, int], layout: torch.memory_format
) -> None:
    require_same_bits(task, size, layout)


def test_an_item_has_the_same_bits_where_threads_share_odd_images() -> None:
    """Where torch's softmax over the second axis has not."""
    with threads(2):
        require_same_bits(TWO, (37, 53), torch.contiguous_format)


def require_same_bits(
    task: Segmentation, size: tuple[int, int], layout: torch.memory_format
) -> None:
    classes = len(task.classes)
    item, target = images(1, classes, size)
    known: tuple[torch.Tensor, torch.Tensor] | None = None
    for items in (1, 2, 3, 16):
        others, labels = images(items, classes, size, seed=items)
        others[::2] *= 1e20
        for place in {0, 1, items // 2, items - 1} & set(range(items)):
            outputs, targets = others.clone(), labels.clone()
            outputs[place], targets[place] = item[0], target[0]
            loss, gradient = losses(task, outputs.contiguous(memory_format=layout), targets)
            known = known or (loss[place], gradient[place])
            assert torch.equal(loss[place], known[0])
            assert torch.equal(gradient[place], known[1])


def test_a_patient_s_images_are_one_stack() -> None:
    """Image by image Dice is 0 and 1; of the stack two pixels of 3 + 2 are shared: 0.8."""
    outputs = torch.stack([scores([[0, 0], [0, 0]]), scores([[1, 1], [0, 0]])])
    targets = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [0, 0]]])

    assert ONE.marks(outputs, targets, 10).tolist() == [[0, 1 + 8]]
    assert ONE.marks(outputs, targets, 4).tolist() == [[0, 1 + 3]]


def test_each_class_has_one_cell_of_its_own() -> None:
    """Lesion: present and not found. Oedema: found and not present."""
    assert TWO.release(10).shape == (2, 13)
    assert TWO.release(10).votes == 2
    missed = torch.tensor([[[1, 0], [0, 0]]])
    alarm = scores([[0, 0], [0, 2]], 2)[None]
    assert TWO.marks(alarm, missed, 10).tolist() == [[0, 0], [1, 12]]
    # In the wrong place is missed too.
    wrong = scores([[0, 1], [0, 0]], 2)[None]
    assert TWO.marks(wrong, missed, 10).tolist() == [[0, 0], [1, 11]]
    # All of it, and nothing else: the last bin.
    right = scores([[1, 0], [0, 0]], 2)[None]
    assert TWO.marks(right, missed, 10).tolist() == [[0, 10], [1, 11]]


def test_a_pixel_without_a_finite_output_is_wrong_and_its_patient_still_counts() -> None:
    there, empty = torch.tensor([[[1, 1], [0, 0]]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    nothing = torch.full((1, 2, 2, 2), torch.nan)
    assert ONE.marks(nothing, there, 10).tolist() == [[0, 0]]
    assert ONE.marks(nothing, empty, 10).tolist() == [[0, 12]]
    # One pixel of two is lost, and one of the others is found in error: 2 * 1 / (2 + 2).
    partly = scores([[1, 1], [0, 0]])[None]
    partly[0, 0, :, 0] = torch.inf
    assert ONE.marks(partly, there, 10).tolist() == [[0, 1 + 5]]


numbers = st.floats(width=32) | st.sampled_from([0.0, torch.nan, torch.inf, -torch.inf])


@given(
    arrays.arrays(np.float32, (2, 3, 3, 3), elements=numbers),
    arrays.arrays(
        np.int64, (2, 3, 3), elements=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2)
    ),
    st.integers(1, 30).map(lambda half: 2 * half),
)
def test_whatever_a_patient_is_one_mark_for_each_class_lies_in_the_release(
    outputs: np.ndarray, targets: np.ndarray, bins: int
) -> None:
    release = TWO.release(bins)
    marks = TWO.marks(torch.tensor(outputs), torch.tensor(targets), bins)

    assert len(marks) <= release.votes
    assert tally([marks], release).sum(axis=1).tolist() == [1, 1]


def test_figures_of_counts_by_hand() -> None:
    """Of 100 patients with a lesion 20 are missed, 80 in [1/2, 1]; of 50 without, 5 are alarms."""
    figures = ONE.figures(np.array([[20, 0, 80, 45, 5]]), noise_variance=0.0)

    assert figures.patients.value == 150
    assert figures.values["dice"].value == pytest.approx(0.8 * 0.75)
    assert figures.values["dice_10"].value == 0.0
    assert figures.values["dice_50"].value == pytest.approx(0.5 + 0.5 * 30 / 80)
    assert figures.values["missed"].value == 0.2
    assert figures.values["false_alarms"].value == 0.1
    assert figures.tables["patients"] == ((80, 20, 45, 5),)
    assert {name: (each,) for name, each in figures.values.items()} == figures.of
    assert Segmentation.headline in figures.values
    assert set(figures.values) <= set(Segmentation.names)


def test_of_two_classes_the_whole_is_the_mean_and_patients_are_counted_once() -> None:
    counts = np.zeros((2, 13), dtype=np.int64)
    counts[0, 10], counts[1, 5], counts[1, 11] = 400, 300, 100
    figures = TWO.figures(counts, noise_variance=4.0)

    assert figures.values["dice"].value == pytest.approx((0.95 + 0.45) / 2)
    assert figures.patients.value == 400
    # The mean of two sums of 13 cells: a variance of 4 * 13 / 2.
    assert figures.patients.high - 400 == pytest.approx(1.96 * 26**0.5, rel=1e-3)


def test_noise_that_drowns_the_patients_is_named_in_every_figure() -> None:
    figures = ONE.figures(np.array([[300, -9, 80, 140, 200]]), noise_variance=9e4)

    assert not any(each.meaningful for each in (figures.patients, *figures.values.values()))
    assert all("noise exceeds signal" in str(each.why) for each in figures.values.values())


def test_exact_figures_are_those_of_each_patient_and_leave_out_who_lacks_the_class() -> None:
    there, empty = torch.tensor([[[1, 1], [0, 0]]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    right, half = scores([[1, 1], [0, 0]])[None], scores([[1, 0], [0, 0]])[None]
    nothing = scores([[0, 0], [0, 0]])[None]
    outputs = [right, half, nothing, nothing, right]
    figures = ONE.exact(zip(outputs, [there, there, there, empty, empty], strict=True))

    assert figures.patients.value == 5
    assert figures.values["dice"].value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert figures.values["dice_50"].value == pytest.approx(2 / 3)
    assert figures.values["missed"].value == pytest.approx(1 / 3)
    assert figures.values["false_alarms"].value == 0.5
    assert figures.tables["patients"] == ((2, 1, 1, 1),)
    # Of the half found, one edge pixel lies on the other's edge, whose second is one pixel away.
    assert figures.values["surface_distance"].value == pytest.approx((0 + 1 / 3) / 2)
    assert set(figures.values) == set(figures.of) == set(Segmentation.names)


def test_each_patient_has_a_dice_of_each_class_that_is_there() -> None:
    there = torch.tensor([[[1, 1], [0, 2]]])
    found = torch.tensor([[[1, 0], [0, 2]]])
    outputs = [functional.one_hot(each, 3).movedim(-1, 1).float() for each in (found, found)]
    exact = TWO.exact(zip(outputs, [there, there * (there == 1)], strict=True))

    liver, lesion = exact.each["dice"]
    assert liver == pytest.approx((2 / 3, 2 / 3))
    assert lesion[0] == 1.0
    assert np.isnan(lesion[1])
    # The mean of those whom a class concerns is the class's figure.
    assert [each.value for each in exact.of["dice"]] == pytest.approx([2 / 3, 1.0])


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_binned_and_exact_figures_agree_to_half_a_bin(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(12):
        targets = (torch.rand(2, 8, 8, generator=generator) < 0.3).long()
        wrong = torch.rand(2, 8, 8, generator=generator) < torch.rand(1, generator=generator)
        outputs = functional.one_hot(targets ^ wrong.long(), 2).movedim(-1, 1).float()
        pairs.append((outputs, targets))
    release = ONE.release(20)
    counts = tally([ONE.marks(*pair, 20) for pair in pairs], release)

    binned = ONE.figures(counts, noise_variance=0.0)
    exact = ONE.exact(pairs)
    assert binned.tables == exact.tables
    for name in ("missed", "false_alarms"):
        assert binned.values[name] == exact.values[name]
    dice, known = binned.values["dice"], exact.values["dice"]
    assert dice.value == pytest.approx(known.value, abs=0.025)


def test_a_model_that_finds_nothing_is_told_first() -> None:
    blind = np.array([[99, 1, 0, 0, 0], [20, 30, 40, 0, 0]])
    assert TWO.doubts(TWO.figures(blind, noise_variance=0.0)) == (
        "FINDS NOTHING: the shared model misses lesion in almost every patient",
    )
    assert TWO.doubts(TWO.figures(blind[[1, 1]], noise_variance=0.0)) == ()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ()}, "at least 1 item"),
        ({"classes": tuple(f"c{number}" for number in range(21))}, "at most 20 items"),
        ({"classes": ("a", "a")}, "named twice"),
        ({"classes": ("a",), "dice_share": 1.1}, "0, or 0.001 to 1"),
        ({"classes": ("a",), "dice_share": -0.1}, "0, or 0.001 to 1"),
        ({"classes": ("a",), "class_weights": (1.0, 2.0)}, "has 2 numbers, task.classes 1"),
        ({"classes": ("a",), "class_weights": (0.0,)}, "0.001 to 1000"),
        ({"classes": ("a",), "smooth": 1.0}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Segmentation.model_validate({"kind": "segmentation"} | keys)


def test_what_is_public_follows_from_the_section_alone() -> None:
    assert TWO.heads() == (3, True)
    assert TWO.words() == ("segmentation of lesion, oedema",)
    assert (TWO.target, TWO.headline) == ("mask", "dice")
