from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from simulations.reports.plots import Plot
from simulations.reports.report import epsilon, render, write_report
from simulations.reports.result import Result, StudyFacts


class Page(HTMLParser):
    """The words of a page in reading order, and everything that it could load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in {"style", "title"} and data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return re.sub(r"\s+([.,:])", r"\1", " ".join(self.words))


@pytest.fixture(scope="module")
def page(made_result: Result, made_plots: tuple[Plot, ...]) -> Page:
    return Page(render(made_result, made_plots))


def test_the_first_lines_are_the_warnings(page: Page) -> None:
    assert page.words[0] == "NOT PRIVATE: KNOWN KEY (a simulation, or a daemon set up as one)"
    assert page.words[1] == "The pictures are of nobody."


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    assert page.loads
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_style_sheet_and_pictures_name_no_address(
    made_result: Result, made_plots: tuple[Plot, ...]
) -> None:
    html = render(made_result, made_plots)

    assert "@import" not in html
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html


def test_the_summary_says_what_was_gained_and_what_it_cost(page: Page) -> None:
    assert "trained one model together over 60 rounds" in page.text
    assert (
        "reaches 0.840: taking part improves its AUC by 0.060. The two 95 % intervals overlap: "
        "with so few test patients, the difference can be chance. With all images pooled"
        in page.text
    )
    assert "no hospital's patient paid more than ε = 7.999 at δ = 10 −5" in page.text
    assert "e 8 ≈ 2,981" in page.text


def test_every_model_has_a_row_and_every_hospital_its_epsilon(page: Page) -> None:
    for site in ("east", "north", "south", "west"):
        assert page.text.count(f"{site} alone") >= 2
    assert "All data pooled no privacy 0.950" in page.text
    assert "7.996 0.790" in page.text


def test_every_hospital_s_weight_stands_with_its_share(
    page: Page, made_result: Result, made_plots: tuple[Plot, ...]
) -> None:
    assert "hospital declared patients weight share of the average" in page.text
    assert page.text.count("220 220 25.0 %") == 4
    assert "counts for more than" not in page.text
    study = made_result.study.model_copy(update={"max_share": 0.4})
    capped = Page(render(made_result.model_copy(update={"study": study}), made_plots))
    assert "no hospital counts for more than 40 % of those that answered" in capped.text


def test_a_figure_that_noise_has_drowned_is_called_meaningless(page: Page) -> None:
    assert "no: noise exceeds signal: 9 patients of class clear" in page.text


def test_it_says_how_to_get_the_same_again(page: Page, made_result: Result) -> None:
    assert "consilium-sim demo --out runs/demo" in page.text
    assert made_result.final_weights_sha256 in page.text
    assert "torch 2.13.0" not in page.text  # the record's versions are those of the run
    assert "flwr 1.41.0" in page.text


def test_a_study_without_privacy_says_so_and_claims_no_bound(made_result: Result) -> None:
    study = made_result.study.model_copy(update={"privacy": "none", "epsilon": None})
    sites = {
        name: site.model_copy(
            update={"epsilon_training": None, "epsilon_evaluation": None, "noise_multiplier": None}
        )
        for name, site in made_result.per_site.items()
    }
    warning = 'NOT PRIVATE: the study says mode = "none"'
    bare = made_result.model_copy(
        update={"study": study, "per_site": sites, "warnings": (warning,), "delta": None}
    )
    page = Page(render(bare, ()))

    assert page.words[0] == warning
    assert "nothing limits what the updates reveal" in page.text
    assert "odds" not in page.text


def test_text_from_the_study_is_escaped(made_result: Result) -> None:
    study: StudyFacts = made_result.study.model_copy(update={"title": "<script>a</script>"})
    html = render(made_result.model_copy(update={"study": study}), ())

    assert "<script>" not in html


def test_epsilon_is_rounded_up_never_down() -> None:
    assert epsilon(7.99901) == "8.000"
    assert epsilon(0.79) == "0.790"
    assert epsilon(None) == "∞"


def test_report_and_pictures_are_written_beside_the_result(
    tmp_path: Path, made_result: Result
) -> None:
    path = write_report(tmp_path, made_result)

    assert path == tmp_path / "report.html"
    assert len(list((tmp_path / "figures").glob("*.png"))) == 7


def test_models_are_compared_patient_by_patient(made_result: Result) -> None:
    name = made_result.metrics.headline
    pooled = made_result.of_kind("pooled")[0]
    numbers = [0.5, 0.7, None, 0.9]
    result = made_result.model_copy(
        update={
            "shared": made_result.shared.model_copy(
                update={"each": {name: ((0.4, 0.5, 0.1, 0.6),)}}
            ),
            "baselines": (pooled.model_copy(update={"each": {name: (tuple(numbers),)}}),),
        }
    )
    words = Page(render(result, ())).text

    # Differences of -0.1, -0.2 and -0.3: Student's quantile is 4.303, and the spread is 0.1.
    assert (
        f"All data pooled no privacy {made_result.study.classes[0]} −0.200 −0.448 – +0.048" in words
    )
    assert "patient by patient" in words.lower()
    assert "patient by patient" not in Page(render(made_result, ())).text.lower()
