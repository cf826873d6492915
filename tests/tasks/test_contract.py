"""What every task promises, whatever its data and its network: see docs/extending.md."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from modes import evaluating, without_onednn
from networks import Glance, Glimpse, coarse, few_boxes
from tiny import CONF, CPU, EPOCHS, SWITCH, TASKS, Example, Tiny, values_of
from whole_runs import Killed, history, make_options, outcome, result

from tasks.od.fast_rcnn.selective_search import Search
from tmsgd_bench.engine import plan
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.optimizers import build_optimizer
from tmsgd_bench.engine.plan import PlannedRun
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.task import Task

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
DataOf = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    """In the place of slow ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.od.rfbnet.detector.RFBNet", Glance)
        patch.setattr("tasks.seg.model.lraspp_mobilenet_v3_large", Glimpse)
        patch.setattr("tmsgd_bench.results.figure_runs.writer", coarse)
        patch.setattr("tasks.od.rfbnet.detector.CANDIDATES", 10)
        patch.setattr("tasks.ig.task.SAMPLES", 2)
        patch.setattr("tasks.od.task.SHOWN", 1)
        patch.setattr("tasks.seg.task.SHOWN", 1)
        patch.setattr("tasks.fkpd.task.FACES", 1)
        patch.setattr(Search, "boxes", few_boxes)
        yield


@pytest.fixture(scope="module", params=TASKS)
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    """The tasks one by one, with all that is measured of each."""
    with without_onednn() if "task=ic" in TASKS[request.param].overrides else nullcontext():
        yield TASKS[request.param]


@pytest.fixture(scope="module")
def folder(tiny: Tiny, tiny_data: DataOf) -> Path:
    """The task's data, to be read only."""
    return tiny_data(tiny.dataset)


@pytest.fixture
def task(tiny: Tiny, folder: Path) -> Task:
    """The task with the same initial weights every time."""
    torch.manual_seed(0)
    return tiny.build(folder)


def weights_of(task: Task) -> dict[str, torch.Tensor]:
    """A copy of every weight and running average."""
    return {
        f"{name}.{key}": value.clone()
        for name, module in task.modules.items()
        for key, value in module.state_dict().items()
    }


def equal(one: Any, other: Any) -> bool:
    """Whether two nests of dictionaries and lists have the same tensors and values; NaN is itself."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other or (one != one and other != other))


def left_untouched(task: Task, act: Callable[[], Any]) -> Any:
    """What an action returns that must change neither weights nor modes nor random streams of a task."""
    weights, stream = weights_of(task), torch.get_rng_state()
    modes = [layer.training for module in task.modules.values() for layer in module.modules()]
    answer = act()
    assert equal(weights_of(task), weights)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [layer.training for module in task.modules.values() for layer in module.modules()] == modes
    return answer


# --- metrics -------------------------------------------------------------------------------------------------------

RANGES = {"%": (0.0, 100.0), "nat": (0.0, math.inf), "px": (0.0, math.inf), "": (0.0, math.inf)}


def test_metrics_are_the_declared_ones_each_in_the_range_of_its_unit(tiny: Tiny, task: Task) -> None:
    """A detail may be of nothing, such as of a class without examples."""
    assert task.metrics == tiny.metrics and list(task.modules) == list(tiny.modules)
    with evaluating(task):
        measured = task.evaluate()
    assert list(measured) == [metric.name for metric in task.metrics]
    for metric in task.metrics:
        low, high = RANGES[metric.unit]
        value = measured[metric.name]
        assert (low <= value <= high * (1 + 1e-12) and math.isfinite(value)) or (metric.detail and math.isnan(value))


def test_evaluating_changes_nothing_and_remembers_nothing(tiny: Tiny, folder: Path, task: Task) -> None:
    """Asked twice it answers the same, asked later it answers as if asked for the first time."""
    torch.manual_seed(0)
    fresh = tiny.build(folder)
    with evaluating(task):
        first = left_untouched(task, task.evaluate)
        assert equal(left_untouched(task, task.evaluate), first)
    optimizers = [steppers(each) for each in (task, fresh)]
    for each, own in zip((task, fresh), optimizers, strict=True):
        for module in each.modules.values():
            module.train()
        torch.manual_seed(1)
        for batch in each.batches(0):
            each.training_step(batch, own)
    assert equal(weights_of(task), weights_of(fresh))
    with evaluating(task), evaluating(fresh):
        assert equal(task.evaluate(), fresh.evaluate())


def steppers(task: Task, name: str = "sgd", lr: float = 0.02) -> dict[str, torch.optim.Optimizer]:
    """An optimizer of conf/optimizer for each module."""
    described = values_of("task=tc", f"optimizer={name}")["optimizer"] | {"lr": lr}
    return {
        key: build_optimizer(described, module.parameters(), task.steps_per_epoch)
        for key, module in task.modules.items()
    }


def test_drawing_changes_nothing(task: Task, tmp_path: Path) -> None:
    with evaluating(task):
        task.after_epoch(0)
        left_untouched(task, lambda: task.draw(tmp_path))
    draws = type(task).draw is not Task.draw
    assert draws == any(path.suffix == ".png" for path in tmp_path.iterdir())


# --- batches -------------------------------------------------------------------------------------------------------


def examples(tiny: Tiny, task: Task, epoch: int) -> list[Example]:
    """An epoch's examples in their order."""
    return [example for batch in task.batches(epoch) for example in tiny.examples(batch)]


@pytest.mark.parametrize("size", [2, 3, 64])
def test_an_epoch_has_every_example_in_batches_of_one_size(tiny: Tiny, folder: Path, size: int) -> None:
    """But for the last, which may be smaller."""
    task = tiny.build(folder, batch_size=size, data_limit=5 if size == 3 else 6)
    sizes = [len(tiny.examples(batch)) for batch in task.batches(1)]
    assert len(sizes) == task.steps_per_epoch == math.ceil(task.train_size / size)
    assert sum(sizes) == task.train_size and set(sizes[:-1]) <= {size}


def test_batches_are_a_function_of_seed_and_epoch_alone(tiny: Tiny, folder: Path, task: Task) -> None:
    """Not of torch's stream, which they leave alone, of what was asked before, of workers, or of the batch size."""
    epochs = left_untouched(task, lambda: [examples(tiny, task, epoch) for epoch in range(3)])
    assert len(epochs[0]) == tiny.limit
    torch.manual_seed(99)
    size = tiny.batch_size // 2 if tiny.batch_size > 2 else 4
    other = tiny.build(folder, batch_size=size, workers=2 if tiny.loads_ahead else 0)
    assert all(equal(examples(tiny, other, epoch), epochs[epoch]) for epoch in (2, 0, 1))
    other.close()
    reseeded = examples(tiny, tiny.build(folder, seed=1), 0)
    assert not any(equal(one, two) for one, two in ((epochs[0], epochs[1]), (epochs[1], epochs[2])))
    assert not equal(reseeded, epochs[0])


def test_optimizers_begin_with_the_same_weights_and_see_the_same_examples(tiny: Tiny, folder: Path) -> None:
    """Also after an epoch that each has trained in its way."""
    begun, seen = [], []
    for name in ("sgd", "adam"):
        torch.rand(3)
        trainer = Trainer.build(tiny.spec(name), lambda device: tiny.build(folder), CPU)
        begun.append(weights_of(trainer.task))
        trainer.fit(1)
        seen.append(examples(tiny, trainer.task, 1))
        assert not equal(weights_of(trainer.task), begun[-1])
    assert equal(*begun) and equal(*seen)


@pytest.mark.parametrize("limit", [5, 6])
def test_a_limit_leaves_so_many_training_examples(tiny: Tiny, folder: Path, limit: int) -> None:
    """One beyond what there is leaves all."""
    limited = tiny.build(folder, data_limit=limit, batch_size=3)
    assert limited.train_size == limit
    assert tiny.build(folder, data_limit=10**6).train_size == tiny.build(folder, data_limit=None).train_size > limit


# --- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_on_every_module(task: Task, name: str) -> None:
    """One for each batch."""
    before, steps = weights_of(task), dict.fromkeys(task.modules, 0)
    optimizers = steppers(task, name)
    for key, optimizer in optimizers.items():
        optimizer.register_step_post_hook(lambda *_, key=key: steps.update({key: steps[key] + 1}))
    for module in task.modules.values():
        module.train()
    for batch, _ in zip(task.batches(0), range(2), strict=False):
        losses = task.training_step(batch, optimizers)
        assert all(bool(loss.isfinite()) and not loss.requires_grad for loss in losses.values())
    assert set(steps.values()) == {2}
    for name, module in task.modules.items():
        trained = {key: value for key, value in module.named_parameters() if value.requires_grad}
        assert all(value.grad is not None and bool(value.isfinite().all()) for value in trained.values())
        moved = [not torch.equal(value, before[f"{name}.{key}"]) for key, value in trained.items()]
        assert sum(moved) > 0.7 * len(moved)  # not all: a head may have nothing to learn from so few images


# --- damaged data --------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "no text and no image": lambda path: path.write_bytes(b"\xff\xfe\n\x81"),
}


def use_all(tiny: Tiny, folder: Path) -> None:
    """Read everything that a run reads."""
    task = tiny.build(folder)
    list(task.batches(0))
    with evaluating(task):
        task.evaluate()


def test_a_missing_folder_is_named_with_what_to_do(tiny: Tiny, tmp_path: Path) -> None:
    absent = tmp_path / tiny.dataset
    with pytest.raises(DataError, match=re.escape(str(absent))) as raised:
        use_all(tiny, absent)
    assert tiny.remedy in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_to_do(tiny: Tiny, folder: Path, tmp_path: Path, damage: str) -> None:
    """Of each kind of files one. Where any of several files will do, the folder that lacks them is named."""
    copied = tmp_path / tiny.dataset
    shutil.copytree(folder, copied)
    for path in tiny.paths(copied):
        whole = path.read_bytes()
        DAMAGES[damage](path)
        with pytest.raises(DataError, match=re.escape(str(path.parent if damage == "missing" else path))) as raised:
            use_all(tiny, copied)
        assert tiny.remedy in str(raised.value) and "\n" not in str(raised.value)
        path.write_bytes(whole)


# --- runs in the engine --------------------------------------------------------------------------------------------

END = -1
"""In place of a step: the end of an epoch, after its last update."""
DEATHS = ((0, 1), (0, END), (SWITCH, 0), (SWITCH, 1), (EPOCHS - 1, 1))
"""Epochs, and the steps before which a run is killed, one after the other."""


@pytest.fixture(scope="module")
def alone(tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunSpec], dict[str, Any]]:
    """The outcome of a run that nothing disturbs, each trained once for all tests of a task."""
    root = tmp_path_factory.mktemp("alone")

    def outcome_of(spec: RunSpec) -> dict[str, Any]:
        tiny.train(folder, root, spec)
        return outcome(root, spec)

    return outcome_of


Alone = Callable[[RunSpec], dict[str, Any]]


def test_a_killed_run_goes_on_with_the_same_bits(tiny: Tiny, folder: Path, tmp_path: Path, alone: Alone) -> None:
    """In the middle of an epoch, at its end, at the switch and after it; at last with a worker where one can help."""
    spec = tiny.spec(tiny.optimizer)
    for epoch, step in DEATHS:
        with pytest.raises(Killed):
            tiny.train(folder, tmp_path, spec, (epoch, tiny.steps if step == END else step))
    tiny.train(folder, tmp_path, spec, workers=int(tiny.loads_ahead))
    assert outcome(tmp_path, spec) == alone(spec)
    assert result(tmp_path, spec)["status"] == "done" and len(history(tmp_path, spec)) == EPOCHS


def test_runs_that_share_their_beginning_have_the_bits_of_runs_alone(
    tiny: Tiny, folder: Path, tmp_path: Path, alone: Alone
) -> None:
    """Those after the first are spared the epochs that they have in common."""
    one, plain, two = (
        tiny.spec(tiny.optimizer),
        tiny.spec(tiny.optimizer.removeprefix("tm")),
        tiny.spec(tiny.optimizer, switch_epoch=2),
    )
    shared = {"share_prefix": True}
    plan.register([PlannedRun(spec, make_options(tmp_path, **shared)) for spec in (one, plain, two)])
    saved = [tiny.train(folder, tmp_path, spec, **shared).saved for spec in (one, plain, two)]
    for spec in (one, plain, two):
        assert outcome(tmp_path, spec) == alone(spec)
    assert saved == [0, 1, 2]
    assert len({alone(spec)["weights_sha256"] for spec in (one, plain, two)}) == 3  # the switch made a difference


def test_recording_the_sharpness_leaves_the_bits_alone(tiny: Tiny, folder: Path, tmp_path: Path, alone: Alone) -> None:
    """Where the task has several losses there is none to measure it of."""
    spec = tiny.spec(tiny.optimizer)
    if "task=ig" in tiny.overrides:
        with pytest.raises(ConfigError, match="log_sharpness"):
            tiny.train(folder, tmp_path, spec, log_sharpness=1)
        return
    tiny.train(folder, tmp_path, spec, log_sharpness=1, sharpness_examples=2, workers=int(tiny.loads_ahead))
    recorded = history(tmp_path, spec)
    assert recorded["sharpness"].notna().all() and recorded["sharpness"].nunique() == EPOCHS
    expected = alone(spec)
    assert outcome(tmp_path, spec)["weights_sha256"] == expected["weights_sha256"]
    assert repr(recorded.drop(columns=["sharpness", "lr_times_sharpness"]).to_dict("list")) == expected["history"]
