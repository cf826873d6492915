"""The sharpness in the history, and the switch that follows from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from toy import BATCH, SIZE, ToyTask, make_options, make_spec, task_maker
from whole_runs import Killed, history, kill_at, result

from tmsgd_bench.engine import clocks, monitor
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.optim.curvature import NotFinite, Sharpness
from tmsgd_bench.results import store
from tmsgd_bench.task import TaskSettings

COLUMNS = ["sharpness", "lr_times_sharpness"]


def logged(every: int, examples: int = SIZE) -> dict[str, int]:
    """The options that record the sharpness."""
    return {"log_sharpness": every, "sharpness_examples": examples}


EVERY = logged(1)


class Normalised(ToyTask):
    """With BatchNorm, whose running statistics every evaluation of the training loss moves."""

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.model.insert(1, nn.BatchNorm1d(8))


class Plain(ToyTask):
    """Without dropout, so that the sharpness does not depend on how examples are batched."""

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.model[1] = nn.Identity()


class TwoModules(ToyTask):
    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.modules = {"net": self.model, "other": nn.Linear(1, 1)}


class OwnStep(ToyTask):
    def training_step(self, batch: Any, optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
        return super().training_step(batch, optimizers)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class OnceDifferentiable(ToyTask):
    def loss(self, batch: Any) -> Tensor:
        return OnceOnly.apply(super().loss(batch))  # type: ignore[no-any-return, no-untyped-call]


def maker(kind: type[ToyTask] = ToyTask, batch_size: int = BATCH) -> Callable[[torch.device], ToyTask]:
    settings = TaskSettings(Path(), None, batch_size, 0, torch.device("cpu"), {})
    return lambda device: kind(settings)


def fixed(value: float) -> Callable[..., Sharpness]:
    """Takes the place of a measurement."""
    return lambda *_, **__: Sharpness(value, 0.0, 5, True)


# --- the history ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ToyTask, Normalised])
@pytest.mark.parametrize("name", ["sgd", "tmsgdm", "tmsgd_auto", "adam"])
def test_recording_the_sharpness_changes_nothing_but_the_history(
    name: str, kind: type[ToyTask], tmp_path: Path
) -> None:
    spec = make_spec(name)
    run(spec, make_options(tmp_path / "without"), maker(kind))
    run(spec, make_options(tmp_path / "with", **logged(1, 7)), maker(kind))
    assert result(tmp_path / "with", spec)["weights_sha256"] == result(tmp_path / "without", spec)["weights_sha256"]
    without, recorded = history(tmp_path / "without", spec), history(tmp_path / "with", spec)
    assert set(recorded) == {*without, *COLUMNS}
    pd.testing.assert_frame_equal(
        recorded.drop(columns=COLUMNS), without.drop(columns=COLUMNS, errors="ignore"), check_exact=True
    )
    assert recorded[COLUMNS].notna().all().all()


def test_without_being_asked_for_it_is_not_in_the_history(tmp_path: Path) -> None:
    run(make_spec(), make_options(tmp_path), task_maker())
    assert not {*COLUMNS} & {*history(tmp_path, make_spec())}
    assert not {"log_sharpness", "auto_switch"} & {*result(tmp_path, make_spec())}


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3]), (7, [])])
def test_it_is_recorded_after_every_so_many_epochs(every: int, epochs: list[int], tmp_path: Path) -> None:
    spec = make_spec()
    run(spec, make_options(tmp_path, **logged(every)), task_maker())
    rows = history(tmp_path, spec)
    assert list(rows["epoch"][rows["sharpness"].notna()]) == epochs
    assert result(tmp_path, spec)["log_sharpness"] == {"every_epochs": every, "examples": SIZE}


def test_lr_times_sharpness_is_taken_with_the_rate_of_the_next_step(tmp_path: Path) -> None:
    """The schedule halves the rate after epochs 1 and 3: their rows have the new one already."""
    spec = make_spec("sgd")
    run(spec, make_options(tmp_path, **EVERY), task_maker())
    rows = history(tmp_path, spec)
    rates = [spec.optimizer["lr"] * factor for factor in (1.0, 0.5, 0.5, 0.25, 0.25, 0.25)]
    assert list(rows["lr_times_sharpness"]) == pytest.approx(list(rates * rows["sharpness"]), rel=1e-12)


@pytest.mark.parametrize("batch_size", [5, 8, 20])
def test_it_is_the_largest_eigenvalue_of_the_mean_over_examples(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 8, 8 and 4 examples weigh in by their sizes. The reference is the dense Hessian, in float64."""
    built: list[ToyTask] = []
    spec = make_spec("sgd", epochs=1)
    make = maker(Plain, batch_size)
    monkeypatch.setattr(monitor, "sharpness", lambda *a, **k: real(*a, tolerance=1e-6, **k))
    run(spec, make_options(tmp_path, **EVERY), lambda device: built.append(make(device)) or built[0])  # type: ignore[func-returns-value]
    task = built[0]
    model, x, y = task.model.double(), task.x.double(), task.y.double()
    sizes = [p.shape for p in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        pieces = [part.view(size) for part, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]
        weights = dict(zip((name for name, _ in model.named_parameters()), pieces, strict=True))
        return (torch.func.functional_call(model, weights, x) - y).square().mean()

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    dense = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1])
    assert history(tmp_path, spec)["sharpness"][0] == pytest.approx(dense, rel=1e-5)


real = monitor.sharpness


@pytest.mark.parametrize("name", ["sgd", "tmsgd_auto"])
def test_an_interrupted_run_has_the_history_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    """Interrupted before, right before, at and after the switch."""
    spec = make_spec(name)
    run(spec, make_options(tmp_path / "whole", **EVERY), task_maker())
    whole = result(tmp_path / "whole", spec)
    for epoch, step in [(1, 1), (2, 3), (3, 0), (4, 2)]:
        root = tmp_path / f"{epoch}-{step}"
        with pytest.raises(Killed):
            run(spec, make_options(root, **EVERY), task_maker(on_step=kill_at(epoch, step)))
        run(spec, make_options(root, **EVERY), task_maker())
        pd.testing.assert_frame_equal(history(root, spec), history(tmp_path / "whole", spec), check_exact=True)
        torn = result(root, spec)
        assert torn["weights_sha256"] == whole["weights_sha256"]
        assert decisions(torn) == decisions(whole)


def decisions(found: dict[str, Any]) -> dict[str, Any]:
    """What a result says of its switch, without the time that took."""
    return {key: value for key, value in found.get("auto_switch", {}).items() if key != "seconds"}


def test_the_time_it_takes_is_bookkeeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves only while the sharpness is measured: neither training nor warm-up."""
    now = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])

    def slow(*_: Any, **__: Any) -> Sharpness:
        now[0] += 100.0
        return Sharpness(1.0, 0.0, 7, True)

    monkeypatch.setattr(monitor, "sharpness", slow)
    spec = make_spec("tmsgd_auto")
    run(spec, make_options(tmp_path), task_maker())
    found = result(tmp_path, spec)
    assert found["clocks"]["seconds"] == {"training": 0.0, "evaluation": 0.0, "bookkeeping": 300.0}
    assert found["clocks"]["warm_up"] == 0.0
    assert (found["auto_switch"]["products"], found["auto_switch"]["seconds"]) == (21, 300.0)


def test_a_loss_that_is_not_finite_leaves_a_gap_and_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it was to decide: the run goes on as plain SGD."""

    def fail(*_: Any, **__: Any) -> Sharpness:
        raise NotFinite("the loss is inf: there is no sharpness to measure.")

    monkeypatch.setattr(monitor, "sharpness", fail)
    spec = make_spec("tmsgd_auto")
    run(spec, make_options(tmp_path, **EVERY), task_maker())
    assert history(tmp_path, spec)[COLUMNS].isna().all().all()
    assert result(tmp_path, spec)["auto_switch"]["epoch"] is None
    assert "no sharpness after epoch 0: the loss is inf" in caplog.text


def test_an_uncertain_value_is_said_and_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor, "sharpness", lambda *_, **__: Sharpness(1.0, 0.5, 100, False))
    spec = make_spec("tmsgd_auto")
    run(spec, make_options(tmp_path), task_maker())
    assert "the sharpness after epoch 2, 1, is uncertain by 0.5" in caplog.text
    assert result(tmp_path, spec)["auto_switch"]["epoch"] is None
    assert list(history(tmp_path, spec)["sharpness"][:5]) == [1.0] * 5


def test_the_models_mode_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured in training mode; figures are drawn in evaluation mode, with and without it."""
    modes: list[tuple[str, bool]] = []
    tasks: list[ToyTask] = []

    class Watching(ToyTask):
        def loss(self, batch: Any) -> Tensor:
            modes.append(("loss", self.model.training))
            return super().loss(batch)

        def draw(self, folder: Path) -> None:
            modes.append(("draw", self.model.training))

    make = maker(Watching)
    run(make_spec(epochs=1), make_options(tmp_path, **EVERY), lambda d: tasks.append(make(d)) or tasks[0])  # type: ignore[func-returns-value]
    assert set(modes) == {("loss", True), ("draw", False)}


# --- the sample ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 5, 6, 19, 20, 21, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 20, 50])
def test_the_sample_is_the_first_batches_of_epoch_0(examples: int, batch_size: int) -> None:
    task = maker(ToyTask, batch_size)(torch.device("cpu"))
    pairs = list(task.probe(examples))
    batches = [index for _, _, index in task.batches(0)]
    assert all(torch.equal(batch[2], index) for (batch, _), index in zip(pairs, batches, strict=False))
    sizes = [size for _, size in pairs]
    assert sizes == [len(batch[2]) for batch, _ in pairs]
    assert sum(sizes) >= min(examples, SIZE) and sum(sizes[:-1]) < examples


@pytest.mark.parametrize(("first", "then"), [(7, 20), (20, 7), (7, 7)])
def test_the_sample_does_not_depend_on_what_was_asked_for_before(first: int, then: int) -> None:
    task, fresh = maker()(torch.device("cpu")), maker()(torch.device("cpu"))
    task.probe(first)
    ours, theirs = list(task.probe(then)), list(fresh.probe(then))
    assert [size for _, size in ours] == [size for _, size in theirs]
    assert all(torch.equal(mine[2], its[2]) for (mine, _), (its, _) in zip(ours, theirs, strict=True))


def test_the_sample_is_made_once_in_a_run(tmp_path: Path) -> None:
    """Epoch 0 is asked for to be trained and for the first measurement; no later one breaks the order of epochs."""
    asked: list[int] = []

    class Watching(ToyTask):
        def batches(self, epoch: int) -> Iterable[tuple[int, int, Tensor]]:
            asked.append(epoch)
            return super().batches(epoch)

    run(make_spec("sgd"), make_options(tmp_path, **EVERY), maker(Watching))
    assert asked == [0, 0, 1, 2, 3, 4, 5]


# --- what cannot be measured ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "tmsgd_auto"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TwoModules, "several modules.*log_sharpness"),
        (OwnStep, "training step of its own"),
        (OnceDifferentiable, "'toy' .*differentiated twice"),
    ],
)
def test_a_task_whose_sharpness_cannot_be_measured_is_refused_in_one_sentence(
    kind: type[ToyTask], message: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        run(make_spec(name), make_options(tmp_path, **EVERY), maker(kind))
    assert "\n" not in str(error.value)
    assert store.read_runs(tmp_path).empty


@pytest.mark.parametrize("kind", [TwoModules, OwnStep, OnceDifferentiable])
def test_such_a_task_trains_as_long_as_nobody_asks(kind: type[ToyTask], tmp_path: Path) -> None:
    assert run(make_spec(), make_options(tmp_path), maker(kind)).status == "done"


def test_an_optimizer_whose_switch_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    spec = make_spec("tmsgd_auto", maximize=True)
    with pytest.raises(ConfigError, match=r"'tmsgd_auto' .*maximize=False"):
        run(spec, make_options(tmp_path), task_maker())


# --- done already --------------------------------------------------------------------------------------------------


def test_a_done_run_is_skipped_and_says_that_its_history_lacks_the_sharpness(tmp_path: Path) -> None:
    spec, lacking = make_spec(), "its history lacks the sharpness asked for: force=true"
    run(spec, make_options(tmp_path), task_maker())
    assert lacking not in run(spec, make_options(tmp_path), task_maker()).note
    again = run(spec, make_options(tmp_path, **EVERY), task_maker())
    assert again.status == "skipped" and lacking in again.note
    run(spec, make_options(tmp_path, **EVERY, force=True), task_maker())
    assert lacking not in run(spec, make_options(tmp_path, **EVERY), task_maker()).note
    assert lacking in run(spec, make_options(tmp_path, **logged(2)), task_maker()).note


# --- the automatic switch ------------------------------------------------------------------------------------------


def test_a_chosen_switch_trains_like_the_same_switch_set_by_hand(tmp_path: Path) -> None:
    chosen = make_spec("tmsgd_auto")
    run(chosen, make_options(tmp_path), task_maker())
    found = result(tmp_path, chosen)
    epoch = found["auto_switch"]["epoch"]
    assert epoch == 3 and found["auto_switch"]["step"] == 12 and found["switched"] is True
    by_hand = make_spec("tmsgd", switch_epoch=epoch)
    run(by_hand, make_options(tmp_path), task_maker())
    assert found["weights_sha256"] == result(tmp_path, by_hand)["weights_sha256"]
    assert found["note"].endswith("switched at epoch 3")
    frame = store.read_runs(tmp_path).set_index("optimizer")
    assert frame.loc["tmsgd_auto", "switch_epoch"] == 3


def test_the_result_holds_every_measurement(tmp_path: Path) -> None:
    spec = make_spec("tmsgd_auto")
    run(spec, make_options(tmp_path), task_maker())
    found, rows = result(tmp_path, spec)["auto_switch"], history(tmp_path, spec)
    frame = pd.DataFrame(found["measurements"])
    assert list(frame["epoch"]) == [0, 1, 2] and list(frame["step"]) == [4, 8, 12]
    assert list(frame["below"]) == [True] * 3 and list(frame["switched"]) == [False, False, True]
    assert list(frame["sharpness"]) == list(rows["sharpness"][:3]) and rows["sharpness"][3:].isna().all()
    assert list(frame["lr_times_sharpness"]) == pytest.approx(list(rows["lr_times_sharpness"][:3]), rel=1e-12)
    assert found["products"] >= 3 and found["seconds"] > 0.0


@pytest.mark.parametrize(
    ("plan", "epoch"),
    [
        ({"patience": 1}, 1),
        ({"patience": 2}, 2),
        ({"patience": 5}, 5),
        ({"patience": 6}, None),  # after the last epoch nothing is left to train
        ({"patience": 2, "every_epochs": 2}, 4),
        ({"margin": 0.01}, None),
    ],
)
def test_the_plan_decides_when(
    plan: dict[str, Any], epoch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a sharpness of 1, with lr = 0.05 halved twice and a limit of 1."""
    monkeypatch.setattr(monitor, "sharpness", fixed(1.0))
    base = make_spec("tmsgd_auto").optimizer["auto_switch"]
    spec = make_spec("tmsgd_auto", auto_switch={**base, **plan})
    run(spec, make_options(tmp_path), task_maker())
    assert result(tmp_path, spec)["auto_switch"]["epoch"] == epoch


def test_a_run_that_never_switches_is_plain_sgd_and_says_so(tmp_path: Path) -> None:
    base = make_spec("tmsgd_auto").optimizer["auto_switch"]
    spec, sgd = make_spec("tmsgd_auto", auto_switch={**base, "margin": 1e-6}), make_spec("sgd")
    for each in (spec, sgd):
        run(each, make_options(tmp_path), task_maker())
    found = result(tmp_path, spec)
    assert found["weights_sha256"] == result(tmp_path, sgd)["weights_sha256"]
    assert found["switched"] is False and "never switched, so this run is plain SGD" in found["note"]
    assert store.read_runs(tmp_path).set_index("optimizer").loc["tmsgd_auto", "switch_epoch"] == math.inf


def test_before_its_end_nothing_is_known_of_the_switch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_spec("tmsgd_auto")
    with caplog.at_level(logging.INFO), pytest.raises(Killed):
        run(spec, make_options(tmp_path), task_maker(on_step=kill_at(1, 1)))
    assert "plain SGD" not in caplog.text
    assert pd.isna(store.read_runs(tmp_path).iloc[0]["switch_epoch"])


def test_a_run_that_diverges_after_its_switch_has_switched(tmp_path: Path) -> None:
    spec = make_spec("tmsgd_auto")
    task: list[ToyTask] = []

    def poison(epoch: int, step: int) -> None:
        if epoch == 4:
            with torch.no_grad():
                task[0].model[0].weight.fill_(torch.inf)

    build = task_maker(on_step=poison)
    run(spec, make_options(tmp_path), lambda device: task.append(build(device)) or task[0])  # type: ignore[func-returns-value]
    found = result(tmp_path, spec)
    assert (found["status"], found["switched"], found["auto_switch"]["epoch"]) == ("diverged", True, 3)


@pytest.mark.parametrize("recorded", [EVERY, logged(1, 5)])
def test_one_measurement_serves_both_where_they_ask_for_the_same(
    recorded: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counting(losses: list[Any], *_: Any, **__: Any) -> Sharpness:
        calls.append(len(losses))
        return Sharpness(1.0, 0.0, 5, True)

    monkeypatch.setattr(monitor, "sharpness", counting)
    spec: RunSpec = make_spec("tmsgd_auto")
    run(spec, make_options(tmp_path, **recorded), task_maker())
    assert calls == ([4] * 6 if recorded == EVERY else [4, 1] * 3 + [1] * 3)
    assert result(tmp_path, spec)["auto_switch"]["products"] == 15
