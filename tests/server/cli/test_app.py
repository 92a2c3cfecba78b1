"""What an operator types where there is no daemon yet, or none that answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from common.errors import CoordinatorError, LinkError, ModelError, StudyError
from common.study.study_file import load_study
from server.cli.app import app
from server.cli.commands import checked_study, say_started
from server.cli.rpc_client import Caller, calling
from server.daemon.authority import coordinator_card
from server.daemon.settings import load_home


def cli(home: Path, *words: object) -> Result:
    result = CliRunner().invoke(app, ["--home", str(home), *(str(word) for word in words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_init_shows_the_fingerprint_and_what_comes_next(tmp_path: Path) -> None:
    said = cli(tmp_path / "home", "init", "demo", "--address", "localhost:8443").stdout
    assert coordinator_card(load_home(tmp_path / "home")).fingerprint in said
    for step in ("serve", "admit SITE.json", "start STUDY.toml"):
        assert f"consilium-coordinator {step}" in said


def test_a_second_init_changes_nothing_and_shows_the_same(tmp_path: Path) -> None:
    words = ("init", "demo", "--address", "localhost:8443")
    first, second = (cli(tmp_path, *words).stdout for _ in range(2))
    assert "nothing was changed" in second
    assert first.splitlines()[1] == second.splitlines()[1]


@pytest.mark.parametrize("words", [("sites",), ("studies",), ("stop", "small"), ("serve",)])
def test_without_a_home_a_command_says_how_to_make_one(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(CoordinatorError, match="no coordinator here") as caught:
        cli(tmp_path, *words)
    assert "consilium-coordinator init" in caught.value.details["do"]


def test_without_a_daemon_a_command_says_how_to_start_one(tmp_path: Path) -> None:
    cli(tmp_path, "init", "demo", "--address", "localhost:8443")
    with pytest.raises(LinkError, match="is not running"):
        cli(tmp_path, "studies")


def test_operators_are_named_at_the_coordinator_alone(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorError, match="at the coordinator itself"):
        cli(tmp_path, "--connect", "localhost:9", "operator", "ada")


def test_an_operators_certificate_is_kept_from_others(tmp_path: Path) -> None:
    cli(tmp_path / "home", "init", "demo", "--address", "localhost:8443")
    said = cli(tmp_path / "home", "operator", "ada", "--out", tmp_path).stdout
    assert str(tmp_path / "ada" / "ada.key") in said
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "ada").iterdir()} == {0o600}


def test_without_a_certificate_nothing_is_asked_over_the_network(tmp_path: Path) -> None:
    with (
        pytest.raises(CoordinatorError, match="no operator's certificate"),
        calling(Caller(tmp_path, "localhost:9", tmp_path)),
    ):
        pass


def test_help_is_there_at_once_without_torch() -> None:
    program = "import sys, server.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_study_file_is_read_before_anything_is_sent(tmp_path: Path, root: Path) -> None:
    demo = root / "simulations" / "studies" / "demo.toml"
    assert checked_study(demo) == (demo.read_text(), b"")
    assert load_study(demo)
    with pytest.raises(StudyError, match="no such file"):
        checked_study(tmp_path / "absent.toml")
    small = tmp_path / "small.toml"
    small.write_text(demo.read_text().replace("image_size = [", "image_size = [4, 4] # ["))
    with pytest.raises(ModelError, match="size"):
        checked_study(small)


def test_a_start_says_whom_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    from common.control import coordinator_pb2 as pb
    from common.process.console import out

    reply = pb.StartReply(
        study="small",
        sites=["north", "south"],
        offline=["south"],
        round_timeout="30m",
        approval_timeout="7d",
    )
    say_started(reply, out())
    said = capsys.readouterr().out
    assert "Not connected now: south" in said
    assert "consilium-site show small" in said
    assert "waits 7d" in said
