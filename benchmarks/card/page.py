"""The page of results of a card, from the JSON file alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.card.probing import Case


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    card, tests = found["card"], found["tests"]
    lines = [
        "# Measured on a graphics card",
        "",
        "Written by `make cuda`. It is about this card and this commit alone.",
        "",
        f"- card: {card['name']}, {card['multiprocessors']} multiprocessors, MIG {card['mig']}",
        f"- driver {card['driver']}, CUDA {card['cuda']}, cuDNN {card['cudnn']}, "
        f"torch {found['torch']}",
        f"- commit {found['commit']}, {found['date']}",
        f"- tests: {tests['passed']} passed, {len(tests['failed'])} failed, "
        f"{tests['skipped']} skipped",
        *[f"  - failed: `{name}`" for name in tests["failed"]],
        "",
        "## The engine's probe",
        "",
        "| model, images, activations | patients at once | kernels that were replaced | refused |",
        "| --- | --- | --- | --- |",
        *[_probe(each) for each in found["probe"]],
        "",
        "## Time and memory",
        "",
        "| | ours | peer | ratio | |",
        "| --- | --- | --- | --- | --- |",
        *[
            f"| {each['name']} | {each['ours']} | {each['peer']} | {each['ratio']} "
            f"| {each['unit']} |"
            for each in found["bench"]
        ],
    ]
    return "\n".join(lines) + "\n"


def _probe(each: Mapping[str, Any]) -> str:
    replaced = ", ".join(f"{name}: {kernel}" for name, kernel in each["replaced"].items())
    cells = (Case(**each["case"]).name, each["tile"], replaced or "none", each["refused"] or "no")
    return f"| {' | '.join(map(str, cells))} |"
