"""run.py as a user meets it: settings, wrong inputs, sweeps, a kill at any moment."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from tmsgd_bench import cli, files, tuning
from tmsgd_bench.data.catalog import catalog, find
from tmsgd_bench.engine import command_line, compose, explanations, schema, sweep
from tmsgd_bench.engine.optimizers import build_optimizer, build_schedulers
from tmsgd_bench.engine.signatures import resolve
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.results import store, tables, tuned
from tmsgd_bench.task import Task
from tmsgd_bench.version import OWN_SETTINGS, PROTOCOLS

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
TASKS, EXPERIMENTS, OPTIMIZERS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("task", "experiment", "optimizer")
)
# Table 2 of the paper, typed in once more: epochs, learning rate, batch size, switch epoch.
TABLE2 = {
    "ic": (10, 0.1, 256, 75),
    "fkpd": (20, 1e-2, 10, 5),
    "ig": (120, 2e-3, 64, 50),
    "tc": (120, 1e-2, 5, 100),
    "ctr": (20, 1e-3, 256, 15),
    "od": (210, 4e-3, 32, 10),
    "seg": (30, 1e-4, 4, 200),
}

Runner = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Call run.py's main in this process on synthetic data, with results under tmp_path/runs."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sweep.SweepCallback, "folder", None)
        base = [f"data.root={tmp_path}/data", f"results.root={tmp_path}/runs", "device=cpu", "progress=log"]
        data = [] if any(a.startswith("data=") for a in arguments) else ["data=synthetic"]
        monkeypatch.setattr(sys, "argv", ["run.py", *base, *data, *arguments])
        return module.main()

    return call


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights change in one of twenty steps: whole protocols are trained soon, where what they learn does not count."""
    step, count = Task.training_step, itertools.count()

    def seldom(task: Task, batch: Any, optimizers: Any) -> Any:
        return {"loss": torch.zeros(())} if next(count) % 20 else step(task, batch, optimizers)

    monkeypatch.setattr(Task, "training_step", seldom)


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF)):
        values = OmegaConf.to_container(hydra_compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def protocols_of(task: str) -> list[str]:
    return [protocol for protocol in PROTOCOLS if protocol in yaml.safe_load((CONF / f"task/{task}.yaml").read_text())]


def runs(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*-seed*"))


@pytest.mark.parametrize("task", TASKS)
def test_the_settings_of_table_2_are_the_papers(task: str) -> None:
    values = config(f"task={task}")
    assert (values["epochs"], values["lr"], values["batch_size"], values["switch_epoch"]) == TABLE2[task]
    assert values["protocol"] == "table2" and values["optimizer"]["switch_epoch"] == TABLE2[task][3]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", TASKS)
def test_every_configuration_composes_and_its_optimizer_can_be_built(task: str, optimizer: str) -> None:
    """Every pair of a task, an optimizer and a protocol: the protocols take turns."""
    protocols = protocols_of(task)
    protocol = protocols[(TASKS.index(task) + OPTIMIZERS.index(optimizer)) % len(protocols)]
    values = config(f"task={task}", f"optimizer={optimizer}", f"protocol={protocol}")
    built = build_optimizer(values["optimizer"], [torch.nn.Parameter(torch.ones(2))], steps_per_epoch=7)
    assert built.param_groups[0]["lr"] == values["lr"]
    per_update, per_epoch = build_schedulers(values["optimizer"], values["schedule"], built, steps_per_epoch=7)
    assert len(per_update) + len(per_epoch) == bool(values["optimizer"].get("warmup")) + bool(values["schedule"])
    if "switch_epoch" in values["optimizer"]:
        expected = "auto" if "auto_switch" in values["optimizer"] else 7 * values["switch_epoch"]
        assert built.param_groups[0]["switch_step"] == expected


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_has_a_make_target(experiment: str) -> None:
    """A sweep on real data by a protocol of its own, over optimizers and seeds."""
    with initialize_config_dir(str(CONF)):
        composed = hydra_compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    sweeps = composed.hydra.sweeper.params
    assert str(composed.hydra.mode) == "RunMode.MULTIRUN" and composed.data.kind == "real"
    assert composed.protocol in ("table2", "corrected", "reduced", "tuned")
    assert {"tmsgd", "sgd"} <= set(sweeps.optimizer.split(","))
    if composed.protocol != "tuned":
        assert sweeps.seed == "0,1,2"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{experiment}: .* ## ", makefile, re.MULTILINE)
    if composed.protocol == "corrected":  # what is trained is what is shown
        assert f"TABLE,{experiment},{composed.protocol})" in makefile


REDUCED = [task for task in TASKS if "reduced" in protocols_of(task)]


@pytest.mark.parametrize("task", REDUCED)
def test_an_optimizer_may_have_a_learning_rate_of_its_own(task: str) -> None:
    """In the reduced protocol; TM-SGD has SGD's and TM-SGD-M SGD-M's, because they share the epochs before the switch.

    An optimizer without one, such as a user's, has the protocol's. ``lr=`` replaces either.
    """
    given = [f"task={task}", "protocol=reduced", "optimizer=adam"]
    with initialize_config_dir(str(CONF)):
        composed = hydra_compose("config", overrides=given)
        chosen = hydra_compose("config", overrides=[*given, "lr=0.5"])
    block, rates = composed.task.reduced, {}
    for name in OPTIMIZERS:
        composed.optimizer.name = name
        rates[name] = composed.optimizer.lr
    assert rates == {name: block["lrs"].get(name, block["lr"]) for name in OPTIMIZERS}
    assert rates["tmsgd"] == rates["tmsgd_auto"] == rates["sgd"] and rates["tmsgdm"] == rates["sgdm"]
    assert set(block["lrs"]) <= set(OPTIMIZERS)
    assert chosen.optimizer.lr == 0.5


def test_a_model_may_have_reduced_settings_of_its_own() -> None:
    """Each replaces the task's; a model without a block, and a setting that its block lacks, has the task's."""
    block = config("task=od")["task"]["reduced"]
    for model in ("rfbnet", "fast_rcnn"):
        own = {**block, **block[model], "lrs": {**block["lrs"], **block[model].get("lrs", {})}}
        for optimizer in OPTIMIZERS:
            values = config("task=od", "protocol=reduced", f"model={model}", f"optimizer={optimizer}")
            assert {key: values[key] for key in ("epochs", "batch_size", "switch_epoch", "schedule")} == {
                key: own[key] for key in ("epochs", "batch_size", "switch_epoch", "schedule")
            }
            assert values["lr"] == own["lrs"].get(optimizer, own["lr"])
            assert values["task"]["evaluate_every"] <= values["epochs"]
    assert block["fast_rcnn"]["lr"] > 0 and "lr" not in block["rfbnet"]


@pytest.mark.parametrize("wrong", ["epochs=0", "lrs.adam=-1", "test_proposals=0", "unknown=1"])
def test_a_models_own_reduced_settings_are_checked(wrong: str, run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("task=od", "model=fast_rcnn", "protocol=smoke", f"++task.reduced.fast_rcnn.{wrong}") == 2
    assert f"task.reduced.fast_rcnn.{wrong.partition('=')[0].partition('.')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "model"), [(task, "") for task in REDUCED] + [("od", "model=fast_rcnn"), ("od", "model=rfbnet")]
)
def test_the_reduced_switch_epoch_keeps_its_share_of_the_run(task: str, model: str) -> None:
    """To the nearest epoch, of the run as corrected; but the last epoch is always trained with the multistep method."""
    chosen = [f"task={task}", *([model] if model else [])]
    whole, reduced = (config(*chosen, f"protocol={protocol}") for protocol in ("corrected", "reduced"))
    share = whole["switch_epoch"] / whole["epochs"]
    nearest = min(share * reduced["epochs"], reduced["epochs"] - 1)
    assert abs(reduced["switch_epoch"] - nearest) <= 0.5 and reduced["switch_epoch"] > 0


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("task", "number"), [("tc", "5"), ("ctr", "ctr")])
def test_experiment_reduced_fills_a_table_of_a_protocol_of_its_own(
    task: str, number: str, run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Optimizers with different learning rates are paired in it. The first plan has every run of the task's models."""
    sweep_settings = ("experiment=reduced", f"task={task}", "seed=0,1", "optimizer=sgd,adam")
    assert run("-m", *sweep_settings, "plan=true") == 0
    assert "plan: 4 runs" in capsys.readouterr().out
    assert run("-m", *sweep_settings) == 0
    found = store.read_runs(tmp_path / "runs")
    assert set(found["protocols"]) == {("reduced",)} and found["lr"].nunique() == 2
    table = tables.build(found, number, "synthetic", "reduced")
    rows = {row.optimizer: row for row in table.rows}
    assert "protocol reduced" in table.conditions
    assert rows["adam"].difference is not None and rows["adam"].difference.n == rows["sgd"].final.n == 2
    assert not tables.build(found, number, "synthetic", "table2").run_ids


@pytest.fixture
def two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of two learning rates, and one seed to search with."""
    monkeypatch.setattr(tuning, "half_decades", lambda: (0, 1))
    monkeypatch.setattr(tuning, "search_seeds", lambda: (1000,))


@pytest.mark.usefixtures("few_steps", "two_rates")
def test_a_search_chooses_the_rates_that_are_tested_with_fresh_seeds(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SGD and TM-SGD share the epochs before the switch for each rate. What is trained is what the table compares."""
    two, root = ("task=ctr", "optimizer=sgd,tmsgd"), tmp_path / "runs"
    assert run("experiment=search", *two) == 0
    assert "30 epochs saved" in capsys.readouterr().out
    searched = store.read_runs(root)
    assert len(searched) == 4 and set(searched["lr"]) == set(tuning.grid(0.3))
    assert set(searched["protocols"]) == {("tuned",)} and set(searched["split"]) == {"validation"}
    assert cli.main(["best", "--results", str(root), "--data", "synthetic", "--settings"]) == 0
    settings = capsys.readouterr().out.split()
    assert run("experiment=tuned", "task=ctr", *settings, "n_seeds=1") == 0
    runs = store.read_runs(root)
    tested = runs[runs["split"] == "test"]
    assert set(tested["seed"]) == {2000} and set(tested["protocols"]) == {("tuned",)}
    table = tuned.build(runs, "synthetic")
    assert [row.final.n for row in table.rows] == [1, 1] and [one.comparison.pairs for one in table.answers] == [1]


@pytest.mark.parametrize(
    ("settings", "followed"),
    [
        (("seed=2000", "lr_step=0"), ("tuned",)),  # the rate of reduced
        (("seed=2000", "lr_step=-3"), ("tuned",)),
        (("seed=2000", "lr=0.2"), ()),  # no rate of the grid
        (("seed=1000", "lr_step=1", "task.evaluate_on=validation"), ("tuned",)),
        (("seed=1000", "lr_step=1", "task.evaluate_on=validation", "task.validation_share=0.2"), ()),
        (("seed=2000", "protocol=reduced"), ("tuned",)),  # the same run
        (("seed=3", "protocol=reduced"), ("reduced",)),
        (("seed=3", "protocol=reduced", "lr=0.3162"), ()),
    ],
    ids=" ".join,
)
def test_a_run_is_tuned_by_its_settings_alone(settings: tuple[str, ...], followed: tuple[str, ...]) -> None:
    """And never follows ``reduced`` as well, so that their numbers do not mix."""
    chosen = {"task": "tc", "model": "lstm", "optimizer": "sgd", "data": "synthetic", "protocol": "tuned"}
    given = [f"{group}={name}" for group, name in chosen.items()]
    with initialize_config_dir(str(CONF)):
        config = hydra_compose("config", overrides=[*given, *settings])
        assert compose.followed_protocols(config, compose.run_spec(config), chosen) == followed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("task=tc protocol=tuned", "cannot have seed=0"),
        ("task=tc protocol=tuned seed=1000", "seeds that choose a learning rate never test it"),
        ("task=tc protocol=tuned seed=2000 task.evaluate_on=validation", "take one of 1000, 1001"),
        ("task=tc protocol=tuned seed=2000 lr_step=4", "lr_step must be one of -3, -2, -1, 0, 1, 2, 3"),
        ("task=seg protocol=tuned seed=2000", "task=seg has no protocol=tuned"),
        ("task=od protocol=tuned seed=2000", "task=od has no protocol=tuned"),
        ("experiment=tuned optimizer=sgd n_seeds=1001", "n_seeds must be a whole number"),
        ("experiment=tuned optimizer=sgd lrs={adam:0.1}", "python -m tmsgd_bench best --task tc"),
        ("experiment=tuned optimizer=sgd", "python -m tmsgd_bench best --task tc"),
    ],
)
def test_wrong_settings_of_tuned_are_refused_in_a_sentence(
    settings: str, sentence: str, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*settings.split(), "plan=true") == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1


def test_top_level_settings_override_table_2() -> None:
    values = config("epochs=7", "lr=0.5", "batch_size=9", "switch_epoch=3")
    assert (values["epochs"], values["batch_size"]) == (7, 9)
    assert (values["optimizer"]["lr"], values["optimizer"]["switch_epoch"]) == (0.5, 3)


def test_a_run_and_then_the_same_again(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocol=smoke", "epochs=2", "switch_epoch=1", "data.limit=40") == 0
    (name,) = runs(tmp_path / "runs")
    assert "done: ACC" in capsys.readouterr().err
    assert run("protocol=smoke", "epochs=2", "switch_epoch=1", "data.limit=40") == 0
    assert "skipped: already done" in capsys.readouterr().err
    kept = yaml.safe_load((tmp_path / "runs" / name / store.CONFIG).read_text())
    assert kept["protocols"] == [] and kept["data"]["limit"] == 40
    assert str(tmp_path) not in (tmp_path / "runs" / name / store.CONFIG).read_text()


def test_the_sharpness_can_be_recorded_and_changes_no_result(run: Runner, tmp_path: Path) -> None:
    import pandas as pd

    settings = ("optimizer=tmsgd", "protocol=smoke", "epochs=3", "switch_epoch=1", "data.limit=40")
    assert run(*settings, f"results.root={tmp_path}/without") == 0
    assert run(*settings, f"results.root={tmp_path}/with", "log_sharpness=2", "sharpness_examples=20") == 0
    assert runs(tmp_path / "with") == runs(tmp_path / "without")
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    (name,) = runs(tmp_path / "with")
    rows = pd.read_parquet(tmp_path / "with" / name / store.HISTORY)
    assert list(rows["sharpness"].notna()) == [False, True, False]
    assert rows["lr_times_sharpness"][1] == rows["lr"][1] * rows["sharpness"][1]


def test_a_run_chooses_its_switch_epoch(run: Runner, tmp_path: Path) -> None:
    """At a tiny learning rate everything is stable, so the third measurement decides."""
    assert run("optimizer=tmsgd_auto", "protocol=smoke", "lr=1e-6", "epochs=5", "data.limit=40") == 0
    row = store.read_runs(tmp_path / "runs").iloc[0]
    assert (row["status"], row["label"], row["switch_epoch"]) == ("done", "TM-SGD (auto)", 3)


@pytest.mark.usefixtures("few_steps")
def test_a_run_knows_which_protocols_it_follows_and_says_if_it_is_none(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("protocol=smoke", "optimizer=sgd") == 0
    assert "no protocol" not in capsys.readouterr().err
    assert run("protocol=smoke", "optimizer=sgd", "optimizer.weight_decay=0.1") == 0
    assert "these settings are no protocol's" in capsys.readouterr().err
    found = store.read_runs(tmp_path / "runs")
    assert sorted(found["protocols"]) == [(), ("smoke",)]


BAD_INPUTS = [
    ("task=nope", "unknown task 'nope': choose one of ctr, fkpd, ic, ig, od, seg, tc"),
    ("optimizer=nope", "unknown optimizer 'nope': choose one of adam, apollo, sgd, sgdm, tmsgd, tmsgd_auto, tmsgdm"),
    ("protocol=nope", "unknown protocol 'nope'"),
    ("data=nope", "unknown data 'nope': choose one of real, synthetic"),
    ("epoch=3", "unknown setting 'epoch': did you mean 'epochs'?"),
    ("+swich_epoch=3", "unknown setting 'swich_epoch': did you mean 'switch_epoch'?"),
    ("schedule.gamma=0.1", "schedule.gamma belongs to the task's protocol: set task.PROTOCOL.schedule.gamma"),
    ("results.root=o'brien", "cannot read the setting results.root=o'brien: put a value with special letters in"),
    ("model._target_=tasks.tc.model.Other", "choose a model of this project by its name, with model=NAME"),
    ("optimizer=sgd optimizer.name=tmsgd", "optimizer.name must be 'sgd', the name of its YAML file, not 'tmsgd'"),
    ("optimizer=sgd optimizer.name=tmsgd plan=true", "optimizer.name must be 'sgd', the name of its YAML file"),
    ("-m optimizer=sgd,adam optimizer.name=tmsgd plan=true", "optimizer.name must be 'sgd', the name of its YAML file"),
    ("optimizer=sgd, tmsgd", "write NAME=VALUE, or NAME=VALUE,VALUE without a space"),
    ("tmsgd", "cannot read the setting tmsgd: write NAME=VALUE"),
    ("optimizer.momentun=0.5", "momentum"),
    ("lr=-1", "lr must be a finite number > 0 and <= 1,000,000, not -1"),
    ("lr=nan", "<= 1,000,000, not nan"),
    ("lr=fast", "<= 1,000,000, not 'fast'"),
    ("batch_size=0", "batch_size must be a whole number >= 1 and <= 16,777,216, not 0"),
    ("epochs=0", "epochs must be a whole number >= 1"),
    ("seed=-1", "seed must be a whole number >= 0"),
    ("optimizer.momentum=-1", "optimizer.momentum must be a finite number >= 0 and < 1, not -1"),
    ("optimizer.scheme=wild plan=true", "optimizer.scheme: unknown scheme 'wild': choose one of euler, taylor3"),
    ("optimizer.scheme=[1.5,-1,0.6,1] plan=true", "optimizer.scheme: this multistep scheme is not consistent"),
    ("task.padding=left", "task.padding must be one of end, start, not 'left'"),
    ("device=tpu", "device must be one of auto, cpu, cuda, not 'tpu'"),
    ("progress=loud", "progress must be one of auto, bar, log"),
    ("threads=0", "threads must be null, or a whole number >= 1"),
    ("workers=-1", "workers must be auto, or a whole number >= 0 and <= 4,096, not -1"),
    ("workers=true", "workers must be auto, or a whole number >= 0 and <= 4,096, not True"),
    ("data.years=2007", "data.years must be null, for this task's data set has none, not 2007"),
    ("task=seg data.years=2008", "data.years must be one of 2007, 2012, 2007+2012, not 2008"),
    ("task=seg data.years=2012 data.name=voc2007", "data.name=voc2007 and data.years=2012 name two data sets"),
    ("task=seg protocol=smoke data.years=2012 task.splits=trainval/test", "use task.splits=train/val"),
    ("task=seg model.weights=absent.pth", "model.weights names absent.pth, which cannot be read"),
    (
        "task=seg protocol=smoke schedule={_target_:torch.optim.lr_scheduler.StepLR,every:batch}",
        "schedule.every must be",
    ),
    ("checkpoint_seconds=-5", "checkpoint_seconds must be"),
    ("log_sharpness=0", "log_sharpness must be null, or a whole number >= 1"),
    ("log_sharpness=true", "<= 1,000,000,000, not True"),
    ("sharpness_examples=0", "sharpness_examples must be a whole number >= 1 and"),
    ("switch_epoch=auto", "use optimizer=tmsgd_auto"),
    ("optimizer=tmsgd_auto optimizer.switch_epoch=5", "use optimizer=tmsgd with a switch_epoch"),
    (
        "optimizer=tmsgd_auto optimizer.auto_switch.margin=2",
        "auto_switch.margin must be a finite number > 0 and <= 1, not 2",
    ),
    ("optimizer=tmsgd_auto optimizer.auto_switch.patience=0", "auto_switch.patience must be a whole number >= 1"),
    ("optimizer=tmsgd_auto optimizer.auto_switch=null", "use optimizer=tmsgd_auto"),
    ("optimizer._target_=no.such.Class", "cannot be imported"),
    ("+optimizer.nesterow=true", "unknown setting 'optimizer.nesterow'"),
    ("=", "error:"),
    ("model.hidden=0", "model.hidden must be a whole number >= 1"),
    ("+model.layers=3", "unknown setting 'model.layers': the settings there are embedding, hidden."),
    ("task.tokens=0", "task.tokens must be a whole number >= 1"),
    ("schedule=foo", "schedule must be null or have the keys _target_"),
    ("+optimizer.warmup=5", "optimizer.warmup must be null or have the keys updates, start_factor"),
    ("hydra/launcher=foo", "unknown hydra/launcher 'foo'"),
]


@pytest.mark.parametrize(("argument", "message"), BAD_INPUTS)
def test_a_wrong_input_gets_one_sentence(
    argument: str, message: str, run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argument.split(" ")) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert len([line for line in said.strip().splitlines() if "no protocol's" not in line]) == 1
    assert runs(tmp_path / "runs") == [] and not list((tmp_path / "runs").glob(".work/*"))


@pytest.mark.parametrize(
    ("given", "sorted_"),
    [
        ("task=tc --config-dir my -m seed=0,1", "--config-dir my -m task=tc seed=0,1"),
        ("a=1 -cd a=b b=2 --config-name=x c=3", "-cd a=b --config-name=x a=1 b=2 c=3"),
        ("a=1 --info defaults b=2", "--info defaults a=1 b=2"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("--cfg job a=1 ~b", "--cfg job a=1 ~b"),
        ("a=1 --config-dir", "a=1 --config-dir"),
        ("a=1 b=2 --config-di my", "--config-di my a=1 b=2"),
        ("a=1 --experimental-rerun my.pickle b=2", "--experimental-rerun my.pickle a=1 b=2"),
        ("a=1 --multirun b=2,3 --inf", "--multirun --inf a=1 b=2,3"),
    ],
)
def test_options_may_stand_between_settings(given: str, sorted_: str) -> None:
    assert command_line.settings_last(given.split()) == sorted_.split()


@pytest.mark.skipif(os.environ.get("CUDA_VISIBLE_DEVICES") is not None, reason="CUDA devices are chosen outside")
def test_cuda_asked_for_and_absent(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert run("device=cuda") == 2
    assert "use device=auto or device=cpu" in capsys.readouterr().err


@pytest.mark.usefixtures("no_network")
def test_missing_real_data_says_what_to_put_where(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data=real") == 2
    said = capsys.readouterr().err
    assert "could not download https://" in said and f"{tmp_path}/data/r8/r8-train-all-terms.txt" in said


def test_a_results_folder_that_cannot_be_written(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert run("protocol=smoke") == 2
    assert "results.root=PATH" in capsys.readouterr().err
    assert run("-m", "protocol=smoke", "seed=0,1") == 2
    assert "results.root=PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "word"),
    [("force", "yes"), ("save_weights", "no"), ("deterministic", "1"), ("tf32", "yes"), ("data.verify", "no")],
)
def test_a_flag_is_true_or_false(flag: str, word: str, run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra reads no as a word, and words count as true."""
    assert run(f"{flag}={word}") == 2
    assert f"{flag} must be true or false" in capsys.readouterr().err


@pytest.mark.parametrize(("protocol", "followed"), [("smoke", ()), ("reduced", ("reduced",))])
def test_unverified_files_follow_no_protocol_but_the_reduced_one(
    protocol: str, followed: tuple[str, ...], run: Runner, tmp_path: Path
) -> None:
    """The table says what they are."""
    folder = tmp_path / "data" / "r8"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"r8-{split}-all-terms.txt").write_text("earn\tprofit rose\nacq\tfirm bought\n")
    assert run("data=real", "data.verify=false", f"protocol={protocol}", "optimizer=sgd") == 0
    found = store.read_runs(tmp_path / "runs")
    assert list(found["protocols"]) == [followed]
    for name in followed:
        (row,) = (row for row in tables.build(found, "5", protocol=name).rows if row.optimizer == "sgd")
        assert row.final.n == 1 and "unverified data" in row.marks


def test_a_local_overlay_acts_but_follows_no_protocol(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "my" / "local").mkdir(parents=True)
    (tmp_path / "my" / "local" / "default.yaml").write_text("# @package _global_\nlr: 0.5\nseed: 7\n")
    assert run("--config-dir=" + str(tmp_path / "my"), "protocol=smoke", "optimizer=sgd", "data.limit=20") == 0
    (name,) = runs(tmp_path / "runs")
    kept = yaml.safe_load((tmp_path / "runs" / name / store.CONFIG).read_text())
    assert (kept["optimizer"]["lr"], kept["seed"], kept["protocols"]) == (0.5, 7, [])


def test_an_optimizer_is_one_yaml_anywhere(run: Runner, tmp_path: Path) -> None:
    """As docs/extending.md shows it."""
    (tmp_path / "my" / "optimizer").mkdir(parents=True)
    (tmp_path / "my" / "optimizer" / "lion.yaml").write_text(
        "name: lion\nlabel: Lion\n_target_: pytorch_optimizer.Lion\nlr: ${lr}\nweight_decay: 0.0\n"
    )
    assert run("--config-dir=" + str(tmp_path / "my"), "protocol=smoke", "optimizer=lion") == 0
    assert list(store.read_runs(tmp_path / "runs")["protocols"]) == [("smoke",)]


@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["run", "sweep"])
def test_an_own_file_with_a_name_of_the_projects_is_refused(
    sweep: tuple[str, ...], run: Runner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hydra would use the project's, and say nothing."""
    own = tmp_path / "my" / "optimizer" / "sgd.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: sgd\nlabel: SGD\n_target_: torch.optim.SGD\nlr: ${lr}\nweight_decay: 0.1\n")
    folder = f"--config-dir={tmp_path}/my"
    assert run(folder, *sweep, "protocol=smoke", "optimizer=sgd") in (1, 2)
    assert f"{own} would not be used, because {CONF}/optimizer/sgd.yaml has its name" in "".join(capfd.readouterr())
    assert run(folder, *sweep, "protocol=smoke", "optimizer=adam") == 0


OWN_MODELS = """
import torch
from torch import nn


class Means(nn.Module):
    def __init__(self, classes: int, gain: float) -> None:
        super().__init__()
        self.gain, self.head = gain, nn.Linear(3, classes)

    def forward(self, images):
        return self.head(self.gain * images.mean((2, 3)))


class Bag(nn.Module):
    def __init__(self, vocabulary_size: int, classes: int, width: int = 4, **_: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(vocabulary_size, width), nn.Linear(width, classes)

    def forward(self, words):
        return self.head(self.words(words).mean(1))


def flat(side: int, outputs: int, pool: int = 32) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(pool), nn.Flatten(), nn.Linear((side // pool) ** 2, outputs))


class Wide(nn.Module):
    def __init__(self, rows: int, fields: int) -> None:
        super().__init__()
        self.wide = nn.Embedding(rows, 1)

    def forward(self, ids):
        return self.wide(ids).sum(dim=1).squeeze(1)


def no_network(rows: int, fields: int) -> int:
    return rows
"""


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a model's YAML, of a module outside the project; returns the argument that makes Hydra look there."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)

    def write(target: str, name: str = "mine", **options: Any) -> str:
        folder = tmp_path / "my" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"_target_": target, "name": name, **options}))
        return f"--config-dir={tmp_path}/my"

    return write


@pytest.mark.parametrize(
    ("task", "target", "options"),
    [
        ("ic", "own_models.Means", {"gain": 2.0}),
        ("tc", "own_models.Bag", {}),
        ("fkpd", "own_models.flat", {"pool": 16}),
        ("ctr", "own_models.Wide", {}),
    ],
)
def test_a_model_is_one_class_and_one_yaml_anywhere(
    task: str, target: str, options: dict[str, Any], run: Runner, own_model: Callable[..., str], tmp_path: Path
) -> None:
    """As docs/extending.md says; its class is part of the run's identity, and follows a protocol like any other."""
    folder = own_model(target, **options)
    assert run(folder, f"task={task}", "model=mine", "protocol=smoke", "optimizer=sgd") == 0
    (name,) = runs(tmp_path / "runs")
    kept = yaml.safe_load((tmp_path / "runs" / name / store.CONFIG).read_text())
    assert kept["model"] == {"_target_": target, "name": "mine", **options} and kept["protocols"] == ["smoke"]


@pytest.mark.parametrize(
    ("task", "target", "options", "message"),
    [
        ("tc", "own_models.Nobody", {}, "names the class 'own_models.Nobody', which cannot be imported"),
        ("tc", "Bag", {}, "model._target_ must be the name of a class with its module, not 'Bag'"),
        ("tc", "own_models.Wide", {}, "does not take vocabulary_size, reachable, classes: task=tc hands over vocab"),
        ("tc", "own_models.Bag", {"width": "wide"}, "model.width must be int, as Bag declares it, not 'wide'"),
        ("tc", "own_models.Bag", {"classes": 3}, "unknown setting 'model.classes'"),
        ("ic", "own_models.Means", {}, "setting 'model.gain' is missing, which Means needs"),
        ("ic", "own_models.Means", {"gain": 1.0, "gian": 1.0}, "unknown setting 'model.gian': did you mean 'gain'?"),
        ("ic", "own_models.Bag", {}, "or choose a model of this task, which hands over classes (task=ic)"),
        ("ctr", "own_models.no_network", {}, "'own_models.no_network', which makes no torch.nn.Module"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_sentence(
    task: str,
    target: str,
    options: dict[str, Any],
    message: str,
    run: Runner,
    own_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(own_model(target, **options), f"task={task}", "model=mine", "protocol=smoke") == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1] and "Traceback" not in said


def test_another_class_under_a_models_name_makes_another_run(own_model: Callable[..., str]) -> None:
    """A class of this project is no part of an identity: its runs are found as they were published."""
    own_model("own_models.Bag")

    def spec(*overrides: str) -> RunSpec:
        return compose.run_spec(hydra_compose("config", overrides=["data=synthetic", *overrides]))

    with initialize_config_dir(str(CONF)):
        usual, same = spec(), spec("model._target_=tasks.tc.model:LSTMClassifier")
        other = spec("model._target_=own_models.Bag", "~model.embedding", "~model.hidden")
    assert "_target_" not in usual.model and usual.identity == same.identity
    assert other.model == {"_target_": "own_models.Bag", "name": "lstm"}


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_another_task_is_refused(task: str) -> None:
    """By what tasks hand over and classes take."""
    given = resolve("task", config(f"task={task}")["task"]["_target_"]).model_arguments
    for path in (CONF / "model").glob("*.yaml"):
        model = yaml.safe_load(path.read_text())
        if model["_target_"].startswith(f"tasks.{task}."):
            schema.check_handed_over(given, task, model)
        else:
            with pytest.raises(ConfigError, match=f"model={path.stem} is of another task than task={task}"):
                schema.check_handed_over(given, task, model)


def test_a_sweep_over_results_folders_has_one_summary(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = f"results.root={tmp_path}/one,{tmp_path}/two"
    assert run("-m", "protocol=smoke", "data.limit=20", "epochs=1", roots) == 0
    assert "sweep: 2 done" in capsys.readouterr().out


def test_a_sweep_ends_with_a_summary(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One job fails, the others go on, the exit code says so, and a second sweep does only what is missing."""
    shared = ("-m", "protocol=smoke", "data.limit=20", "epochs=1", "switch_epoch=1")
    assert run(*shared, "optimizer=sgd,adam", "+optimizer.betas=[0.5,0.5]") == 1
    said = capsys.readouterr().out
    assert "sweep: 1 done, 1 failed" in said and "unknown setting 'optimizer.betas'" in said
    assert run(*shared, "optimizer=adam,tmsgd") == 0
    assert "sweep: 2 done" in capsys.readouterr().out
    assert run(*shared, "optimizer=adam,tmsgd", "seed=0,1") == 0
    assert "sweep: 2 done, 2 skipped" in capsys.readouterr().out


def test_plain_sgd_is_trained_once_in_a_sweep_over_switch_epochs(run: Runner, tmp_path: Path) -> None:
    assert run("-m", "protocol=smoke", "data.limit=20", "epochs=2", "optimizer=sgd,tmsgd", "switch_epoch=0,1") == 0
    assert len(runs(tmp_path / "runs")) == 3


def settings_of(tmp_path: Path, results: str, *arguments: str) -> list[str]:
    """Arguments of run.py for a run that checkpoints after every epoch."""
    places = (f"data.root={tmp_path}/data", f"results.root={tmp_path}/{results}")
    return ["data=synthetic", *places, "device=cpu", "checkpoint_seconds=0", *arguments]


def digest(folder: Path) -> str:
    (name,) = runs(folder)
    values = files.read_json(folder / name / store.RESULT)
    assert values is not None and values["status"] == "done"
    return str(values["weights_sha256"])


def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Two kill -9 at random moments of training, then a last start: the weights of an undisturbed run."""
    chosen = ("optimizer=tmsgdm", "protocol=smoke", "data.limit=20", "epochs=60", "switch_epoch=12")
    torn, whole = (settings_of(tmp_path, name, *chosen) for name in ("torn", "whole"))
    undisturbed = subprocess.Popen([sys.executable, str(ROOT / "run.py"), *whole], stderr=subprocess.DEVNULL)
    for _ in range(2):
        process = commands.start(torn, tmp_path / "said")
        _wait_for_checkpoint(tmp_path / "torn", process)
        time.sleep(random.uniform(0.0, 0.25))  # well before the end, also on a fast machine
        process.kill()
        assert commands.end(process) == -signal.SIGKILL
    assert runs(tmp_path / "torn") == []
    assert list(store.read_runs(tmp_path / "torn")["status"]) == ["abandoned"]
    assert commands.end(commands.start(torn, tmp_path / "said")) == 0
    assert undisturbed.wait() == 0
    assert digest(tmp_path / "torn") == digest(tmp_path / "whole")


def _wait_for_checkpoint(root: Path, process: ForkServerProcess) -> None:
    """Wait until this process, not an earlier one, has written a checkpoint."""
    known = set(root.glob(".work/*/checkpoint-*.pt"))
    while not set(root.glob(".work/*/checkpoint-*.pt")) - known:
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.01)


def test_of_two_processes_one_trains_and_the_other_leaves(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "runs", "optimizer=sgd", "protocol=smoke", "data.limit=20", "epochs=20")
    first = commands.start(settings, tmp_path / "said first")
    _wait_for_checkpoint(tmp_path / "runs", first)
    os.kill(first.pid or 0, signal.SIGSTOP)  # it takes its time
    assert commands.end(commands.start(settings, tmp_path / "said second")) not in (0, None)
    os.kill(first.pid or 0, signal.SIGCONT)
    assert f"is being trained by process {first.pid}" in (tmp_path / "said second").read_text()
    assert commands.end(first) == 0
    assert len(runs(tmp_path / "runs")) == 1


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "runs", "optimizer=sgd", "protocol=smoke", "epochs=1000")
    process = commands.start(settings, tmp_path / "said")
    _wait_for_checkpoint(tmp_path / "runs", process)
    os.kill(process.pid or 0, signal.SIGINT)
    assert commands.end(process) == 130
    said = (tmp_path / "said").read_text()
    assert "interrupted: start the same command again" in said and "Traceback" not in said


def test_explanations_cover_hydras_own_errors() -> None:
    assert explanations.explain(ValueError("a bug"), CONF) is None


def test_data_elsewhere_follow_their_protocol_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data lie is no part of a run: data without published digests are identified in the folder named."""
    monkeypatch.delenv("TMSGD_DATA", raising=False)
    root = tmp_path / "o'd place"
    (root / "sneakers").mkdir(parents=True)
    (root / "sneakers/one.png").write_bytes(b"a photo")
    entry = find("sneakers")
    small = replace(entry, folders=(replace(entry.folders[0], pattern="*", count=1),))
    monkeypatch.setitem(catalog(), "sneakers", small)
    chosen = {"task": "ig", "model": "dcgan", "optimizer": "sgd", "data": "real"}
    with initialize_config_dir(str(CONF)):
        here = hydra_compose("config", overrides=["task=ig", "optimizer=sgd", f'data.root="{root}"'])
        assert compose.followed_protocols(here, compose.run_spec(here), chosen) == ("table2", "corrected")


@pytest.mark.parametrize(("protocol", "followed"), [("reduced", ("reduced",)), ("corrected", ())])
def test_own_weights_follow_the_reduced_protocol_alone(
    protocol: str, followed: tuple[str, ...], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"some")
    chosen = {"task": "seg", "model": "lraspp", "optimizer": "tmsgd", "data": "synthetic", "protocol": protocol}
    given = [*(f"{group}={name}" for group, name in chosen.items()), f'model.weights="{weights}"']
    with initialize_config_dir(str(ROOT / "conf")):
        for overrides, protocols in ((given, followed), (given[:-1], (protocol,))):  # published ones after a file
            config = hydra_compose("config", overrides=overrides)
            assert compose.followed_protocols(config, compose.run_spec(config), chosen) == protocols


def test_a_protocol_takes_its_epochs_and_batch_size_from_the_task() -> None:
    """By them it is seen beforehand that a run does not follow it."""
    for protocol in set(PROTOCOLS) - set(OWN_SETTINGS):
        values = yaml.safe_load((CONF / f"protocol/{protocol}.yaml").read_text())
        assert values["epochs"] == f"${{task.{protocol}.epochs}}"
        assert values["batch_size"] == f"${{task.{protocol}.batch_size}}"
    values = yaml.safe_load((CONF / "protocol/reduced.yaml").read_text())
    for name in ("epochs", "batch_size"):
        assert values[name] == f"${{oc.select:task.reduced.${{model.name}}.{name},${{task.reduced.{name}}}}}"


def test_a_protocol_is_composed_once_for_the_runs_of_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those with other epochs are not."""
    composed: list[list[str]] = []

    def noted(name: str, overrides: list[str]) -> Any:
        composed.append(overrides)
        return hydra_compose(name, overrides)

    monkeypatch.setattr(compose, "compose", noted)
    chosen = {"task": "tc", "model": "lstm", "optimizer": "sgd", "data": "synthetic", "protocol": "smoke"}
    given = [f"{group}={name}" for group, name in chosen.items()]
    with initialize_config_dir(str(CONF)):
        for seed in (0, 3):
            config = hydra_compose("config", overrides=[*given, f"seed={seed}"])
            assert compose.followed_protocols(config, compose.run_spec(config), chosen) == ("smoke",)
    assert [overrides[-1] for overrides in composed] == ["protocol=smoke"]


def test_other_data_than_the_published_follow_no_protocol(tmp_path: Path) -> None:
    """And may be used all the same, with data.verify=false."""
    (tmp_path / "sneakers").mkdir()
    (tmp_path / "sneakers/a_shoe.png").write_bytes(b"one of 7,049")
    chosen = {"task": "ig", "model": "dcgan", "optimizer": "sgd", "data": "real"}
    given = ["task=ig", "optimizer=sgd", f'data.root="{tmp_path}"']
    with initialize_config_dir(str(CONF)):
        config = hydra_compose("config", overrides=[*given, "data.verify=false"])
        assert compose.followed_protocols(config, compose.run_spec(config), chosen) == ()
        with pytest.raises(DataError, match=r"holds 1 of 7,049 .*data\.verify=false"):
            compose.run_spec(hydra_compose("config", overrides=given))


def test_a_finished_run_says_what_it_did_not_keep(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("protocol=smoke", "epochs=1", "switch_epoch=1", "data.limit=20")
    assert run(*short) == 0
    capsys.readouterr()
    assert run(*short, "save_weights=true", "save_predictions=true") == 0
    said = capsys.readouterr().err
    assert "its weights were not kept: force=true" in said and "its predictions were not kept: force=true" in said
    assert run(*short, "save_weights=true", "force=true") == 0
    assert run(*short, "save_weights=true") == 0
    assert "not kept" not in capsys.readouterr().err


def test_a_model_of_another_task_is_told(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("task=od", "model=lraspp", "protocol=smoke") == 2
    assert "error: model=lraspp is of another task than task=od: leave model= away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config-name=nope",), "unknown configuration 'nope': choose one of config"),
        (("hydra/job_logging=default",), "Unable to configure handler 'console'"),
        (("hydra.verbose=nonsense",), "hydra.verbose must be true, false, or a list of modules"),
        (("hydra.mode=nope",), "Invalid value 'nope', expected one of [RUN, MULTIRUN]"),
        (("optimizer=[sgd,adam]",), "optimizer must be the name of a file in conf/optimizer, not ['sgd', 'adam']"),
        (("tracker=null",), "tracker must be the name of a file in conf/tracker, not None"),
        (("~seed",), "setting 'seed' is missing"),
        (("+epoch=3",), "unknown setting 'epoch': did you mean 'epochs'?"),
        (("model=vgg16",), "model=vgg16 is of another task than task=tc"),
        (("-m", "nope=1,2"), "unknown setting 'nope'"),
        (("seed=1,2",), "seed=1,2 has several values: add -m"),
        (("--config-dir", "/nope"), "the folder /nope of --config-dir is not there"),
        (("-m", "results.root=null"), "results.root must be a path, not None"),
    ],
    ids=str,
)
def test_what_hydra_reads_itself_gets_one_sentence_too(
    arguments: tuple[str, ...], message: str, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.strip().splitlines()) == 1


@pytest.mark.usefixtures("few_steps")
def test_folders_of_a_search_path_are_known_wherever_a_configuration_is_composed(run: Runner, tmp_path: Path) -> None:
    """For a run, which is compared to its protocols, and for a sweep, whose runs are planned."""
    (tmp_path / "my" / "optimizer").mkdir(parents=True)
    (tmp_path / "my" / "optimizer" / "mine.yaml").write_text(
        "name: mine\nlabel: Mine\n_target_: torch.optim.SGD\nlr: ${lr}\n"
    )
    path = f"hydra.searchpath=[file://{tmp_path}/my]"
    assert run(path, "protocol=smoke", "optimizer=mine", "data.limit=null", "epochs=1") == 0
    assert run("-m", path, "plan=true", "protocol=smoke", "optimizer=mine,sgd") == 0
    assert run(path, "protocol=smoke", "optimizer=mine") == 0
    assert sorted(store.read_runs(tmp_path / "runs")["protocols"]) == [(), ("smoke",)]


def test_packed_runs_are_no_store_to_train_in(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published/runs.parquet").touch()
    assert run("task=tc", "protocol=smoke", f"results.root={tmp_path}/published") == 2
    assert "results.root" in (said := capsys.readouterr().err) and "unpack" in said
