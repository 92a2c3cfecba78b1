"""The quick search computes what the engine would, and holds out what it says."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.search.linear import Hospital, Settings, noisy_sum, shifts


def test_the_closed_form_is_the_sum_of_clipped_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(6, 3, generator=generator), torch.ones(6, 1)], dim=1)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    settings = Settings(clip_norm=0.7)
    layer = nn.Linear(4, 2, bias=False)
    expected = torch.zeros(2, 4)
    for feature, label in zip(features, labels, strict=True):
        loss = functional.cross_entropy(layer(feature), label)
        loss = loss * settings.class_weights[int(label)]
        (gradient,) = torch.autograd.grad(loss, [layer.weight])
        expected += gradient * min(1.0, 0.7 / float(gradient.norm()))
    hospital = Hospital(features, labels, declared=6, rate=1.0, noise=0.0)
    found = noisy_sum(hospital, layer.weight.detach(), settings, generator)
    assert torch.allclose(found, expected, atol=1e-5)


def test_each_shift_holds_out_a_fifth_of_each_class_at_one_end() -> None:
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = np.arange(200) % 2
    found = shifts(images, labels)
    assert len(found) == 12
    brightness = images.mean((1, 2, 3)).numpy()
    for known, held in found:
        assert sorted([*known, *held]) == list(range(200))
        assert [int((labels[held] == label).sum()) for label in (0, 1)] == [20, 20]
    darkest, brightest = found[0][1], found[1][1]
    for label in (0, 1):
        members = labels == label
        of_class = brightness[darkest[labels[darkest] == label]]
        assert of_class.max() <= np.quantile(brightness[members], 0.2)
        of_class = brightness[brightest[labels[brightest] == label]]
        assert of_class.min() >= np.quantile(brightness[members], 0.8)
