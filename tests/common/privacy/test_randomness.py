"""ChaCha20 streams: the standard's bytes, the right distributions, one stream for each purpose."""

from __future__ import annotations

import hashlib
import hmac
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.files import canonical_json
from common.privacy.randomness import (
    PAIRS,
    Stream,
    StudyKey,
    box_muller,
    derive,
    known_secret,
)
from common.process.denormals import set_threads

VECTORS = {
    # RFC 8439, appendix A.1, vectors 1 and 2: key and nonce zero, blocks 0 and 1.
    "00" * 32: (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    ),
    # Vector 3: block 1 of a key that ends in 1; here behind its block 0.
    "00" * 31 + "01": (
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
    ),
}


def stream(seed: int = 0) -> Stream:
    return Stream(derive(b"a test", seed=seed))


@pytest.mark.parametrize(("key", "keystream"), VECTORS.items())
def test_the_keystream_is_the_standards(key: str, keystream: str) -> None:
    blocks = Stream(bytes.fromhex(key)).bytes(128).hex()
    assert blocks.endswith(keystream)


@given(st.lists(st.integers(0, 100), max_size=6))
def test_bytes_do_not_depend_on_how_many_are_asked_for_at_once(counts: list[int]) -> None:
    apart = stream()
    assert b"".join(apart.bytes(count) for count in counts) == stream().bytes(sum(counts))


def test_derived_keys_are_hkdf_sha256_over_all_that_is_named() -> None:
    """RFC 5869 by hand: no salt, one block of output."""
    extracted = hmac.new(bytes(32), b"secret", hashlib.sha256).digest()
    info = b"consilium/1 " + canonical_json({"purpose": "noise", "round": 3})
    by_hand = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    assert derive(b"secret", round=3, purpose="noise") == by_hand


def test_every_name_and_value_separates_domains() -> None:
    base: dict[str, str | int] = {
        "plan": "p",
        "round": 1,
        "arrays": "a",
        "cohort": "c",
        "purpose": "train",
    }
    others: list[dict[str, str | int]] = [
        base | {key: "other" if isinstance(value, str) else 2} for key, value in base.items()
    ]
    renamed: dict[str, str | int] = {
        "plans": "p",
        **{key: base[key] for key in base if key != "plan"},
    }
    keys = {derive(b"secret", **each) for each in (base, renamed, *others)}
    keys |= {derive(b"another", **base), derive(b"secret")}
    assert len(keys) == len(others) + 4


def test_a_number_is_not_its_digits() -> None:
    assert derive(b"secret", round=1) != derive(b"secret", round="1")


def test_known_secrets_follow_from_seed_name_and_use_alone() -> None:
    assert known_secret(1, "north", "signing") == known_secret(1, "north", "signing")
    differing = {
        known_secret(seed, site, use)
        for seed in (0, 1)
        for site in ("north", "south")
        for use in ("signing", "patients")
    }
    assert len(differing) == 8


def test_purposes_share_no_word_of_keystream() -> None:
    words: list[bytes] = []
    for purpose in ("sampling", "images", "augmentation", "noise", "evaluation"):
        for step in range(20):
            block = Stream(derive(b"secret", purpose=purpose, step=step)).bytes(800)
            words += [block[start : start + 8] for start in range(0, 800, 8)]
    assert len(set(words)) == len(words)


def test_uniform_deviates_are_the_top_53_bits() -> None:
    words = np.frombuffer(Stream(bytes(32)).bytes(24), dtype="<u8")
    assert Stream(bytes(32)).uniform(3).tolist() == [int(word) // 2**11 / 2**53 for word in words]


def test_uniform_deviates_are_uniform() -> None:
    drawn = stream().uniform((200, 250))
    assert drawn.shape == (200, 250)
    assert 0 <= drawn.min() < drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01


def by_hand(words: list[int]) -> list[float]:
    """Box and Muller on signed 64-bit words: radii from the first half, angles from the second."""
    half = len(words) // 2
    radius = [math.sqrt(-2 * math.log(abs(word + 0.5) / 2**63)) for word in words[:half]]
    turns = [math.pi * word / 2**63 for word in words[half:]]
    pairs = list(zip(radius, turns, strict=True))
    return [r * math.cos(t) for r, t in pairs] + [r * math.sin(t) for r, t in pairs]


def test_normal_deviates_are_box_and_mullers() -> None:
    words = np.frombuffer(stream().bytes(32), dtype="<i8").tolist()
    assert stream().normal(4) == pytest.approx(by_hand(words), abs=1e-14)
    assert stream().normal(3) == pytest.approx(by_hand(words)[:3], abs=1e-14)


LARGEST_DEVIATE = math.sqrt(128 * math.log(2))
"""Of the radius whose 64 random bits make the smallest u, 2**-64."""


def deviates_of(words: list[int]) -> list[float]:
    made = torch.empty(len(words), dtype=torch.float64)
    return box_muller(torch.tensor(words), made).tolist()


def test_the_tail_reaches_as_far_as_64_bits_do_and_no_word_breaks_it() -> None:
    """The least u is 2**-64; u = 1 gives zero; around zero a radius keeps its resolution."""
    assert deviates_of([0, 0]) == [LARGEST_DEVIATE, 0.0]
    assert deviates_of([-1, 0]) == [LARGEST_DEVIATE, 0.0]
    assert deviates_of([-(2**63), 0]) == [0.0, 0.0]
    assert deviates_of([2**63 - 1, -(2**63)]) == [0.0, 0.0]
    words = [3, -4, 1000, 2**40, 5, 2**62, -(2**62), 2**20]
    assert deviates_of(words) == pytest.approx(by_hand(words), rel=1e-13, abs=1e-13)
    assert math.exp(-(LARGEST_DEVIATE**2) / 2) == pytest.approx(2.0**-64)


LENGTHS = (1, 2, 7, 1001, 2 * PAIRS - 1, 2 * PAIRS, 2 * PAIRS + 3)


@pytest.mark.parametrize("length", LENGTHS)
def test_bits_do_not_depend_on_the_number_of_threads(length: int) -> None:
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 3, 5):
            set_threads(threads)
            made.append(stream(length).normal(length).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(made)) == 1


def test_a_deviates_bits_do_not_depend_on_where_in_a_vector_it_stands() -> None:
    """Vector instructions work on the body of an array, others on what is left over."""
    words = torch.from_numpy(np.frombuffer(stream().bytes(16 * 1000), dtype="<i8").copy())
    radii, angles = words[:1000], words[1000:]
    whole = box_muller(words, torch.empty(2000, dtype=torch.float64)).view(2, 1000)
    for first, last in ((0, 1), (3, 20), (17, 1000), (500, 501), (1, 1000)):
        part = torch.cat([radii[first:last], angles[first:last]])
        made = box_muller(part, torch.empty(len(part), dtype=torch.float64))
        assert torch.equal(made.view(2, -1), whole[:, first:last])


def test_blocks_are_the_deviates_in_their_order() -> None:
    count = 4 * PAIRS + 5
    blocks = [block.clone() for block in stream().normal_blocks(count)]
    assert [len(block) for block in blocks] == [2 * PAIRS, 2 * PAIRS, 5]
    assert np.array_equal(torch.cat(blocks).numpy(), stream().normal(count))
    used = stream()
    assert np.array_equal(used.normal(2 * PAIRS), blocks[0].numpy())
    assert np.array_equal(used.normal(2 * PAIRS), blocks[1].numpy())


def test_normal_deviates_are_normal_in_their_tails_too() -> None:
    drawn = stream(1).normal((4, 50_000))
    assert drawn.shape == (4, 50_000)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 0.01
    beyond = np.count_nonzero(np.abs(drawn) > 3)
    assert beyond == pytest.approx(200_000 * 2 * stats.norm.sf(3), rel=0.15)
    correlations = np.asarray(np.corrcoef(drawn)) - np.eye(4)
    assert np.abs(correlations).max() < 0.02


@pytest.mark.parametrize("shape", [0, (0,), (3, 0)])
def test_nothing_asked_for_is_nothing_drawn(shape: int | tuple[int, ...]) -> None:
    used = stream()
    assert used.uniform(shape).size == used.normal(shape).size == 0
    assert used.bytes(8) == stream().bytes(8)


def test_study_keys_are_fresh_32_bytes_and_are_never_shown() -> None:
    key = StudyKey.generate()
    assert len(key.secret) == 32
    assert key != StudyKey.generate()
    assert repr(key) == "StudyKey()"
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        StudyKey(bytes(31))
