"""The numerics record: all that decides the last bit, the same every time it is asked."""

from __future__ import annotations

from importlib.metadata import version

import torch

from common.files import sha256
from common.numerics import (
    ARITHMETIC,
    COUNTED,
    EngineChoice,
    Ticks,
    apply,
    differences,
    installed,
    record,
)
from common.privacy.randomness import Stream

CHOICE = EngineChoice(kernels={"0": "ghost"}, tile=64)


def test_a_process_describes_itself_the_same_twice() -> None:
    assert record(1, CHOICE) == record(1, CHOICE)
    assert differences(record(1, CHOICE), record(1, CHOICE)) == {}


def test_it_names_torchs_instructions_what_deviates_come_out_as_and_every_version() -> None:
    found = record(2, CHOICE)
    assert found.threads == 2
    assert found.cpu_capability.startswith(f"torch {torch.backends.cpu.get_cpu_capability()}, ")
    deviates = Stream(bytes(32)).normal(2**14)
    assert found.cpu_capability.endswith(f"normals {sha256(deviates.tobytes())[:16]}")
    assert found.versions == {name: version(name) for name in COUNTED}
    assert {"torch", "numpy"} <= found.versions.keys()
    assert found.arithmetic == ARITHMETIC


def test_what_decides_no_bit_is_no_difference_and_is_told_to_the_site_alone() -> None:
    told = installed()
    assert {"consilium", "pydicom", "pillow", "opacus", "python"} <= told.keys()
    assert not told.keys() & record(1, CHOICE).versions.keys()
    assert told["pydicom"] == version("pydicom")


def test_differences_name_the_field_and_both_values() -> None:
    ours = record(1, CHOICE)
    theirs = ours.model_copy(update={"threads": 4, "cpu_capability": "torch DEFAULT"})
    assert differences(ours, theirs) == {
        "threads": ("1", "4"),
        "cpu_capability": (ours.cpu_capability, "torch DEFAULT"),
    }


def test_ticks_decide_no_bit() -> None:
    ours, theirs = record(1, CHOICE), record(1, CHOICE, Ticks(train=300))
    assert ours.ticks == Ticks(train=0, evaluate=0)
    assert theirs.ticks.of("train") == 300
    assert theirs.ticks.of("validation") == 0
    assert ours != theirs
    assert differences(ours, theirs) == {}


def test_applying_a_record_sets_threads_and_determinism() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        apply(record(2, CHOICE))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
