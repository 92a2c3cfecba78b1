from __future__ import annotations

from pathlib import Path

from simulations.reports.plots import Plot, draw_all, write_figures
from simulations.reports.result import Result

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_run_with_baselines_and_evaluation_gives_seven_pictures(
    tmp_path: Path, made_plots: tuple[Plot, ...]
) -> None:
    write_figures(tmp_path, made_plots)

    names = [
        "comparison",
        "learning-curves",
        "roc",
        "calibration",
        "epsilon",
        "fairness",
        "federated-evaluation",
    ]
    assert [plot.name for plot in made_plots] == names
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in names}
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())


def test_the_same_result_gives_the_same_bytes(
    made_result: Result, made_plots: tuple[Plot, ...]
) -> None:
    assert draw_all(made_result) == made_plots


def test_the_learning_curve_says_that_no_hospital_could_compute_it(
    made_plots: tuple[Plot, ...],
) -> None:
    curves = next(plot for plot in made_plots if plot.name == "learning-curves")

    assert "Only a simulation has one: no hospital could compute this" in curves.text


def test_what_must_be_said_beside_every_figure_stands_in_every_picture(
    made_result: Result, made_plots: tuple[Plot, ...]
) -> None:
    silent = made_result.hospitals.model_copy(update={"facts": ()})
    without = draw_all(made_result.model_copy(update={"hospitals": silent}))

    assert all(one.svg != other.svg for one, other in zip(without, made_plots, strict=True))


def test_without_privacy_evaluation_and_baselines_the_rest_is_drawn(made_result: Result) -> None:
    bare = without_privacy(made_result)

    assert [plot.name for plot in draw_all(bare)] == [
        "learning-curves",
        "roc",
        "calibration",
    ]


def without_privacy(result: Result) -> Result:
    sites = {
        name: site.model_copy(update={"epsilon_training": None, "spent": ()})
        for name, site in result.per_site.items()
    }
    study = result.study.model_copy(update={"privacy": "none", "epsilon": None})
    return result.model_copy(
        update={
            "study": study,
            "per_site": sites,
            "federated_evaluation": (),
            "baselines": (),
            "at_sites": {},
        }
    )
