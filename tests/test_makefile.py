"""The Makefile: what each target would do, without doing it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
TUNED = ("tc", "ctr", "fkpd", "ic")
SWEEPS = ("demo", "table3", "table4", "table5", "ic", "seg", "ig", "ctr", "fig1", "fig2", "switch", "paper")


def recipe(*arguments: str) -> list[str]:
    """The commands of the package and of run.py that make would run."""
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "run.py" in line or "-m tmsgd_bench" in line]


@needs_make
@pytest.mark.parametrize("plan", ["plan=true", "plan=True", "epochs=3 +plan=true", "'plan=true'"])
def test_nothing_is_made_after_a_plan(plan: str) -> None:
    lines = recipe(*SWEEPS, f"ARGS={plan}")
    assert lines and all("run.py" in line for line in lines)


@needs_make
def test_every_sweep_is_followed_by_what_is_made_of_it() -> None:
    lines = recipe(*SWEEPS, "ARGS=plan=false")
    assert sum("-m tmsgd_bench table" in line for line in lines) == 7
    assert sum("-m tmsgd_bench compare --results results/demo" in line for line in lines) == 1
    assert sum("-m tmsgd_bench figure" in line for line in lines) == 3
    assert "-m tmsgd_bench report" in lines[-1] and "plan" not in lines[-1]


@needs_make
def test_reduced_plans_every_task_first_and_then_makes_a_table_of_each() -> None:
    lines = recipe("reduced", "TASKS=tc od")
    plans, sweeps = lines[:2], [line for line in lines[2:] if "run.py" in line]
    assert all("plan=true" in line for line in plans) and not any("plan=true" in line for line in sweeps)
    for task, number, plan, line in zip(("tc", "od"), ("5", "3"), plans, sweeps, strict=True):
        assert f"task={task} " in plan and f"task={task} " in line
        after = lines[lines.index(line) + 1]
        assert f"table {number} " in after and f"--out results/runs-out/reduced/{task} --protocol reduced" in after
    assert all("plan=true" in line for line in recipe("reduced", "ARGS=plan=true"))
    assert "claims" in lines[-1] and "--protocol reduced" in lines[-1]


@needs_make
def test_reduced_runs_on_synthetic_data_have_their_tables_and_no_claims() -> None:
    lines = recipe("reduced", "TASKS=tc od", "ARGS=data=synthetic")
    assert sum("--data synthetic" in line for line in lines) == 2 and not any("claims" in line for line in lines)


@needs_make
def test_tuned_plans_and_makes_every_search_before_its_test() -> None:
    lines = recipe("tuned", "TASKS=tc ctr", "ARGS=data=synthetic")
    assert all("experiment=search" in line and "plan=true" in line for line in lines[:2])
    for task in ("tc", "ctr"):
        search, test = (line for line in lines[2:] if f"task={task} " in line)
        assert "experiment=search" in search and "plan=true" not in search
        assert f"--task {task} --data synthetic --settings" in test and "experiment=tuned" in test
    last = lines[-2:]
    assert "tuned --results" in last[0] and "figure lr" in last[1]
    assert not any(" claims " in line for line in lines)  # synthetic data decide none
    assert "--protocol tuned" in recipe("tuned", "TASKS=tc")[-1]
    assert all("experiment=search" in line for line in recipe("tuned", "ARGS=plan=true"))
    assert not any("experiment=tuned" in line for line in recipe("search"))


@needs_make
def test_tuned_has_tasks_and_seeds_of_its_own_unless_they_are_given() -> None:
    lines = recipe("tuned")
    assert {task for line in lines for task in TUNED if f"task={task} " in line} == set(TUNED)
    assert not any("seed=" in line or "task=seg" in line for line in lines)
    given = [line for line in recipe("tuned", "SEEDS=2010,2011") if "seed=2010,2011" in line]
    assert given and all("experiment=tuned" in line for line in given)


@needs_make
@pytest.mark.parametrize("results", ["results/runs", "results/table5", "results/demo/", "a b"])
def test_what_is_made_of_a_store_is_written_beside_it_and_not_over_what_is_published(results: str) -> None:
    given = [] if results == "results/runs" else [f"RESULTS={results}"]
    for target in ("table5", "report", "switch", "reduced", "tuned"):
        places = [line.partition("--out ")[2] for line in recipe(target, *given) if "--out " in line]
        assert places and all(place.startswith(f"{results.split()[0].rstrip('/')}-out/") for place in places)


@needs_make
@pytest.mark.parametrize("setting", ["RESULTS=o'brien", 'OUT=a"b', "RESULTS=a;b"])
def test_a_name_that_the_shell_would_read_otherwise_is_refused(setting: str) -> None:
    ended = subprocess.run(["make", "-n", "table5", setting], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode != 0 and setting in ended.stderr and len(ended.stderr.splitlines()) == 1


@needs_make
def test_clean_deletes_no_environment_that_setup_did_not_make(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("plain", "made"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").touch()
    (tmp_path / "made" / ".ready").touch()
    for name in ("plain", "made", ".", ""):
        subprocess.run(["make", "clean", f"VENV={name}"], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "plain"}


@needs_make
@pytest.mark.parametrize("setting", ["RESULTS=", "OUT=", "ARGS=results.root=elsewhere"])
def test_folders_that_would_be_other_ones_than_meant_are_refused(setting: str) -> None:
    ended = subprocess.run(["make", "-n", "table5", setting], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode != 0 and "RESULTS" in ended.stderr and len(ended.stderr.splitlines()) == 1
