"""The plan of a sweep: the very jobs that Hydra starts, what is done, and the epochs that will really be trained."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from toy import STEPS, ToyTask, make_options, make_spec
from whole_runs import Killed

from tmsgd_bench.data.catalog import find
from tmsgd_bench.engine import plan, prefix, task_data
from tmsgd_bench.engine.plan import PlannedRun
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import packed, packing, store
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.task import TaskSettings

EPOCHS = 4
SGD = make_spec("sgd", EPOCHS)
ONE, TWO, THREE = (make_spec("tmsgd", EPOCHS, switch_epoch=switch) for switch in (1, 2, 3))


def train(job: PlannedRun, kill_at: int | None = None) -> int:
    """Train a toy job, or until it is killed in an epoch; returns how many epochs it trained to their end."""
    trained = [0]

    def on_step(epoch: int, step: int) -> None:
        if epoch == kill_at:
            raise Killed
        trained[0] += step == STEPS - 1

    settings = TaskSettings(Path(), None, job.spec.batch_size, job.spec.seed, torch.device("cpu"), {})
    with suppress(Killed):
        run(job.spec, job.options, lambda device: ToyTask(settings, on_step))
    return trained[0]


def jobs(root: Path, *specs: RunSpec, **changes: Any) -> list[PlannedRun]:
    return [PlannedRun(spec, make_options(root, **{"share_prefix": True, **changes})) for spec in specs]


def total(text: str) -> int:
    """The epochs that a plan says will be trained."""
    (found,) = re.findall(r"^(\d+) epochs to train", text, re.MULTILINE)
    return int(found)


def states(text: str) -> list[str]:
    """What a plan says of each run."""
    return re.findall(r"^  (.*\S) +\d+ epochs ", text, re.MULTILINE)


def planned_and_trained(todo: list[PlannedRun]) -> tuple[int, int]:
    """What the plan says, and what then happens."""
    planned = total(plan.describe(todo))
    plan.register(todo)
    return planned, sum(train(job) for job in todo)


# The jobs are Hydra's

OVERRIDES: dict[str, list[str]] = {
    "nothing swept": ["task=tc", "seed=3", "lr=1e-3", "schedule=null"],
    "a list": ["optimizer=sgd,tmsgd", "switch_epoch=5,25,50", "seed=0"],
    "a range": ["seed=range(0,5)", "optimizer=sgd,tmsgd"],
    "a range with steps": ["seed=range(1,10,3)", "lr=range(0.5,2.5)"],
    "choices": ["optimizer=choice(sgd,adam)", "seed=sort(3,1,2)", "lr=sort(0.1,0.3,reverse=true)"],
    "one choice": ["optimizer=choice(sgd)", "seed=range(2,3)"],
    "quotes": ["results.root='a folder','another, with a comma'", 'model.name="x y"', r"data.root='it\'s'"],
    "escapes": [r"results.root=a\,b,c\ d", r"data.root=x\=y"],
    "added keys": ["+optimizer.betas=[0.5,0.9]", "++optimizer.eps=1e-8,1e-6", "+a={b:1,c:[2,3]}"],
    "lists swept": ["+optimizer.betas=[0.5,0.9],[0.1,0.2]", "schedule={_target_:a.B,gamma:0.5},null"],
    "deleted keys": ["~local", "seed=0,1"],
    "interpolations": ["lr=${task.table2.lr}", "switch_epoch=${epochs},3"],
    "groups and packages": ["model@_global_.model=lstm", "protocol=smoke,table2"],
    "words": ["force=true,false", "schedule=null,none", "name=NaN,inf,-1"],
    "a key twice": ["seed=0,1,2", "optimizer=sgd,tmsgd", "seed=range(0,5)"],
    "a key swept, then fixed": ["lr=0.1,0.2", "optimizer=sgd", "lr=0.3"],
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_the_jobs_are_those_of_hydras_own_sweeper_in_its_order(case: str) -> None:
    parser = OverridesParser.create()
    ((*expected,),) = BasicSweeper.split_arguments(parser.parse_overrides(OVERRIDES[case]), None)
    assert [meaning(job) for job in plan.expand(OVERRIDES[case])] == [meaning(job) for job in expected]


def meaning(job: list[str]) -> list[tuple[str, Any]]:
    """The overrides of one job without their spelling (1e-3 is 0.001)."""
    parsed = OverridesParser.create().parse_overrides(job)
    return [(override.get_key_element(), override.get_value_element_as_str()) for override in parsed]


# Epochs


@settings(max_examples=4, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(
    order=st.permutations([SGD, ONE, THREE, make_spec("tmsgd", EPOCHS, switch_epoch=0), make_spec("adam", EPOCHS)]),
    done=st.sets(st.sampled_from([SGD.run_id, ONE.run_id, THREE.run_id])),
    share=st.booleans(),
)
def test_the_total_is_what_is_then_trained(
    order: list[RunSpec], done: set[str], share: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    todo = jobs(tmp_path_factory.mktemp("store"), *order, share_prefix=share)
    for job in todo:
        if job.spec.run_id in done:
            train(job)
    planned, trained = planned_and_trained(todo)
    assert planned == trained


def test_the_total_of_a_fresh_sweep_is_one_trunk_and_the_branches_for_each_seed(tmp_path: Path) -> None:
    specs = [make_spec("sgd", EPOCHS, seed=seed) for seed in range(3)]
    specs += [make_spec("tmsgd", EPOCHS, seed=seed, switch_epoch=switch) for seed in range(3) for switch in (1, 3)]
    text = plan.describe(jobs(tmp_path, *specs))
    assert f"{3 * (4 + 3 + 1)} epochs to train; sharing saves {3 * (1 + 3)}" in text
    alone = plan.describe(jobs(tmp_path, *specs, share_prefix=False))
    assert f"{9 * EPOCHS} epochs to train" in alone and "sharing" not in alone


def test_each_store_has_trunks_of_its_own(tmp_path: Path) -> None:
    """A sweep over results.root shares nothing between the folders."""
    planned, trained = planned_and_trained([*jobs(tmp_path / "one", SGD, TWO), *jobs(tmp_path / "two", SGD, TWO)])
    assert planned == trained == 2 * (4 + 2)


def test_kept_states_are_not_counted_again(tmp_path: Path) -> None:
    for job in jobs(tmp_path, SGD, keep_trunks=True):
        train(job)
    planned, trained = planned_and_trained(jobs(tmp_path, ONE, THREE, keep_trunks=True))
    assert planned == trained == 3 + 1


@pytest.mark.parametrize("epoch", [1, 3], ids=["in the trunk", "in the branch"])
def test_epochs_that_a_killed_run_has_behind_it_are_not_counted_again(epoch: int, tmp_path: Path) -> None:
    todo = jobs(tmp_path, TWO, SGD)
    plan.register(todo)
    assert train(todo[0], kill_at=epoch) == epoch
    planned, trained = planned_and_trained(todo)
    assert planned == trained == (4 + 2) - epoch


def test_nothing_is_left_to_train_of_a_finished_sweep(tmp_path: Path) -> None:
    todo = jobs(tmp_path, SGD, ONE)
    assert planned_and_trained(todo) == (7, 7)
    assert planned_and_trained(todo) == (0, 0)


# What is done


def test_finished_runs_are_marked_and_failed_ones_are_not(tmp_path: Path) -> None:
    growing = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 1e6}
    diverging = replace(make_spec("sgd", EPOCHS), schedule=growing)
    todo = jobs(tmp_path, SGD, diverging, ONE, TWO)
    for job in todo[:2]:
        train(job)
    train(todo[2], kill_at=2)
    text = plan.describe(todo)
    assert states(text) == ["done", "done", "abandoned", "to do"]
    assert text.splitlines()[0] == "plan: 4 runs, 2 of them done"
    assert [line.split()[-1] for line in text.splitlines()[1:5]] == [job.spec.run_id for job in todo]


def test_a_run_to_be_forced_is_not_called_done_and_its_time_and_disk_count(tmp_path: Path) -> None:
    for job in jobs(tmp_path, SGD):
        train(job)
    text = plan.describe(jobs(tmp_path, SGD, force=True))
    assert total(text) == EPOCHS
    assert "0 of them done" in text and states(text) != ["done"]
    assert "for 1 run, " in text


# Time and disk


def with_training_seconds(root: Path, spec: RunSpec, seconds: float) -> None:
    """Rewrite a finished run's record as if its training had taken so long."""
    folder = RunFolder(root, spec.run_id).final
    path = folder / "result.json"
    path.write_text(re.sub(r'"training_seconds": [\d.e-]+', f'"training_seconds": {seconds}', path.read_text()))
    store.seal(folder)


def test_the_time_is_that_of_like_runs_by_their_epochs(tmp_path: Path) -> None:
    """Three hours for four epochs: 45 minutes an epoch, of which sharing leaves six."""
    for job in jobs(tmp_path, make_spec("sgd", EPOCHS, seed=9), make_spec("tmsgd", EPOCHS, seed=9)):
        train(job)
        with_training_seconds(tmp_path, job.spec, 3 * 3600.0)
    text = plan.describe(jobs(tmp_path, SGD, TWO))
    assert re.findall(r"epochs +(\S+ \S+)  toy", text) == ["3.0 h", "90 min"]
    assert "training alone, one run after the other: 4.5 h" in text and "unknown" not in text


def test_the_time_of_a_run_unlike_all_others_is_unknown(tmp_path: Path) -> None:
    finished = make_spec("sgd", EPOCHS, seed=9)
    for job in jobs(tmp_path, finished):
        train(job)
    with_training_seconds(tmp_path, finished, 400.0)
    limited = replace(SGD, data={**SGD.data, "limit": 10})
    text = plan.describe(jobs(tmp_path, SGD, limited, make_spec("adam", EPOCHS)))
    assert "training alone, one run after the other: 7 min, and 2 runs of unknown time" in text
    assert "training alone, one run after the other: unknown" in plan.describe(jobs(tmp_path, limited))


@pytest.mark.parametrize(("optimizer", "seconds"), [("sgd", 60.0), ("adam", 60.0), ("sgdm", 600.0)])
def test_published_runs_give_the_first_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, seconds: float
) -> None:
    """Those of the same optimizer, or else of any; runs of the user's own store count first.

    A damaged file of published runs takes nothing from the others.
    """
    published = (make_spec("sgd", EPOCHS, seed=8), make_spec("sgd", EPOCHS, seed=9), make_spec("sgdm", EPOCHS, seed=9))
    for job in jobs(tmp_path / "published", *published):
        train(job)
        pace = 600.0 if job.spec.optimizer["name"] == "sgdm" else 60.0
        with_training_seconds(tmp_path / "published", job.spec, EPOCHS * pace)
    packed_runs = tmp_path / "results" / "table" / packed.NAME
    packed_runs.parent.mkdir(parents=True)
    packed.write(
        packed_runs, {spec.run_id: packing.files_of(tmp_path / "published" / spec.run_id) for spec in published}
    )
    (tmp_path / "results/damaged").mkdir()
    (tmp_path / "results/damaged" / packed.NAME).write_bytes(packed_runs.read_bytes()[:-9])
    monkeypatch.setattr(plan, "PUBLISHED", tmp_path / "results")
    plan._published.cache_clear()
    longer = make_spec(optimizer, EPOCHS + 1, seed=1)
    text = plan.describe(jobs(tmp_path / "mine", make_spec(optimizer, EPOCHS, seed=1), longer))
    expected = {60.0: "4 min", 600.0: "40 min"}[seconds]
    assert f"other: {expected}, and 1 run of unknown time (by published runs, of another machine)" in text
    mine = make_spec(optimizer, EPOCHS, seed=2)
    for job in jobs(tmp_path / "mine", mine):
        train(job)
    with_training_seconds(tmp_path / "mine", mine, EPOCHS * 3600.0)
    text = plan.describe(jobs(tmp_path / "mine", make_spec(optimizer, EPOCHS, seed=1)))
    assert "other: 4.0 h" in text and "published" not in text
    plan._published.cache_clear()


def test_the_disk_is_that_of_finished_runs(tmp_path: Path) -> None:
    finished = make_spec("sgd", EPOCHS, seed=9)
    for job in jobs(tmp_path, finished):
        train(job)
    (RunFolder(tmp_path, finished.run_id).final / "weights.pt").write_bytes(bytes(50_000_000))
    assert "disk: about 100.0 MB for 2 runs" in plan.describe(jobs(tmp_path, SGD, ONE, finished))


def test_a_plan_of_an_empty_store_knows_neither_time_nor_disk(tmp_path: Path) -> None:
    text = plan.describe(jobs(tmp_path / "none", SGD))
    assert "other: unknown" in text and "disk: unknown" in text
    assert not (tmp_path / "none").exists()


def test_a_plan_names_the_data_that_are_not_there(tmp_path: Path) -> None:
    """And what will happen: a sweep of a night would stop there."""

    def said(name: str, **options: Any) -> str:
        data = task_data.TaskData(name, root=str(tmp_path), **options)
        todo = [replace(job, data=data) for job in jobs(tmp_path / "runs", SGD, ONE)]
        return plan.describe(todo).partition("\ndata: ")[2]

    assert said("r8").startswith(f"r8 is not there; it will be downloaded into {tmp_path / 'r8'}")
    assert said("avazu").startswith("avazu is not there; it cannot be downloaded: ")
    assert said("voc2007+voc2012").count("is not there; it will be downloaded") == 2
    assert said("r8", kind="synthetic") == said("r8", verify=False) == ""
    for file in find("r8").files:
        file.path(tmp_path / "r8").parent.mkdir(exist_ok=True)
        file.path(tmp_path / "r8").touch()
    assert said("r8") == ""


def test_a_plan_shows_the_settings_that_no_name_does(tmp_path: Path) -> None:
    """Such as the learning rates of a search; what all runs of an optimizer share is left out."""
    rates = [make_spec("sgd", EPOCHS, lr=lr) for lr in (0.1, 0.3)]
    lines = plan.describe(jobs(tmp_path, *rates, make_spec("adam", EPOCHS, lr=0.5))).splitlines()[1:4]
    assert [line.rpartition("  ")[2] for line in lines[:2]] == ["lr=0.1", "lr=0.3"] and "lr=" not in lines[2]


def test_a_plan_changes_nothing_in_the_store(tmp_path: Path) -> None:
    todo = jobs(tmp_path, SGD, ONE)
    train(todo[0], kill_at=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan.describe(todo)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Registering


def test_only_runs_that_will_share_a_trunk_register(tmp_path: Path) -> None:
    todo = jobs(tmp_path, SGD, TWO, THREE, make_spec("adam", EPOCHS), make_spec("tmsgd", EPOCHS, switch_epoch=0))
    train(todo[0])
    plan.register(todo)
    claims = {p.name: p.read_text() for p in (tmp_path / prefix.FOLDER).glob("*/pending/*")}
    assert claims == {TWO.run_id: "2\n", THREE.run_id: "3\n"}


@pytest.mark.parametrize("changes", [{"share_prefix": False}, {"force": True}], ids=str)
def test_runs_that_train_alone_do_not_register(changes: dict[str, bool], tmp_path: Path) -> None:
    plan.register(jobs(tmp_path, SGD, TWO, **changes))
    assert list(tmp_path.iterdir()) == []


# --- the order in which jobs start ---------------------------------------------------------------------------------

TRUNKS = st.lists(st.one_of(st.none(), st.sampled_from("abcde")), max_size=40)


@given(TRUNKS, st.integers(1, 6))
def test_every_job_starts_once_and_those_that_need_nobody_in_their_order(trunks: list[str | None], cores: int) -> None:
    order = plan.start_order(trunks, cores)
    assert sorted(order) == list(range(len(trunks)))
    needing = {job for job, trunk in enumerate(trunks) if trunk is not None and trunk in trunks[:job]}
    alone = [job for job in order if job not in needing]
    assert alone == sorted(alone)
    training = [job for job in order if trunks[job] is not None]
    for place, job in enumerate(training):
        if job in needing:  # its state is there, or nothing else is left to train
            first = training.index(trunks.index(trunks[job]))
            assert place - first >= cores or needing.issuperset(training[place:])


@given(TRUNKS)
def test_one_after_the_other_nobody_waits(trunks: list[str | None]) -> None:
    assert plan.start_order(trunks, 1) == list(range(len(trunks)))


def test_pairs_do_not_start_together_on_two_cores() -> None:
    assert plan.start_order(["a", "a", "b", "b", "c", "c", "d", "d"], 2) == [0, 2, 1, 3, 4, 6, 5, 7]


def test_jobs_that_train_nothing_are_no_time_to_wait_for() -> None:
    """As when a sweep of pairs is started again, and every other pair is finished."""
    assert plan.start_order(["a", None, "a", None, "b", None, "b"], 2) == [0, 1, 3, 4, 2, 5, 6]


def test_a_run_that_two_jobs_train_is_planned_once_in_its_first_place(tmp_path: Path) -> None:
    """As with optimizer=sgd and two switch epochs, which SGD does not have."""
    one, two = jobs(tmp_path, SGD, TWO)
    assert plan.runs_of([one, two, ConfigError("no such setting"), one, two]) == [one, two]


def test_jobs_have_the_trunk_they_share_or_a_name_of_their_own_and_none_if_they_train_nothing(tmp_path: Path) -> None:
    other = make_spec("sgd", EPOCHS, seed=1)
    one, two, alone, error = *jobs(tmp_path, SGD, TWO, other), ConfigError("no such setting")
    first, second, third, none = plan.trunks_of([one, two, alone, error])
    assert first == second and first is not None and third not in (first, None) and none is None
    train(one)
    assert plan.trunks_of([one, two]) == [None, first]
    for changes in ({"share_prefix": False}, {"force": True}):
        names = plan.trunks_of(jobs(tmp_path, SGD, TWO, **changes))
        assert names[1] not in (names[0], None)
    assert plan.trunks_of(jobs(tmp_path, SGD, force=True)) != [None]
