"""The test that says whether federated training is as good as pooled training."""

from __future__ import annotations

import numpy as np

from benchmarks.glioma import not_worse


def test_not_worse_is_wrong_in_5_of_100_draws_where_the_model_is_worse_by_the_margin() -> None:
    rng = np.random.default_rng(1)
    patients = rng.normal(0.7, 0.2, (1000, 20))
    apart = rng.normal(-0.03, 0.05, (1000, 20))
    called = [
        not_worse([*(each + less)], [*each], 0.03) < 0.05
        for each, less in zip(patients, apart, strict=True)
    ]
    assert 35 <= sum(called) <= 65
    assert not_worse([*(patients[0] + 0.001 * apart[0])], [*patients[0]], 0.03) < 1e-6
