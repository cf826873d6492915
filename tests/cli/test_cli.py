"""The command line: what it prints, writes and returns, on stores made by hand and by real training."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import tasks
from tmsgd_bench import __version__, cli, manifest
from tmsgd_bench.cli import figure
from tmsgd_bench.data.catalog import catalog, find
from tmsgd_bench.data.croissant import card
from tmsgd_bench.data.synthetic import r8
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.results import packed, store, tables
from tmsgd_bench.task import Task, TaskSettings

WriteRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path, write_run: WriteRun) -> Path:
    """A store with a run of every lasting status."""
    root = tmp_path / "store"
    for seed, (one, other) in enumerate([(90.0, 90.5), (91.0, 92.25), (90.25, 90.25)]):
        write_run(root, "sgd", seed, final=one)
        write_run(root, "tmsgd", seed, final=other)
    write_run(root, "adam", 0, status="diverged")
    write_run(root, "adam", 1, status="failed")
    write_run(root, "apollo", 0, status="abandoned", data={"kind": "synthetic", "limit": 500}, protocols=["smoke"])
    return root


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without data: the default data root, which is empty."""
    monkeypatch.delenv("TMSGD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tmsgd-bench"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, synthetic_r8: Path) -> Path:
    """A store with two real runs, SGD and TM-SGD, of a tiny model on the synthetic R8."""
    root = tmp_path_factory.mktemp("trained")
    for optimizer in (
        {"name": "sgd", "label": "SGD", "_target_": "torch.optim.SGD", "lr": 0.1},
        {"name": "tmsgd", "label": "TM-SGD", "_target_": "tmsgd_bench.TMSGD", "lr": 0.1, "switch_epoch": 1},
    ):
        spec = RunSpec(
            task={"name": "tc", "dataset": "r8", "tokens": 16, "padding": "end"},
            model={"name": "lstm", "embedding": 6, "hidden": 4},
            data={"kind": "synthetic", "limit": 100, "fingerprint": f"synthetic-{r8.VERSION}"},
            optimizer=optimizer,
            epochs=2,
            batch_size=20,
            schedule=None,
            seed=0,
            protocols=("smoke",),
        )
        run(spec, RunOptions(root, device="cpu", progress="log"), lambda device: _task(synthetic_r8, device))
    return root


def _task(folder: Path, device: torch.device) -> Task:
    model = {"_target_": "tasks.tc.model.LSTMClassifier", "embedding": 6, "hidden": 4}
    settings = TaskSettings(folder, 100, 20, 0, device, model)
    return tasks.build("tasks.tc.TextClassification", settings, {"tokens": 16, "padding": "end"})


def ask(capsys: Capture, *arguments: object) -> str:
    """What a command that succeeds prints; it must be silent on stderr."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refusal(capsys: Capture, *arguments: object) -> str:
    """The sentence of a command that is refused: exit code 2, one line on stderr, nothing on stdout."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\.\n", err)
    return err


def usage_error(capsys: Capture, *arguments: str) -> str:
    """What argparse says to arguments it cannot read."""
    with pytest.raises(SystemExit) as raised:
        cli.main(list(arguments))
    assert raised.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def folder_of_stores(tmp_path: Path, runs: Path) -> Path:
    """A folder as results/reduced is: it holds packed runs and a folder of runs, and none itself."""
    root = tmp_path / "several"
    (root / "text").mkdir(parents=True)
    assert cli.main(["pack", str(runs), "--out", str(root / "packed" / "runs.parquet")]) == 0
    assert cli.main(["pack", str(runs), "--out", str(root / "other.parquet")]) == 0
    runs.rename(root / "store")
    return root


@pytest.mark.parametrize(
    "command",
    [
        ["claims", "--results", "ROOT"],
        ["table", "5", "--results", "ROOT"],
        ["compare", "--results", "ROOT"],
        ["runs", "--results", "ROOT"],
        ["show", "tc-lstm", "--results", "ROOT"],
        ["report", "--results", "ROOT", "--out", "OUT"],
        ["figure", "switch", "--results", "ROOT", "--out", "OUT"],
        ["export", "OUT.csv", "--results", "ROOT"],
        ["pack", "ROOT", "--out", "OUT.parquet"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_of_stores_is_refused_with_their_names(
    capsys: Capture, folder_of_stores: Path, tmp_path: Path, command: list[str]
) -> None:
    """It would pass for an empty store, and every claim for not yet tested."""
    places = {"ROOT": str(folder_of_stores), "OUT": str(tmp_path / "out")}
    arguments = [word.replace("OUT", places["OUT"]) if "OUT" in word else places.get(word, word) for word in command]
    said = refusal(capsys, *arguments)
    inner = [str(folder_of_stores / name) for name in ("other.parquet", "packed", "store")]
    assert " ".join(inner) in said and str(folder_of_stores / "text") not in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.*"))


def test_stores_inside_a_store_are_left_alone(capsys: Capture, runs: Path, write_run: WriteRun) -> None:
    write_run(runs / "inner", "sgd", 7)
    assert len(listed(ask(capsys, "runs", "--results", runs))) == len(store.read_runs(runs))


# --- runs ----------------------------------------------------------------------------------------------------------


def listed(text: str) -> list[str]:
    """The run ids of a printed list."""
    return [line.split()[0] for line in text.splitlines()[1:]]


def line_of(text: str, start: str) -> str:
    """The printed line of the run whose id starts so."""
    (line,) = (line.strip() for line in text.splitlines() if line.strip().startswith(start))
    return line


def ids(root: Path, *starts: str) -> list[str]:
    names = store.read_runs(root)["run_id"]
    return [name for name in names if name.startswith(starts)]


def test_runs_lists_every_run_with_status_and_metric(capsys: Capture, runs: Path) -> None:
    text = ask(capsys, "runs", "--results", runs)
    assert listed(text) == list(store.read_runs(runs)["run_id"])
    assert line_of(text, "tc-lstm-tmsgd-switch2-seed1").split()[1:] == [
        "done",
        "3",
        "3",
        "92.25",
        "93.25",
        "real",
        "table2",
        "done",
        "it",
        "is",
    ]


def test_runs_shows_partial_data_and_why_a_run_failed(capsys: Capture, runs: Path) -> None:
    text = ask(capsys, "runs", "--results", runs)
    apollo = line_of(text, "tc-lstm-apollo")
    assert "synthetic, 500 examples" in apollo and "smoke" in apollo
    assert line_of(text, "tc-lstm-adam-seed1").endswith("ValueError: went wrong")


@pytest.mark.parametrize(
    ("filters", "starts"),
    [
        (["--optimizer", "sgd"], ["tc-lstm-sgd"]),
        (["--status", "failed"], ["tc-lstm-adam-seed1"]),
        (["--status", "diverged"], ["tc-lstm-adam-seed0"]),
        (["--data", "synthetic"], ["tc-lstm-apollo"]),
        (["--seed", "2"], ["tc-lstm-sgd-seed2", "tc-lstm-tmsgd-switch2-seed2"]),
        (["--optimizer", "tmsgd", "--seed", "0"], ["tc-lstm-tmsgd-switch2-seed0"]),
        (["--task", "tc", "--model", "lstm"], ["tc-lstm"]),
    ],
    ids=" ".join,
)
def test_runs_filters(capsys: Capture, runs: Path, filters: list[str], starts: list[str]) -> None:
    expected = ids(runs, *starts)
    assert expected
    assert listed(ask(capsys, "runs", "--results", runs, *filters)) == expected


@pytest.mark.parametrize("filters", [["--optimizer", "sgd", "--status", "failed"], ["--seed", "77"]])
def test_runs_says_so_if_none_matches(capsys: Capture, runs: Path, filters: list[str]) -> None:
    assert ask(capsys, "runs", "--results", runs, *filters) == "no runs match\n"


@pytest.mark.parametrize(
    ("command", "name"),
    [("runs", "task"), ("runs", "model"), ("runs", "optimizer"), ("compare", "task"), ("compare", "reference")],
)
def test_a_name_that_no_run_has_is_refused(capsys: Capture, runs: Path, command: str, name: str) -> None:
    text = refusal(capsys, command, "--results", runs, f"--{name}", "nonsense")
    assert "'nonsense'" in text and f"--{name}" in text


def test_runs_as_csv_is_the_whole_frame(capsys: Capture, runs: Path) -> None:
    read = pd.read_csv(io.StringIO(ask(capsys, "runs", "--results", runs, "--format", "csv")))
    frame = store.read_runs(runs)
    assert list(read.columns) == list(store.COLUMNS)
    for name in ("run_id", "status", "optimizer", "seed", "folder"):
        assert list(read[name]) == list(frame[name])
    pd.testing.assert_series_equal(read["final"], frame["final"].astype(float))


def test_runs_of_an_empty_store_is_empty(capsys: Capture, tmp_path: Path) -> None:
    assert ask(capsys, "runs", "--results", tmp_path) == f"there is no run in {tmp_path}\n"
    header = ask(capsys, "runs", "--results", tmp_path, "--format", "csv")
    assert header == ",".join(store.COLUMNS) + "\n"


@pytest.mark.slow
def test_runs_shows_real_runs(capsys: Capture, trained: Path) -> None:
    frame = store.read_runs(trained)
    assert list(frame["status"]) == ["done", "done"]
    text = ask(capsys, "runs", "--results", trained, "--optimizer", "tmsgd")
    assert listed(text) == [name for name in frame["run_id"] if "-tmsgd-" in name]
    assert f"{frame['final'][1]:.6g}" in text


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_prints_settings_outcome_environment_and_last_epochs(capsys: Capture, trained: Path) -> None:
    (name,) = ids(trained, "tc-lstm-tmsgd")
    text = ask(capsys, "show", name, "--results", trained)
    assert text.startswith(f"{name}: done\n")
    assert f"folder: {trained / name}\n" in text
    assert (trained / name / store.CONFIG).read_text() in text
    result = json.loads((trained / name / store.RESULT).read_text())
    assert f"weights_sha256: {result['weights_sha256']}\n" in text
    environment = json.loads((trained / name / store.ENVIRONMENT).read_text())
    assert f"  torch: {environment['packages']['torch']}\n" in text
    history = pd.read_parquet(trained / name / store.HISTORY)
    assert text.endswith("last epochs:\n" + history.tail(5).to_string(index=False) + "\n")


def test_show_takes_the_start_of_a_name(capsys: Capture, runs: Path) -> None:
    (name,) = ids(runs, "tc-lstm-tmsgd-switch2-seed1")
    assert ask(capsys, "show", "tc-lstm-tmsgd-switch2-seed1", "--results", runs) == ask(
        capsys, "show", name, "--results", runs
    )


def test_show_prefers_the_whole_name_to_a_longer_one(capsys: Capture, tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path)
    assert write_run(tmp_path, task={"name": f"{folder.name}-again"}).name.startswith(folder.name)
    assert ask(capsys, "show", folder.name, "--results", tmp_path).startswith(f"{folder.name}: done\n")


def test_show_prints_the_traceback_of_a_failed_run(capsys: Capture, runs: Path) -> None:
    text = ask(capsys, "show", "tc-lstm-adam-seed1", "--results", runs)
    assert ": failed\nValueError: went wrong\n" in text
    assert "Traceback\nValueError: x\n" in text


def test_show_prints_an_abandoned_run(capsys: Capture, runs: Path) -> None:
    text = ask(capsys, "show", "tc-lstm-apollo", "--results", runs)
    assert ": abandoned\nresumes when the same command is started again\n" in text
    assert "last epochs" not in text


@pytest.mark.parametrize("name", ["tc-lstm-s", "tc-lstm-sgd-seed9", "TC", "(", ""])
def test_show_refuses_a_name_that_is_not_one_runs(capsys: Capture, runs: Path, name: str) -> None:
    """It names the runs that match, if any do."""
    text = refusal(capsys, "show", name, "--results", runs)
    matching = ids(runs, name)
    assert (", ".join(matching) or "none") in text


def test_show_on_an_empty_store_matches_none(capsys: Capture, tmp_path: Path) -> None:
    assert "matches none" in refusal(capsys, "show", "tc", "--results", tmp_path)


# --- table ---------------------------------------------------------------------------------------------------------


def test_table_prints_the_papers_numbers_beside_ours(capsys: Capture, runs: Path) -> None:
    text = ask(capsys, "table", "5", "--results", runs)
    assert "| TM-SGD | 90.9 | 91.00 ± 1.09 (n=3) | +0.58 [−0.98, +2.15] (n=3, better in 2, equal in 1) |" in text
    assert "1 diverged; 1 failed" in text


def test_table_knows_other_data_and_protocols(capsys: Capture, trained: Path) -> None:
    assert cli.main(["table", "5", "--results", str(trained)]) == 0
    out, err = capsys.readouterr()
    assert "few seeds" not in out and "2 with --data synthetic --protocol smoke" in err
    text = ask(capsys, "table", "5", "--results", trained, "--data", "synthetic", "--protocol", "smoke")
    assert text.count("synthetic data; partial data (100 training examples); few seeds (n=1)") == 2


@pytest.mark.parametrize("form", ["md", "csv", "tex"])
def test_table_writes_the_form_it_prints(capsys: Capture, runs: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "deep" / "out"
    text = ask(capsys, "table", "5", "--results", runs, "--format", form, "--out", out)
    assert (out / f"table5.{form}").read_text(encoding="utf-8") == text
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "runs.parquet",
        "table5.csv",
        "table5.md",
        "table5.tex",
    ]


@pytest.fixture
def finished(tmp_path: Path, write_run: WriteRun) -> Path:
    """A store with finished runs only, some of which follow no protocol."""
    root = tmp_path / "finished"
    for seed in range(3):
        write_run(root, "sgd", seed, final=90.0 + seed)
        write_run(root, "tmsgd", seed, final=91.0 - seed / 4)
    write_run(root, "adam", 0, status="diverged")
    write_run(root, "sgd", 7, final=10.0, protocols=[])
    return root


@pytest.mark.parametrize("form", ["md", "csv", "tex"])
def test_the_evidence_of_a_table_gives_the_same_table(
    capsys: Capture, finished: Path, tmp_path: Path, form: str
) -> None:
    """Byte for byte, on a machine that has nothing but the written folder."""
    out = tmp_path / "out"
    options = ["--format", form, "--results"]
    before = ask(capsys, "table", "5", *options, finished, "--out", out)
    shutil.rmtree(finished)
    assert ask(capsys, "table", "5", *options, out) == before


def test_the_evidence_is_the_runs_in_the_table_without_large_files(
    capsys: Capture, finished: Path, tmp_path: Path
) -> None:
    in_table = [name for name in ids(finished, "tc") if "seed7" not in name]
    for name in in_table:
        (finished / name / "weights.pt").write_bytes(b"large")
    ask(capsys, "table", "5", "--results", finished, "--out", tmp_path / "out")
    published = packed.read(tmp_path / "out" / packed.NAME)
    assert sorted(published) == in_table
    for name, contents in published.items():
        assert contents == {p.name: p.read_bytes() for p in (finished / name).iterdir() if p.name != "weights.pt"}


def test_the_evidence_of_real_runs_gives_the_same_table(capsys: Capture, trained: Path, tmp_path: Path) -> None:
    options = ["--data", "synthetic", "--protocol", "smoke", "--results"]
    before = ask(capsys, "table", "5", *options, trained, "--out", tmp_path)
    assert ask(capsys, "table", "5", *options, tmp_path / "runs.parquet") == before


@pytest.mark.slow
def test_a_damaged_run_is_named_by_every_command_that_would_have_used_it(
    capsys: Capture, finished: Path, tmp_path: Path
) -> None:
    """It is in no number; a table, claims, a comparison and a report say that it is missing."""
    folder = finished / ids(finished, "tc-lstm-sgd-seed1")[0]
    path = folder / store.RESULT
    path.write_text(path.read_text().replace("91.0", "99.9"))
    left_out = f"1 damaged run left out: {folder.name} (result.json differs from its checksum)"
    out = ["--numerics", tmp_path, "--out", tmp_path / "out"]
    for command, marked in (
        (["runs"], folder.name),
        (["table", "5"], left_out),
        (["claims", "--numerics", tmp_path], left_out),
        (["compare"], left_out),
        (["report", *out], "The report is in"),
        (["export", tmp_path / "runs.csv"], "runs are in"),
    ):
        capsys.readouterr()
        assert cli.main([*map(str, command), "--results", str(finished)]) == 0
        said, err = capsys.readouterr()
        assert marked in said and "99.9" not in said
        assert err == (
            f"damaged: {folder}: result.json differs from its checksum: restore it from a copy, or train it again with "
            "the same command and force=true.\n"
        )
    assert cli.main(["show", folder.name, "--results", str(finished)]) == 1
    assert "result.json differs from its checksum" in capsys.readouterr().out
    assert "99.9" not in (tmp_path / "runs.csv").read_text()
    text = " ".join((tmp_path / "out" / "index.html").read_text().split())
    assert left_out in text and "99.9" not in text
    table = tables.build(store.read_runs(finished), "5")
    assert table.rows[0].final.n == 2 and "1 damaged" in table.rows[0].marks


def test_table_of_an_empty_store_shows_the_papers_numbers(capsys: Capture, tmp_path: Path) -> None:
    text = ask(capsys, "table", "5", "--results", tmp_path)
    assert "| SGD | 90.6 | – | – | – | – | – | – | – | – |  |" in text


def test_table_refuses_an_unknown_number(capsys: Capture, runs: Path) -> None:
    assert "choose one of 3, 4, 5" in refusal(capsys, "table", "6", "--results", runs)


def test_table_refuses_an_unknown_protocol(capsys: Capture, runs: Path) -> None:
    """A misspelt one would give an empty table that looks like a result."""
    capsys.readouterr()
    try:
        code: Any = cli.main(["table", "5", "--results", str(runs), "--protocol", "tabel2"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "table2" in capsys.readouterr().err


def test_table_refuses_a_folder_it_cannot_write(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["table", "5", "--results", str(runs), "--out", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\.\n", err)
    assert str(tmp_path / "file") in err


COMMANDS = [["runs"], ["show", "x"], ["table", "5"], ["claims"], ["report"], ["export", "runs.csv"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_store_that_is_not_there_is_refused_with_the_fix(capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    text = refusal(capsys, *command, "--results", tmp_path / "none")
    assert str(tmp_path / "none") in text and "--results" in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_store_that_is_a_file_is_refused(capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    text = refusal(capsys, *command, "--results", tmp_path / "file")
    assert str(tmp_path / "file") in text and ".parquet" in text


def test_compare_of_an_empty_store_says_that_none_is_there(capsys: Capture, tmp_path: Path) -> None:
    """And not that none has finished, as if some were on their way."""
    text = refusal(capsys, "compare", "--results", tmp_path)
    assert str(tmp_path) in text and "--results" in text and "finished" not in text


# --- claims, report, export ----------------------------------------------------------------------------------------


def test_claims_prints_verdicts_and_writes_them(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    text = ask(capsys, "claims", "--results", runs, "--numerics", tmp_path, "--out", tmp_path / "out")
    full, numerical, conditions = text.splitlines()[:3]
    words = r"\d+ supported, \d+ contradicted, \d+ no such difference, \d+ undecided, \d+ not yet tested"
    assert re.fullmatch(f"full: {words}", full) and re.fullmatch(f"numerical: {words}", numerical)
    assert conditions.startswith("(real data")
    assert re.search(r"^UNDECIDED \(\d+ seeds .*\), full: TM-SGD better than SGD, TC LSTM", text, re.MULTILINE)
    assert "few seeds (n=3)" in text
    for form in ("md", "csv", "tex"):
        printed = ask(capsys, "claims", "--results", runs, "--numerics", tmp_path, "--format", form)
        assert (tmp_path / "out" / f"claims.{form}").read_text(encoding="utf-8") == printed


def test_claims_read_the_numerical_experiments(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "early.csv").write_text("problem,start,total_rise\na,SGD,0\na,TM-SGD from the start,1\n")
    manifest.write(tmp_path, ["early.csv"])
    text = ask(capsys, "claims", "--results", runs, "--numerics", tmp_path)
    assert "the loss rises more in all than with SGD in 1 of 1 cases" in text
    assert str(tmp_path / "none") in refusal(capsys, "claims", "--results", runs, "--numerics", tmp_path / "none")


def test_claims_of_several_stores_are_of_all_their_runs(capsys: Capture, tmp_path: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(tmp_path / "one", "sgd", seed, final=90.0 + seed)
        write_run(tmp_path / "other", "tmsgd", seed, final=91.0 - seed)
    for stores, told in (([tmp_path / "one"], "0 undecided"), ([tmp_path / "one", tmp_path / "other"], "n=3")):
        assert told in ask(capsys, "claims", "--numerics", tmp_path, "--results", *stores)


def test_a_run_in_two_stores_counts_once(runs: Path, tmp_path: Path, write_run: WriteRun) -> None:
    """The finished one, where there is a choice."""
    shutil.copytree(runs, tmp_path / "copy")
    failed = write_run(tmp_path / "copy", "adam", 1).name
    assert [failed] == ids(runs, "tc-lstm-adam-seed1")
    merged = store.merge([store.read_runs(runs), store.read_runs(tmp_path / "copy")])
    assert list(merged["run_id"]) == list(store.read_runs(runs)["run_id"])
    assert merged.set_index("run_id").loc[failed, "status"] == "done"


def test_a_run_with_other_results_in_two_stores_is_warned_of(
    capsys: Capture, tmp_path: Path, write_run: WriteRun
) -> None:
    """The one in the store that is named first counts. Copies of a run, and a run without a result, are no news."""
    names = [write_run(tmp_path / "one", "sgd", seed, final=90.0).name for seed in (0, 1)]
    shutil.copytree(tmp_path / "one" / names[1], tmp_path / "other" / names[1])
    assert write_run(tmp_path / "other", "sgd", 0, final=80.0).name == names[0]
    for stores, mean in ((["one", "other"], "90"), (["other", "one"], "85")):
        assert cli.main(["compare", "--results", *(str(tmp_path / name) for name in stores)]) == 0
        out, err = capsys.readouterr()
        assert f"| SGD | {mean}" in out
        assert f"{names[0]}: more than one store has it, with different results" in err and names[1] not in err


def test_an_empty_name_of_a_store_is_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["runs", "--results", ""])
    assert "name a folder or a packed file, not nothing" in capsys.readouterr().err


def test_report_writes_a_page_and_says_where(capsys: Capture, trained: Path, tmp_path: Path) -> None:
    """Of real runs, on synthetic data."""
    text = ask(capsys, "report", "--results", trained, "--numerics", tmp_path, "--out", tmp_path / "out")
    assert text == f"The report is in {tmp_path / 'out' / 'index.html'}.\n"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "synthetic data, protocol smoke" in page
    assert all(name in page for name in store.read_runs(trained)["run_id"])


@pytest.mark.parametrize("command", [["export", "FILE"], ["figure", "NAME"]], ids=" ".join)
def test_an_argument_that_results_has_swallowed_is_told_how_to_be_given(capsys: Capture, command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command[0], "--results", "results/table5", "given"])
    assert ended.value.code == 2
    assert f"write it first, as in 'tmsgd-bench {' '.join(command)} --results PLACE'" in capsys.readouterr().err


def test_report_refuses_a_folder_it_cannot_write(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--results", runs, "--numerics", tmp_path, "--out", tmp_path / "file"]
    assert str(tmp_path / "file") in refusal(capsys, "report", *options)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_writes_all_runs_and_says_how_many(capsys: Capture, runs: Path, tmp_path: Path, suffix: str) -> None:
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[suffix]
    path = tmp_path / f"runs.{suffix}"
    everything = store.read_runs(runs)
    text = ask(capsys, "export", path, "--results", runs)
    assert text == f"{len(everything)} rows of {len(everything)} runs are in {path}.\n"
    assert list(read(path)["run_id"]) == list(everything["run_id"])
    assert "--force" in refusal(capsys, "export", path, "--results", runs, "--history")
    text = ask(capsys, "export", path, "--results", runs, "--history", "--force")
    finished = int(everything["status"].isin(["done", "diverged"]).sum())
    rest = len(everything) - finished
    assert text == f"{3 * finished} rows of {finished} runs are in {path}; {rest} runs have no history yet.\n"
    assert len(read(path)) == 3 * finished


def test_export_refuses_an_ending_it_does_not_know(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    assert ".parquet or .csv" in refusal(capsys, "export", tmp_path / "runs.xlsx", "--results", runs)


@pytest.mark.slow
def test_looking_at_runs_imports_nothing_slow(runs: Path) -> None:
    """Torch, scipy, matplotlib and jinja2 take seconds, which a list of runs should not cost."""
    code = (
        "import sys; from tmsgd_bench import cli; cli.main(['runs', '--results', sys.argv[1]]); "
        "print('slow:', *{'torch', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "slow:"


# --- data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["data"], ["data", "list"], ["data", "list", "r8"]])
def test_data_lists_what_is_here_and_where_it_comes_from(capsys: Capture, no_data: Path, command: list[str]) -> None:
    text = ask(capsys, *command)
    dataset = find("r8")
    for file in dataset.files:
        assert f"{no_data / 'r8' / file.name} is missing" in text
        assert f"{file.name}: {file.examples:,} examples, {file.bytes:,} bytes, {file.url}" in text
    assert dataset.title in text and "licence: " in text
    assert "synthetic data: not written yet" in text
    assert "to mend it, run 'python -m tmsgd_bench data prepare r8" in text


def test_data_verify_fails_on_missing_data_and_changes_nothing(capsys: Capture, no_data: Path) -> None:
    assert cli.main(["data", "verify"]) == 1
    assert "is missing" in capsys.readouterr().out
    assert not no_data.exists()


def test_data_verify_passes_on_the_real_data(capsys: Capture, real_r8: Path) -> None:
    assert ask(capsys, "data", "verify", "r8", "--root", real_r8.parent) == f"r8: verified ({real_r8})\n"


def test_data_prepare_writes_the_stand_in(capsys: Capture, no_data: Path) -> None:
    folder = no_data / "synthetic" / "r8"
    assert ask(capsys, "data", "prepare", "r8", "--synthetic") == f"r8: ready in {folder}\n"
    assert {file.name for file in find("r8").files} < {path.name for path in folder.iterdir()}
    assert f"synthetic data: present ({folder})" in ask(capsys, "data")


def test_data_prepare_writes_every_stand_in(capsys: Capture, no_data: Path) -> None:
    text = ask(capsys, "data", "prepare", "--synthetic")
    assert text.splitlines() == [f"{name}: ready in {no_data / 'synthetic' / name}" for name in catalog()]


def test_data_prepare_asks_which_to_download(capsys: Capture, no_data: Path) -> None:
    text = refusal(capsys, "data", "prepare")
    assert all(name in text for name in catalog()) and not no_data.exists()


def test_data_prepare_in_a_chosen_root(capsys: Capture, no_data: Path, tmp_path: Path) -> None:
    ask(capsys, "data", "prepare", "r8", "--synthetic", "--root", tmp_path / "mine")
    assert (tmp_path / "mine" / "synthetic" / "r8").is_dir()
    assert not no_data.exists()


def test_data_prepare_refuses_a_root_that_cannot_be_made(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(capsys, "data", "prepare", "r8", "--root", tmp_path / "file")


def test_data_card_is_the_card(capsys: Capture) -> None:
    assert json.loads(ask(capsys, "data", "card", "r8")) == card(find("r8"))


def test_data_refuses_an_unknown_name(capsys: Capture) -> None:
    text = refusal(capsys, "data", "verify", "r9")
    assert "'r9'" in text and all(name in text for name in catalog())


# --- help ----------------------------------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_every_command_and_option_has_a_help_text() -> None:
    found = list(parsers(cli._parser()))
    assert len(found) > len(cli.NOUNS)
    for parser in found:
        assert parser.description
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert {choice.dest for choice in action._choices_actions if choice.help} == set(action.choices)
            else:
                assert action.help, (parser.prog, action.dest)


COMMANDS = [
    "runs",
    "show",
    "table",
    "compare",
    "claims",
    "targets",
    "report",
    "figure",
    "export",
    "verify",
    "data",
    "new",
    "best",
    "tuned",
]
HELPED = [[], ["voc-eval"], *([name] for name in COMMANDS)]


@pytest.mark.parametrize("command", HELPED, ids=lambda c: " ".join(c) or "all")
def test_help_is_printed_with_exit_code_0(capsys: Capture, command: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([*command, "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: " + " ".join(["tmsgd-bench", *command]))
    assert command or all(name in text for (name,) in HELPED[1:])


def test_the_examples_in_the_help_can_be_parsed() -> None:
    examples = re.findall(r"tmsgd-bench (.*?)(?:  |\n)", cli.EPILOG)
    assert len(examples) >= len(cli.NOUNS)
    for example in examples:
        assert callable(cli._parser().parse_args(shlex.split(example)).action)


def test_a_figure_that_there_is_not_is_named_with_those_that_there_are(capsys: Capture) -> None:
    assert cli.main(["figure", "7"]) == 2
    names = ", ".join(figure.figures())
    assert capsys.readouterr().err == f"error: there is no figure '7' here: name one of {names}.\n"


@pytest.mark.parametrize("module", [module for module, _ in figure.figures().values()])
def test_every_figure_has_a_module_that_writes_it(module: str) -> None:
    assert callable(importlib.import_module(module).write)


@pytest.mark.parametrize("elsewhere", [None, importlib.util.find_spec("json")], ids=["none", "another package"])
def test_without_the_tasks_the_command_says_that_their_figures_need_the_checkout(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, elsewhere: Any
) -> None:
    """As where the package is installed without them; all else is there."""
    monkeypatch.setattr(figure, "find_spec", lambda name: elsewhere)
    assert cli.main(["figure", "1"]) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and f"{list(figure.FIGURES)[-1]}, or start 'python -m tmsgd_bench figure' in the checkout's" in said
    )
    with pytest.raises(SystemExit) as raised:
        cli.main(["figure", "--help"])
    assert raised.value.code == 0 and "switch epoch" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "COMMAND"),
        (["table"], "NUMBER"),
        (["show"], "RUN"),
        (["runs", "--seed", "one"], "--seed"),
        (["runs", "--format", "xml"], "csv"),
        (["table", "5", "--data", "fake"], "synthetic"),
        (["data", "destroy"], "prepare"),
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be_read_are_named_with_exit_code_2(
    capsys: Capture, arguments: list[str], word: str
) -> None:
    assert word in usage_error(capsys, *arguments).splitlines()[-1]
