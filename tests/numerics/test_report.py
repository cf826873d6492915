"""The command ``numerics``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tmsgd_bench import cli, manifest
from tmsgd_bench.numerics import NAMES, experiments, figures, report
from tmsgd_bench.numerics.experiments import Tables
from tmsgd_bench.numerics.problems import DESCENTS, FLOWS, powers_of_two

Capture = pytest.CaptureFixture[str]

SMALL: dict[str, Callable[[], Tables]] = {
    "order": lambda: experiments.order(tuple(replace(flow, steps=powers_of_two(5, 8)) for flow in FLOWS)),
    "regions": lambda: experiments.regions(angles=90),
    "early": lambda: experiments.early(DESCENTS[:2]),
    "frequency": lambda: experiments.frequency(length=64),
    "limits": lambda: experiments.limits(momenta=(0.0, 0.3, 0.6, 0.9), tolerance=0.5),
    "noise": lambda: experiments.noise(chains=20, length=20),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every experiment with fewer steps, and drawn once."""
    monkeypatch.setattr(figures, "KINDS", ("png",))
    for name, measure in SMALL.items():
        monkeypatch.setitem(experiments.MEASURE, name, measure)


def refusal(capsys: Capture, *arguments: object) -> str:
    assert cli.main(["numerics", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\.\n", err)
    return err


@pytest.mark.usefixtures("small")
def test_the_command_prints_and_writes_every_experiment(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "new" / "folder"
    assert cli.main(["numerics", "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    titles = re.findall(r"^([A-Z]+)\. ", out, flags=re.MULTILINE)
    assert titles == [name.upper() for name in NAMES]
    assert max(map(len, out.splitlines())) <= 120
    tables = ["order_fitted", "early_paths", "early_switch"]
    expected = {f"{name}.{kind}" for name in NAMES for kind in ("csv", "png")} | {f"{t}.csv" for t in tables}
    assert {path.name for path in folder.iterdir()} == expected | {manifest.NAME}
    for name in NAMES:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width == round(200 * figures.FULL_WIDTH)
            assert (
                len(set(image.convert("L").get_flattened_data() if hasattr(image, "get_flattened_data") else [])) != 1
            )
        assert not pd.read_csv(folder / f"{name}.csv").empty


def test_the_names_of_the_command_are_those_of_the_experiments() -> None:
    assert tuple(experiments.MEASURE) == tuple(figures.DRAW) == tuple(report.DESCRIBE) == NAMES


def test_the_same_command_writes_the_same_bytes_and_the_measured_numbers(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        report.run(folder, ["frequency"], say=lambda text: None)
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == ["frequency.csv", "frequency.pdf", "frequency.png", "manifest.json"]
    assert manifest.problems(tmp_path / "one", written[:3]) == []
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    numbers = pd.read_csv(tmp_path / "one" / "frequency.csv")
    pd.testing.assert_frame_equal(numbers, experiments.frequency()["frequency"], rtol=1e-6, atol=0.0)


@pytest.mark.usefixtures("small")
def test_only_some_experiments_leave_the_files_of_the_others_alone(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "noise.csv").write_text("kept")
    assert cli.main(["numerics", "--out", str(tmp_path), "--only", "frequency"]) == 0
    assert "FREQUENCY" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "noise.csv",
        "frequency.csv",
        "frequency.png",
        "manifest.json",
    }
    assert (tmp_path / "noise.csv").read_text() == "kept"


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MEASURE", {})
    (tmp_path / "file").write_text("")
    message = refusal(capsys, "--out", tmp_path / "file" / "numerics")
    assert "another folder with --out FOLDER" in message


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "frequency.csv").mkdir()
    message = refusal(capsys, "--out", tmp_path, "--only", "frequency")
    assert str(tmp_path / "frequency.csv") in message and "another folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["frequency.csv"]


def test_an_unknown_experiment_is_refused_with_the_known_ones(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["numerics", "--out", str(tmp_path), "--only", "chaos"])
    assert raised.value.code == 2
    assert "'chaos'" in (message := capsys.readouterr().err)
    assert all(name in message for name in NAMES)


def test_the_help_says_that_the_problems_are_not_the_papers(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["numerics", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "section III-B" in out
    assert "are this project's own" in out


def test_other_commands_do_not_wait_for_torch_or_matplotlib() -> None:
    code = "import sys, tmsgd_bench.cli; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
