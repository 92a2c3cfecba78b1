"""Settings in TOML: strict, frozen, and errors that name the key as it stands in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from common.errors import SiteError
from common.settings import Section, load_toml


class Cat(Section):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Section):
    kind: Literal["dog"]
    tricks: tuple[str, ...] = ()


class House(Section):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    rooms: dict[str, Cat] = Field(default_factory=dict)
    size: float | Literal["small"] = "small"


def load(tmp_path: Path, text: str) -> House:
    path = tmp_path / "house.toml"
    path.write_text(text)
    return load_toml(path, House, SiteError)


def found(tmp_path: Path, text: str) -> str:
    with pytest.raises(SiteError) as caught:
        load(tmp_path, text)
    return caught.value.details["found"]


def test_a_file_becomes_frozen_sections(tmp_path: Path) -> None:
    house = load(tmp_path, '[pet]\nkind = "dog"\ntricks = ["sit"]')
    assert house == House(pet=Dog(kind="dog", tricks=("sit",)))
    with pytest.raises(ValidationError, match="frozen"):
        house.size = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[pet]\nkind = "cat"\nlifes = 1', "pet.lifes: unknown key; did you mean lives?"),
        ('[pet]\nkind = "dog"\nlives = 1', "pet.lives: unknown key; known keys: kind, tricks"),
        ('[pet]\nkind = "cow"', "pet.kind = 'cow': should be one of 'cat', 'dog'"),
        ("[pet]\nlives = 1", "pet.kind: missing"),
        (
            '[pet]\nkind = "cat"\n[rooms.none]\nkind = "cat"\nlive = 1',
            "rooms.none.live: unknown key; did you mean lives?",
        ),
        ('[pet]\nkind = "cat"\n[rooms.cat]\nlives = 1', "rooms.cat.kind: missing"),
        ('[pet]\nkind = "cat"\nlives = "many"', "pet.lives = 'many': Input should be"),
        ('size = nan\n[pet]\nkind = "cat"', "size = nan: "),
    ],
)
def test_a_fault_is_told_with_its_key_and_what_was_found(
    tmp_path: Path, text: str, told: str
) -> None:
    assert found(tmp_path, text).startswith(told)


def test_what_every_kind_of_a_value_has_against_it_is_one_fault(tmp_path: Path) -> None:
    told = found(tmp_path, 'size = "large"\n[pet]\nkind = "cat"')
    assert told.startswith("size = 'large': ")
    assert "'small'" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_no_number_is_infinite_or_none_at_all(tmp_path: Path, value: str) -> None:
    assert "finite" in found(tmp_path, f'size = {value}\n[pet]\nkind = "cat"')


def test_an_error_says_that_nothing_was_changed(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"a setting in house\.toml cannot be used") as caught:
        load(tmp_path, 'pets = 1\n[pet]\nkind = "cat"')
    assert "nothing was changed" in caught.value.details["do"]
    with pytest.raises(SiteError, match=r"2 settings in house\.toml cannot be used"):
        load(tmp_path, 'pets = 1\nroom = 1\n[pet]\nkind = "cat"')
