"""What is published is what its evidence gives: on the real results, and on small ones that are tampered with."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest

from tmsgd_bench import cli, manifest
from tmsgd_bench.results import published

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
WriteRun = Callable[..., Path]
RECORD = """\
commands:
  - table 5 --results results/table5/runs.parquet --out results/table5
  - compare --results results/table5 --format csv > results/table5/all.csv
quoted:
  results/README.md: [compare --results results/*5]
slow:
  - claims --results results/table5 --numerics results/table5 --out results/claims
not_derived:
  results/step: it is a measurement
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """A table with its evidence, made by the commands that ``published.yaml`` names, and a page that quotes it."""
    place = tmp_path_factory.mktemp("made")
    folder = place / "results"
    for seed in range(2):
        for optimizer in ("sgd", "tmsgd"):
            write_run(place / "store", optimizer, seed, final=90.0 + seed + len(optimizer))
    assert cli.main(["table", "5", "--results", str(place / "store"), "--out", str(folder / "table5")]) == 0
    (folder / "published.yaml").write_text(RECORD)
    (folder / "step").mkdir()
    (folder / "step" / "cpu.json").write_text("{}")
    with chdir(place), redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["verify", "--write"]) == 0
        assert cli.main(["compare", "--results", "results/table5"]) == 0
    (folder / "README.md").write_text(f"# Mine\n\n{printed.getvalue()}")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them in the current folder."""
    folder = tmp_path / "here" / "results"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder.parent)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified(capsys: Capture, *words: str | Path) -> tuple[int, list[str]]:
    """The exit code, and the lines that name differences."""
    capsys.readouterr()
    code = cli.main(["verify", *map(str, words)])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("DIFFERS")]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_everything_published_is_what_its_evidence_gives(capsys: Capture) -> None:
    code = cli.main(["verify", str(ROOT / "results")])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(line for line in lines if line.startswith("DIFFERS"))
    assert not [line for line in lines if "no command" in line and is_tracked(line.split(": ")[1])]


def is_tracked(name: str) -> bool:
    """Whether a file belongs to the project, and not to who works on it; without git all do."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return True
    return subprocess.run(["git", "ls-files", "--error-unmatch", name], cwd=ROOT, capture_output=True).returncode == 0


def test_what_is_as_published_passes_and_nothing_is_changed(results: Path, capsys: Capture) -> None:
    before = contents(results)
    assert cli.main(["verify"]) == 0
    printed = capsys.readouterr().out
    assert "results/table5: 3 of 3 files are as published" in printed
    assert "not re-derived: results/step: it is a measurement" in printed
    assert "5 of 5 files are as their evidence gives them" in printed
    assert contents(results) == before


def test_folders_of_a_readers_own_runs_are_passed_over(results: Path, capsys: Capture) -> None:
    for name in ("runs", "runs-out/table5", "demo", "table5/some-out"):
        (results / name).mkdir(parents=True)
        (results / name / "table5.md").write_text("mine")
    assert cli.main(["verify"]) == 0
    assert "table5.md" not in capsys.readouterr().out


def test_slow_commands_are_said_and_run_when_asked_for(results: Path, capsys: Capture) -> None:
    assert cli.main(["verify", "--write", "--slow"]) == 0 and (results / "claims" / "claims.md").exists()
    assert cli.main(["verify"]) == 0
    assert "not re-derived: results/claims: takes long: add --slow" in capsys.readouterr().out
    edit(results / "claims" / "claims.csv", "supported", "undecided")
    code, differences = verified(capsys, "--slow")
    assert code == 1 and len(differences) == 1 and "results/claims/claims.csv: row" in differences[0]


def test_a_changed_cell_is_named_file_by_file(results: Path, capsys: Capture) -> None:
    edit(results / "table5" / "table5.csv", "93.5", "93.7")
    edit(results / "table5" / "table5.md", "93.50", "93.70")
    code, differences = verified(capsys)
    assert code == 1
    assert differences[0].startswith("DIFFERS: results/table5/table5.csv: row 1, column 7 (mean): published “93.7”")
    assert "results/table5/table5.md: line" in differences[1] and len(differences) == 2


def test_other_evidence_gives_other_numbers(
    results: Path, capsys: Capture, tmp_path: Path, write_run: WriteRun
) -> None:
    write_run(tmp_path / "more", "sgd", 7, final=50.0)
    assert cli.main(["pack", str(tmp_path / "more"), "--out", "results/table5/runs.parquet"]) == 0
    code, differences = verified(capsys)
    assert code == 1 and len([line for line in differences if "/table5/table5." in line]) == 3
    assert any("results/README.md: it lacks a row that 'compare" in line for line in differences)
    assert cli.main(["verify", "--write"]) == 0
    assert [line.partition(":")[2].split(":")[0].strip() for line in verified(capsys)[1]] == ["results/README.md"]


def test_damaged_evidence_is_named(results: Path, capsys: Capture) -> None:
    data = bytearray((results / "table5" / "runs.parquet").read_bytes())
    data[len(data) // 2] ^= 255
    (results / "table5" / "runs.parquet").write_bytes(bytes(data))
    code, differences = verified(capsys)
    assert code == 1 and any("runs.parquet is damaged" in line for line in differences)


@pytest.mark.parametrize("name", ["table5/table5.tex", "table5/all.csv"])
def test_a_missing_file_is_named_and_written_again(results: Path, capsys: Capture, name: str) -> None:
    (results / name).unlink()
    assert verified(capsys) == (1, [f"DIFFERS: results/{name}: it is missing"])
    assert cli.main(["verify", "--write"]) == 0
    assert verified(capsys) == (0, [])


def test_a_file_that_its_command_no_longer_makes_is_named(results: Path, capsys: Capture) -> None:
    (results / "table5" / "old.md").write_text("| old |")
    manifest.amend(results / "table5", add=["old.md"])
    code, differences = verified(capsys)
    assert code == 1 and differences == ["DIFFERS: results/table5/old.md: its command does not make it"]


def test_pictures_are_checked_by_their_checksums_alone(results: Path, capsys: Capture) -> None:
    (results / "step" / "time.png").write_bytes(b"drawn")
    manifest.amend(results / "step", add=["time.png"])
    assert verified(capsys) == (0, [])
    (results / "step" / "time.png").write_bytes(b"drown")
    assert verified(capsys) == (1, ["DIFFERS: results/step/time.png: differs from its checksum"])


def test_a_file_that_nothing_makes_is_said(results: Path, capsys: Capture) -> None:
    (results / "figures").mkdir()
    (results / "figures" / "figure1.csv").write_text("a\n1\n")
    assert cli.main(["verify"]) == 0
    said = "not re-derived: results/figures/figure1.csv: no command in published.yaml makes it"
    assert said in capsys.readouterr().out.splitlines()


def test_a_page_that_quotes_what_is_not_printed_is_named(results: Path, capsys: Capture) -> None:
    edit(results / "published.yaml", "[compare --results results/*5]", "[compare --results results/*5 --format csv]")
    assert "results/README.md: 'compare --results results/*5 --format csv' prints no table" in verified(capsys)[1][0]


def test_a_folder_of_another_name_is_compared_but_not_written(results: Path, capsys: Capture) -> None:
    results.rename(results.with_name("copy"))
    assert verified(capsys, "copy") == (0, [])
    assert cli.main(["verify", "copy", "--write"]) == 2
    assert "give the folder that name first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "pack results/table5 --out results/x.parquet",
        "table 5 --results results/table5/runs.parquet --out /elsewhere/x",
        "table 5 --results results/table5/runs.parquet --out=/elsewhere/x",
        "table 5 --results results/../../x --out results/x",
        "table 5 --results results/table5/runs.parquet --out results",
        "table 5 --results results/table5/runs.parquet --out ..",
        "compare --results results/table5 > ../x",
        "compare --results results/table5 > results",
        "compare --results results/table5",
        "'",
        "",
        "5",
    ],
)
def test_a_command_that_could_write_elsewhere_is_refused(results: Path, capsys: Capture, line: str) -> None:
    edit(results / "published.yaml", "table 5 --results results/table5/runs.parquet --out results/table5", repr(line))
    before = contents(results.parent)
    for words in (["verify"], ["verify", "--write"]):
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert "published.yaml" in error and error.count("\n") == 1
    assert contents(results.parent) == before


@pytest.mark.parametrize("text", ["", "- 1", "commands: {}", "a: [", RECORD + "more: 1\n", "\0", "commands: 1\n"])
def test_a_record_of_another_form_is_refused(results: Path, capsys: Capture, text: str) -> None:
    (results / published.NAME).write_text(text)
    assert cli.main(["verify"]) == 2
    assert "published.yaml" in capsys.readouterr().err


def test_a_folder_without_a_record_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "there is no published.yaml in" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--nonsense", "--protocol nonsense"])
def test_a_command_with_wrong_options_counts_as_a_difference(results: Path, capsys: Capture, option: str) -> None:
    edit(results / "published.yaml", "--format csv >", f"{option} >")
    code, differences = verified(capsys)
    assert code == 1 and "results/table5/all.csv: 'compare" in differences[0] and "correct it" in differences[0]
