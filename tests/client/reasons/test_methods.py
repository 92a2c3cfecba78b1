"""The list of methods, and what is said when one cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.reasons.methods import METHODS, fitting, method_for
from common.errors import ConsiliumError
from tests.common.studies import DENSE, small_study

SCATTERING = small_study(model={"name": "scattering"})
MASKS = small_study(task={"kind": "segmentation", "classes": ["lesion"]}, model=DENSE)


def test_a_method_is_known_by_its_own_name() -> None:
    assert [*METHODS] == ["grad_cam", "occlusion", "integrated_gradients", "contributions"]
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title
        assert method.shows.endswith(".")
        assert method.hides.endswith(".")


def test_each_model_has_the_methods_that_fit() -> None:
    assert fitting(small_study()) == ("grad_cam", "occlusion", "integrated_gradients")
    assert fitting(MASKS) == ("grad_cam", "occlusion", "integrated_gradients")
    assert fitting(SCATTERING) == ("integrated_gradients", "contributions")


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConsiliumError, match="no such method") as raised:
        method_for("magic", SCATTERING)
    assert "grad_cam, occlusion" in str(raised.value)


def test_a_method_that_does_not_fit_is_refused_with_those_that_do() -> None:
    assert method_for("contributions", SCATTERING) is METHODS["contributions"]
    with pytest.raises(ConsiliumError, match="cannot explain") as raised:
        method_for("grad_cam", SCATTERING)
    assert raised.value.details["wanted"] == "one of integrated_gradients, contributions"


def test_what_is_not_installed_is_refused_with_the_line_that_installs_it(root: Path) -> None:
    """In a process in which captum cannot be found, the others still work."""
    program = """
import sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "captum" else found(name, *rest)
from client.reasons.methods import METHODS, fitting, method_for
from common.errors import ConsiliumError
from tests.common.studies import small_study
assert not METHODS["integrated_gradients"].available
assert fitting(small_study()) == ("grad_cam", "occlusion")
try:
    method_for("integrated_gradients", small_study())
except ConsiliumError as error:
    print(error.details["do"])
assert "captum" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout == "install it: pip install 'consilium[reasons]'\n", done.stderr
