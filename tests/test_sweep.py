"""Sweeps through run.py: trunks trained once, the plan beforehand, the summary, and a kill in the middle."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tmsgd_bench import files
from tmsgd_bench.engine import plan, sweep, workers
from tmsgd_bench.engine.outcome import Outcome, score
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import Status
from tmsgd_bench.wording import number_of

ROOT = Path(__file__).parents[1]
SHORT = ("protocol=smoke", "data.limit=20", "epochs=4")
FAMILY = ("optimizer=sgd,tmsgd", "switch_epoch=1,3")  # 4 + 3 + 1 epochs, 4 of them saved

Runner = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Call run.py's main in this process on synthetic data, with results under tmp_path/runs."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sweep.SweepCallback, "folder", None)
        base = [f"data.root={tmp_path}/data", "data=synthetic", "device=cpu", "progress=log"]
        if not any("results.root=" in argument for argument in arguments):
            base.append(f"results.root={tmp_path}/runs")
        flags = [a for a in arguments if a.startswith("-")]
        monkeypatch.setattr(sys, "argv", ["run.py", *flags, *base, *(a for a in arguments if a not in flags)])
        return module.main()

    return call


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of training, note the configuration of every job that starts."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    found: list[Any] = []

    def train(config: Any) -> str:
        found.append(config)
        return "done"

    monkeypatch.setattr(module, "train", train)
    return found


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that are really trained in this process."""
    monkeypatch.syspath_prepend(str(ROOT))
    from tasks.tc.task import TextClassification

    found: list[int] = []
    batches = TextClassification.batches

    def counted(task: TextClassification, epoch: int) -> Any:
        found.append(epoch)
        return batches(task, epoch)

    monkeypatch.setattr(TextClassification, "batches", counted)
    return found


def results(root: Path) -> dict[str, dict[str, Any]]:
    """The results of a store by run id."""
    found = {path.parent.name: files.read_json(path) for path in root.glob(f"*/{store.RESULT}")}
    return {run_id: result for run_id, result in found.items() if result is not None}


def digests(root: Path) -> dict[str, str]:
    return {run_id: result["weights_sha256"] for run_id, result in results(root).items()}


def claims(root: Path) -> set[str]:
    """The claims of a store, without the hash of the run's settings: sgd-seed0, tmsgd-switch3-seed1."""
    return {re.sub(r"tc-lstm-(.*)-\w+", r"\1", path.name) for path in root.glob(".trunks/*/pending/*")}


def summary(text: str) -> str:
    """What a sweep prints at its end."""
    return text[text.index("sweep: ") :]


# Sharing


def test_a_sweep_shares_its_prefixes_with_the_bits_of_runs_alone(
    run: Runner, trained: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the plan printed beforehand says what it will cost."""
    family = ("-m", *SHORT, "optimizer=sgd,tmsgd", "switch_epoch=3")
    assert run(*family, "plan=true") == 0
    assert "5 epochs to train; sharing saves 3" in capsys.readouterr().out
    assert run(*family) == 0
    assert len(trained) == 4 + 1
    assert "  3 epochs saved:" in summary(capsys.readouterr().out)
    assert not (tmp_path / "runs/.trunks").exists()
    assert run(*family, "plan=true") == 0
    assert "plan: 2 runs, 2 of them done" in (said := capsys.readouterr().out) and "\n0 epochs to train" in said
    assert run(*family, "prefix=off", f"results.root={tmp_path}/alone") == 0
    assert len(trained) == 4 + 1 + 2 * 4
    assert "epochs saved" not in capsys.readouterr().out
    assert digests(tmp_path / "runs") == digests(tmp_path / "alone") and len(digests(tmp_path / "runs")) == 2
    assert {result["prefix"] for result in results(tmp_path / "alone").values()} == {None}
    assert not (tmp_path / "alone/.trunks").exists()


def test_a_single_run_shares_only_if_it_is_asked_to(run: Runner, trained: list[int], tmp_path: Path) -> None:
    assert run(*SHORT, "optimizer=sgd") == 0
    (alone,) = results(tmp_path / "runs").values()
    assert alone["prefix"] is None and not (tmp_path / "runs/.trunks").exists()
    on = ("prefix=on", "prefix.keep=true", f"results.root={tmp_path}/on")
    trained.clear()
    assert run(*SHORT, "optimizer=tmsgd", "switch_epoch=3", *on) == 0
    assert run(*SHORT, "optimizer=sgd", *on) == 0
    assert len(trained) == 4 + 1
    assert sorted(result["prefix"]["saved"] for result in results(tmp_path / "on").values()) == [0, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prefix.share=banana",), "prefix.share must be one of auto, true, false, not 'banana'"),
        (("prefix.keep=banana",), "prefix.keep must be true or false, not 'banana'"),
        (("prefix=maybe",), "unknown prefix 'maybe': choose one of auto, off, on"),
        (("-m", "prefix.keep=no", "plan=true"), "prefix.keep must be true or false, not 'no'"),
    ],
)
def test_a_wrong_prefix_setting_gets_one_sentence(
    arguments: tuple[str, ...], message: str, run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SHORT, "optimizer=sgd", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and len(said.err.strip().splitlines()) == 1 and said.out == ""
    assert not (tmp_path / "runs").exists()


def test_the_summary_adds_up_the_saved_epochs(tmp_path: Path) -> None:
    for number, saved in enumerate([0, 5, 20]):
        job = {"status": "done", "run_id": f"run{number}", "note": "", "saved": saved, "overrides": []}
        files.write_json(tmp_path / f"job-{number:05d}.json", job)
    files.write_json(tmp_path / "job-00003.json", {"status": "unfinished", "note": "killed", "overrides": ["seed=3"]})
    text, complete = sweep.summarise(tmp_path)
    assert text.splitlines()[:2] == [
        "sweep: 3 done, 1 unfinished",
        "  25 epochs saved: runs share the epochs before their switches",
    ]
    assert not complete


# What a sweep does before its first job


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=tmsgd,sgd", "switch_epoch=1,3", "seed=7,0"),
        ("experiment=switch", "n_seeds=1", "switch_epochs='0,2'"),
        ("experiment=table5", "n_seeds=1", "optimizer=tmsgd,sgd", "seed=range(3,5)"),
        ("optimizer=glob(sgd*)",),
        ("optimizer=tmsgd,sgd", "switch_epoch=1", "seed=0,7", "++seed=3"),
        ("optimizer=tmsgd,sgd", "switch_epoch=1,2", "lr=0.1,1e-2", "+schedule=null"),
    ],
    ids=["lists", "an experiment's own sweep", "an experiment overridden", "a pattern", "a later one", "two notations"],
)
def test_the_planned_jobs_are_those_that_start_in_their_order(
    overrides: tuple[str, ...], run: Runner, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[plan.PlannedRun] = []
    monkeypatch.setattr(plan, "register", planned.extend)
    run("-m", *overrides, "protocol=smoke")
    names = list(dict.fromkeys(plan.of_config(config, in_sweep=True).spec.run_id for config in started))
    assert [planned_run.spec.run_id for planned_run in planned] == names and len(names) > 1


def test_all_runs_claim_their_states_before_the_first_one_starts(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(config: Any) -> str:
        found.append(claims(tmp_path / "runs"))
        return "done"

    import run as module

    found: list[set[str]] = []
    monkeypatch.setattr(module, "train", train)
    run("-m", *SHORT, "optimizer=sgd,tmsgd", "switch_epoch=1", "seed=0,1")
    assert found == 4 * [{f"{name}-seed{seed}" for name in ("sgd", "tmsgd-switch1") for seed in (0, 1)}]
    assert len(list((tmp_path / "runs/.trunks").iterdir())) == 2  # one for each seed


def test_one_wrong_job_does_not_keep_the_others_from_sharing(run: Runner, started: list[Any], tmp_path: Path) -> None:
    run("-m", *SHORT, "optimizer=sgd,tmsgd", "switch_epoch=-3,1")
    assert claims(tmp_path / "runs") == {"sgd-seed0", "tmsgd-switch1-seed0"}


LETTERS = ["""o'brien "x" back\\slash {} a=b,c [x #y 100% é漢 ~ """, "end\\", "b\\'q", "$HOME"]


@pytest.mark.parametrize("name", LETTERS)
def test_a_sweep_may_be_started_in_a_folder_of_any_name(
    name: str, run: Runner, started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    run("-m", *SHORT, "optimizer=sgd,adam", "results.root=runs")
    (folder,) = (tmp_path / name).glob("runs/.sweeps/*/*")
    assert len(started) == len(list(folder.glob("job-*.json"))) == 2


def test_a_folder_that_settings_cannot_hold_is_refused(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "${x}").mkdir()
    monkeypatch.chdir(tmp_path / "${x}")
    assert run("-m", *SHORT, "results.root=runs") == 2
    assert "stands for another setting" in (said := capsys.readouterr().err) and len(said.splitlines()) == 1
    assert list((tmp_path / "${x}").iterdir()) == []


def test_a_sweep_deletes_what_killed_ones_left_half_written(run: Runner, started: list[Any], tmp_path: Path) -> None:
    earlier = tmp_path / "runs/.sweeps/2026-01-01/00-00-00-0"
    earlier.mkdir(parents=True)
    names = {"dead": f".job-00000.json.{2**22 + 1}.1.tmp", "alive": f".job-00000.json.{os.getpid()}.1.tmp"}
    for name in [*names.values(), ".job-00001.json.x.1.tmp", "job-00000.json"]:
        (earlier / name).touch()
        os.utime(earlier / name, (0, 0))
    (earlier / f".job-00002.json.{2**22 + 1}.1.tmp").touch()  # written now, by another machine
    run("-m", *SHORT, "optimizer=sgd,adam")
    left = {path.name for path in earlier.iterdir()}
    assert left == {names["alive"], f".job-00002.json.{2**22 + 1}.1.tmp", "job-00000.json"}


def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(
    run: Runner, trained: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.tc.task import TextClassification

    step = TextClassification.training_step

    def signalled(task: TextClassification, batch: Any, optimizers: Any) -> Any:
        if trained == [0, 1] and not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return step(task, batch, optimizers)

    monkeypatch.setattr(TextClassification, "training_step", signalled)
    settings = ("-m", *SHORT, "optimizer=sgd,adam", "checkpoint_seconds=1000")
    assert run(*settings) == 128 + signal.SIGTERM
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("interrupted: start the same command again")
    assert summary(said.out).startswith("sweep: 1 unfinished\n") and "it was interrupted" in said.out
    assert run(*settings) == 0
    assert trained == [0, 1, 2, 3, 0, 1, 2, 3]


def test_workers_are_told_to_stop_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that work; not those that are through, never began, or are gone."""
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.02)
    jobs = [
        {"status": "unfinished", "pid": os.getpid()},
        {"status": "done"},
        {"status": "unfinished", "pid": 2**22 + 1},
    ]
    for number, job in enumerate(jobs):
        files.write_json(tmp_path / f"job-{number:05d}.json", job)
    waits = threading.Thread(target=sweep._stop_workers, args=(tmp_path,))
    waits.start()
    while not (tmp_path / sweep.STOP).exists():
        time.sleep(0.01)
    waits.join(timeout=0.2)
    assert waits.is_alive()
    files.write_json(tmp_path / "job-00000.json", {"status": "unfinished"})
    waits.join(timeout=10)
    assert not waits.is_alive()


# The plan


@pytest.mark.parametrize(
    ("arguments", "runs", "epochs"),
    [
        (("-m", *FAMILY), 3, 8),
        (("-m", *FAMILY, "prefix=off"), 3, 12),
        (("experiment=table5", "n_seeds=1", "switch_epoch=3"), 6, 4 + 4 + (4 + 1) + (4 + 1)),
        (("optimizer=sgd",), 1, 4),
    ],
)
def test_a_plan_is_printed_and_nothing_is_written(
    arguments: tuple[str, ...],
    runs: int,
    epochs: int,
    run: Runner,
    trained: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*arguments, *SHORT, "plan=true") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"plan: {number_of(runs, 'run')}, 0 of them done\n") and "sweep:" not in said
    assert re.findall(r"^(\d+) epochs to train", said, re.MULTILINE) == [str(epochs)]
    assert len(re.findall(r"^  to do ", said, re.MULTILINE)) == runs
    assert trained == [] and list(tmp_path.iterdir()) == []


def test_the_plan_says_which_runs_never_switch(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", "optimizer=sgd,tmsgd", "switch_epoch=1,99", "epochs=2", *SHORT, "plan=true") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "never switches" in line]
    assert len(lines) == 1 and "tmsgd-switch99" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "lr=0.1,-1"), "lr must be a finite number > 0 and <= 1,000,000, not -1"),
        (("-m", "optimizer=sgd,nope"), "unknown optimizer 'nope'"),
        (("-m", "seed=range(0,"), "range(0,"),
        (("-m", "lr=tag(log,interval(0.01,1))"), "an interval needs a sweeper that draws from it"),
        (("optimizer=nope",), "unknown optimizer 'nope'"),
        (("-m", "seed=range(3,1)"), "seed=range(3,1) has no value"),
        (("experiment=table5", "n_seeds=0"), "n_seeds must be a whole number >= 1"),
        (("experiment=reduced", "n_seeds=abc"), "n_seeds must be a whole number >= 1"),
        (("experiment=search",), "experiment=search varies lr_step, which protocol=smoke does not have"),
    ],
)
def test_a_plan_of_wrong_settings_says_what_is_wrong(
    arguments: tuple[str, ...], message: str, run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SHORT, *arguments, "plan=true") == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err
    assert said.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize("word", ["no", "yes"])
def test_plan_is_true_or_false(
    word: str, mode: tuple[str, ...], run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra reads no as a word, and words count as true: plan=no would print the plan and train nothing."""
    assert run(*mode, *SHORT, "optimizer=sgd", f"plan={word}") == 2
    assert "plan must be true or false" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# What a sweeper learns


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What run.py gives to Hydra's sweeper for each run."""
    from hydra.core.utils import JobReturn

    found: list[Any] = []
    setter = JobReturn.return_value.fset

    def noted(answer: JobReturn, value: Any) -> None:
        found.append(value)
        setter(answer, value)

    monkeypatch.setattr(JobReturn, "return_value", JobReturn.return_value.setter(noted))
    return found


def test_a_run_gives_its_metric_to_the_sweeper_smaller_is_better(
    run: Runner, answers: list[Any], tmp_path: Path
) -> None:
    """Also one that was trained before; and a run without a result has none."""
    assert run("-m", *SHORT, "epochs=1", "optimizer=sgd,adam", "optimizer.lr=0.1,-1") == 1
    finals = {name.split("-")[2]: result["final"] for name, result in results(tmp_path / "runs").items()}
    assert answers == [-finals["sgd"], None, -finals["adam"], None]
    before = answers.copy()
    answers.clear()
    assert run("-m", *SHORT, "epochs=1", "optimizer=sgd,adam", "optimizer.lr=0.1,-1") == 1
    assert answers == before


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "done", "direction": "max", "final": 90.5}, -90.5),
        ({"status": "done", "direction": "min", "final": 0.25}, 0.25),
        ({"status": "done", "direction": "max", "final": None}, float("inf")),
        ({"status": "diverged", "direction": "max", "final": None}, float("inf")),
    ],
)
def test_a_score_is_the_smaller_the_better_the_run(result: dict[str, Any], expected: float) -> None:
    assert score(result) == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome("a", Status.DONE, "", score=-90.5), -90.5),
        (Outcome("a", Status.DIVERGED, "", score=float("inf")), float("inf")),
        (Outcome("", Status.UNFINISHED, "its process ended"), None),
        (None, None),
    ],
)
def test_a_lost_jobs_answer_is_what_it_left_behind(
    outcome: Outcome | None, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a sweeper gets an answer for every run, in their order, whatever became of a worker."""
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    if outcome is not None:
        sweep._write(tmp_path, 3, ["seed=0"], outcome)
    assert sweep.returned(3).return_value == expected


def test_a_sweeper_that_chooses_the_runs_itself_has_no_plan() -> None:
    config = OmegaConf.create({"plan": True, "hydra": {"sweeper": {"_target_": "hydra_plugins.Optuna"}}})
    with pytest.raises(ConfigError, match="plan=true needs runs that are known beforehand"):
        plan.is_known(config)
    config.plan = False
    assert not plan.is_known(config)


def test_a_search_with_optuna_learns_from_each_run(run: Runner, tmp_path: Path) -> None:
    """Even though one of its runs fails. The same command later finds its runs done, and the same best settings."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    search = (
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"),
        *("hydra.sweeper.sampler.seed=0", *SHORT, "epochs=1", "optimizer=sgd", "task.evaluate_on=validation"),
        "lr=choice(0.1,-1)",
    )
    assert run(*search) == 1
    (best,) = tmp_path.glob("runs/.sweeps/*/*/optimization_results.yaml")
    (result,) = results(tmp_path / "runs").values()
    assert f"best_value: {-result['final']}" in best.read_text(encoding="utf-8")


def test_a_tracker_that_is_not_installed_is_said_before_any_run_starts(
    run: Runner, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "task=tc", *SHORT, "seed=0,1", "tracker._target_=nowhere.Tracker") == 2
    said = capsys.readouterr().err
    assert said.count("the tracker nowhere.Tracker needs the package nowhere") == 1 and "Traceback" not in said
    assert started == []
