"""Prefix sharing: the same bits as a run alone, every epoch of a trunk once, and nothing left behind.

The runs that share are registered beforehand, as a sweep does; a run that comes unannounced is right too, only dearer.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import FORKS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from toy import BATCH, SIZE, STEPS, ToyTask, make_options, make_spec
from whole_runs import Hook, Killed, kill_at, nothing, outcome, result

from tmsgd_bench import files
from tmsgd_bench.engine import checkpoint, plan, prefix
from tmsgd_bench.engine.plan import PlannedRun
from tmsgd_bench.engine.prefix import Trunk, shared_epochs, trunk_key
from tmsgd_bench.engine.runner import Outcome, run
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.engine.sweep import skip_finished
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import store
from tmsgd_bench.task import TaskSettings

EPOCHS = 6
Build = Callable[[TaskSettings, Hook], ToyTask]


class TwoNetworks(ToyTask):
    """Two modules with an optimizer and a loss each; one has buffers that training moves."""

    def __init__(self, settings: TaskSettings, on_step: Hook) -> None:
        super().__init__(settings, on_step)
        self.critic = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.modules["critic"] = self.critic

    def training_step(self, batch: tuple[int, int, Tensor], optimizers: Any) -> dict[str, Tensor]:
        inputs = self.x[batch[2]]
        losses = {"net": self.loss(batch), "critic": (self.critic(inputs) - inputs.sum(1, keepdim=True)).abs().mean()}
        for name, loss in losses.items():
            optimizer: Optimizer = optimizers[name]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {"loss": losses["net"].detach(), "critic_loss": losses["critic"].detach()}


@dataclass
class Sweep:
    """Runs of one store that share their prefixes, and the epochs that were trained to their end, by run id."""

    root: Path
    build: Build = ToyTask
    changes: dict[str, Any] = field(default_factory=dict)
    epochs: list[tuple[str, int]] = field(default_factory=list)

    def options(self, **changes: Any) -> RunOptions:
        return make_options(self.root, **{"share_prefix": True, **self.changes, **changes})

    def register(self, specs: Sequence[RunSpec]) -> None:
        plan.register([PlannedRun(spec, self.options()) for spec in specs])

    def run(self, spec: RunSpec, hook: Hook = nothing, **changes: Any) -> Outcome:
        def on_step(epoch: int, step: int) -> None:
            hook(epoch, step)
            if step == STEPS - 1:
                self.epochs.append((spec.run_id, epoch))

        settings = TaskSettings(Path(), None, spec.batch_size, spec.seed, torch.device("cpu"), {})
        return run(spec, self.options(**changes), lambda device: self.build(settings, on_step))

    def result(self, spec: RunSpec) -> dict[str, Any]:
        return result(self.root, spec)

    def outcome(self, spec: RunSpec) -> dict[str, Any]:
        """What must not depend on who trained it."""
        return outcome(self.root, spec)

    def trunks(self) -> list[Path]:
        """Everything that the store's trunks hold."""
        return sorted((self.root / prefix.FOLDER).rglob("*"))

    def states(self) -> set[int]:
        return {int(path.name.split("-")[1]) for path in self.trunks() if path.suffix == ".pt"}

    def claims(self) -> set[str]:
        return {path.name for path in self.trunks() if path.parent.name == "pending"}


Alone = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The outcome of a run trained for itself, each trained once for all tests."""
    known: dict[tuple[str, Build], dict[str, Any]] = {}

    def outcome(spec: RunSpec, build: Build = ToyTask) -> dict[str, Any]:
        if (spec.run_id, build) not in known:
            sweep = Sweep(tmp_path_factory.mktemp("alone"), build, {"share_prefix": False})
            sweep.run(spec)
            known[spec.run_id, build] = sweep.outcome(spec)
        return known[spec.run_id, build]

    return outcome


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def branches(name: str, *switches: int, **options: Any) -> list[RunSpec]:
    return [make_spec(name, EPOCHS, switch_epoch=switch, **options) for switch in switches]


def cost(specs: Sequence[RunSpec]) -> int:
    """The epochs that runs of one trunk cost: E + Σ(E − s), or without SGD the longest prefix in place of E."""
    return max(shared_epochs(spec) for spec in specs) + sum(spec.epochs - shared_epochs(spec) for spec in specs)


FAMILY = [make_spec("sgd", EPOCHS), *branches("tmsgd", 0, 1, 3, 5, 6)]
SGD, AT_ONCE, ONE, THREE, FIVE, NEVER = FAMILY


# The same bits, and every epoch once


def test_the_family_costs_one_trunk_and_the_branches() -> None:
    assert cost(FAMILY) == EPOCHS + sum(EPOCHS - switch for switch in (0, 1, 3, 5, 6)) == 21


@settings(max_examples=6, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(order=st.permutations(FAMILY), seconds=st.sampled_from([0.0, 1e9]))
def test_in_any_order_every_branch_has_its_own_bits_and_the_trunk_is_trained_once(
    order: list[RunSpec], seconds: float, alone: Alone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a state after every epoch, and with those alone that somebody waits for."""
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), changes={"checkpoint_seconds": seconds})
    sweep.register(order)
    saved = sum(sweep.run(spec).saved for spec in order)
    for spec in order:
        assert sweep.outcome(spec) == alone(spec)
    assert len(sweep.epochs) == cost(FAMILY)
    assert len(sweep.epochs) + saved == EPOCHS * len(FAMILY)
    assert sweep.trunks() == []


@settings(max_examples=4, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(order=st.permutations(FAMILY), keep=st.booleans())
def test_runs_that_nobody_announced_have_their_own_bits_too(
    order: list[RunSpec], keep: bool, alone: Alone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), changes={"keep_trunks": keep})
    saved = sum(sweep.run(spec).saved for spec in order)
    for spec in order:
        assert sweep.outcome(spec) == alone(spec)
    assert len(sweep.epochs) + saved == EPOCHS * len(FAMILY)


def scheduled(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"torch.optim.lr_scheduler.{name}", **options}


SCHEDULES: dict[str, dict[str, Any] | None] = {
    "constant": None,
    "drops at the switch": scheduled("MultiStepLR", milestones=[3], gamma=0.1),
    "drops after the switch": scheduled("MultiStepLR", milestones=[4, 5], gamma=0.1),
    "moves every epoch": scheduled("CosineAnnealingLR", T_max=EPOCHS),
    "restarts": scheduled("CosineAnnealingWarmRestarts", T_0=2),
    "moves the momentum too": scheduled("OneCycleLR", max_lr=0.05, total_steps=EPOCHS + 1, cycle_momentum=True),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_across_the_switch_goes_on_as_in_a_run_alone(schedule: str, sweep: Sweep, alone: Alone) -> None:
    plain = make_spec("sgdm", EPOCHS, lr=0.01)
    specs = [replace(spec, schedule=SCHEDULES[schedule]) for spec in (*branches("tmsgdm", 2, 4), plain)]
    sweep.register(specs)
    for spec in specs:
        sweep.run(spec)
        assert sweep.outcome(spec) == alone(spec)
    assert len(sweep.epochs) == cost(specs) == 6 + 4 + 2


OPTIONS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "weight decay": {"momentum": 0.9, "weight_decay": 0.1},
    "ascent": {"maximize": True, "lr": 1e-4},
    "warm-up": {"warmup": {"updates": 14, "start_factor": 0.01}},
}


@pytest.mark.parametrize(
    ("options", "build"),
    [*((name, ToyTask) for name in OPTIONS), ("momentum", TwoNetworks), ("weight decay", TwoNetworks)],
)
def test_options_and_several_networks_share_with_the_same_bits(
    options: str, build: Build, sweep: Sweep, alone: Alone
) -> None:
    own = {"lr": 0.01, **OPTIONS[options]}
    specs = [*branches("tmsgd", 5, 3, **own), make_spec("sgd", EPOCHS, **own)]
    sweep.build = build
    sweep.register(specs)
    for spec in specs:
        sweep.run(spec)
        assert sweep.outcome(spec) == alone(spec, build)
    assert len(sweep.epochs) == cost(specs) == 6 + 1 + 3


@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sgdm"])
def test_another_implementation_of_sgd_lends_no_other_bits(
    name: str, kind: dict[str, bool], sweep: Sweep, alone: Alone
) -> None:
    """torch's fused SGD-M rounds otherwise than its loop, by which TM-SGD-M goes."""
    plain, branch = make_spec(name, EPOCHS, lr=0.01, **kind), *branches(f"tm{name}", 5, lr=0.01)
    sweep.register([plain, branch])
    sweep.run(plain)
    sweep.run(branch)
    assert sweep.outcome(plain) == alone(plain)
    assert sweep.outcome(branch) == alone(branch)


def test_what_begins_with_the_switch_does_not_part_the_trunk(sweep: Sweep, alone: Alone) -> None:
    specs = [
        *branches("tmsgd", 3),
        *branches("tmsgd", 4, scheme="euler"),
        *branches("tmsgd", 2, restart_every_epochs=1),
    ]
    sweep.register(specs)
    for spec in specs:
        sweep.run(spec)
        assert sweep.outcome(spec) == alone(spec)
    assert len(sweep.epochs) == cost(specs) == 4 + 3 + 2 + 4


# Interruptions

KILLS = [
    *((THREE, 0, 0, False), (THREE, 2, 3, False), (THREE, 2, 3, True), (THREE, 3, 0, True), (THREE, 4, 1, False)),
    *((SGD, 3, 1, False), (SGD, 5, 3, True), (FIVE, 3, 2, True), (FIVE, 5, 0, False)),
]


@pytest.mark.parametrize(("killed", "epoch", "step", "last"), KILLS, ids=lambda v: getattr(v, "run_id", v))
def test_a_run_killed_before_at_or_after_its_switch_trains_no_epoch_twice(
    killed: RunSpec, epoch: int, step: int, last: bool, sweep: Sweep, alone: Alone
) -> None:
    """``last``: it goes on only after the others, who may need the epochs that it has not trained."""
    specs = [THREE, FIVE, SGD] if killed is FIVE else [THREE, SGD, FIVE]
    sweep.register(specs)
    stop = kill_at(epoch, step)
    again: list[RunSpec] = []
    for spec in specs:
        try:
            sweep.run(spec, stop if spec is killed else nothing)
        except Killed:
            again.append(spec)
            if not last:
                sweep.run(spec)
    for spec in again:
        sweep.run(spec)
    for spec in specs:
        assert sweep.outcome(spec) == alone(spec)
    assert again == [killed]
    assert len(sweep.epochs) == cost(specs) == 10
    assert sweep.trunks() == []


def test_a_run_killed_in_every_epoch_trains_none_twice(sweep: Sweep, alone: Alone) -> None:
    sweep.register([FIVE, SGD])
    for spec, epoch in [*((FIVE, epoch) for epoch in range(6)), (SGD, 5)]:
        with pytest.raises(KeyboardInterrupt):
            sweep.run(spec, kill_at(epoch, 1, KeyboardInterrupt()))
        if epoch == 5:
            sweep.run(spec)
    assert sweep.outcome(FIVE) == alone(FIVE) and sweep.outcome(SGD) == alone(SGD)
    assert len(sweep.epochs) == cost([FIVE, SGD]) == 7


def test_a_failed_run_keeps_its_claim_and_goes_on_from_its_state(sweep: Sweep, alone: Alone) -> None:
    sweep.register([SGD, THREE])
    sweep.run(SGD)
    with pytest.raises(RuntimeError, match="out of luck"):
        sweep.run(THREE, kill_at(3, 2, RuntimeError("out of luck")))
    assert sweep.claims() == {THREE.run_id} and 3 in sweep.states()
    sweep.run(THREE)
    assert sweep.outcome(THREE) == alone(THREE)
    assert len(sweep.epochs) == cost([SGD, THREE])
    assert sweep.trunks() == []


def test_epochs_from_before_the_sharing_are_not_called_saved(sweep: Sweep, alone: Alone) -> None:
    """A run that trained two epochs for itself, and was then started again with sharing, owes them to nobody."""
    with pytest.raises(Killed):
        sweep.run(THREE, kill_at(2, 1), share_prefix=False)
    outcome = sweep.run(THREE)
    origin = sweep.result(THREE)["prefix"]
    assert sweep.outcome(THREE) == alone(THREE)
    assert len(sweep.epochs) == EPOCHS
    assert outcome.saved == 0
    assert origin is None or (origin["saved"], sum(origin["trained_by"].values())) == (0, 3)


def test_a_full_disk_at_a_state_frees_the_trunk_for_others(
    sweep: Sweep, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, file: Any) -> None:
        if state["epoch"] == 3:
            raise OSError(28, "No space left on device")
        save(state, file)

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StoreError, match="No space left on device"):
        sweep.run(FIVE)
    assert sweep.states() == {1, 2} and not [path for path in sweep.trunks() if path.suffix == ".tmp"]
    monkeypatch.setattr(torch, "save", save)
    assert sweep.run(THREE).saved == 2
    sweep.run(FIVE)
    assert sweep.outcome(THREE) == alone(THREE) and sweep.outcome(FIVE) == alone(FIVE)
    assert sweep.trunks() == []


def test_a_run_that_ends_without_sharing_does_not_say_that_it_shared(sweep: Sweep, alone: Alone) -> None:
    """Interrupted in the trunk, with an epoch of another run, then trained from its beginning by itself."""
    sweep.register([ONE, FIVE])
    sweep.run(ONE)
    with pytest.raises(Killed):
        sweep.run(FIVE, kill_at(2, 1))
    assert sweep.run(FIVE, share_prefix=False).saved == 0
    assert sweep.outcome(FIVE) == alone(FIVE)
    assert sweep.result(FIVE)["prefix"] is None


# Several processes at once


def train_in_process(root: Path, log: Path, spec: RunSpec, hook: Hook) -> None:
    """The body of a process: one run, whose finished epochs are appended to a file."""

    def on_step(epoch: int, step: int) -> None:
        hook(epoch, step)
        if step == STEPS - 1:
            with log.open("a") as file:
                file.write(f"{epoch}\n")

    task = TaskSettings(Path(), None, BATCH, spec.seed, torch.device("cpu"), {})
    run(spec, make_options(root, share_prefix=True, wait=True), lambda device: ToyTask(task, on_step))


def dawdle(epoch: int, step: int) -> None:
    """Take long enough for the others to come in between."""
    time.sleep(0.01)


def die(epoch: int, step: int) -> None:
    """Die like a process that the system kills, in the middle of an epoch."""
    if (epoch, step) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    dawdle(epoch, step)


class Processes:
    """Starts runs in processes of their own on one store."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "epochs.log"
        self.log.touch()
        self.started: list[Any] = []

    def start(self, spec: RunSpec, hook: Hook = dawdle) -> Any:
        process = FORKS.Process(target=train_in_process, args=(self.root, self.log, spec, hook))
        process.start()
        self.started.append(process)
        return process

    def join(self) -> list[int | None]:
        """Exit codes; None of one that does not end."""
        until = time.monotonic() + 60
        for process in self.started:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.started]

    def epochs(self) -> int:
        return len(self.log.read_text().splitlines())

    def stop(self) -> None:
        for process in self.started:
            process.kill()


@pytest.fixture
def processes(sweep: Sweep) -> Iterator[Processes]:
    found = Processes(sweep.root)
    yield found
    found.stop()


def test_processes_at_once_train_every_epoch_once(sweep: Sweep, processes: Processes, alone: Alone) -> None:
    specs = [FIVE, SGD, ONE, THREE]
    sweep.register(specs)
    for spec in specs:
        processes.start(spec)
    assert processes.join() == [0] * len(specs)
    for spec in specs:
        assert sweep.outcome(spec) == alone(spec)
    assert processes.epochs() == cost(specs) == 6 + 1 + 5 + 3
    assert sum(sweep.result(spec)["prefix"]["saved"] for spec in specs) == 24 - 15
    assert sweep.trunks() == []


def test_sixteen_processes_on_one_store_lose_nothing(sweep: Sweep, processes: Processes, alone: Alone) -> None:
    """Each of eight runs is started twice; somebody looks at the store all the while."""
    specs = [replace(spec, seed=seed) for seed in (0, 1) for spec in (FIVE, SGD, ONE, THREE)]
    for spec in (*specs, *reversed(specs)):
        processes.start(spec)
    seen: list[set[str]] = []
    while any(process.is_alive() for process in processes.started):
        runs = store.read_runs(sweep.root)
        seen.append(set(runs.loc[runs["status"] == "done", "run_id"]))
    assert processes.join() == [0] * 16
    assert all(earlier <= later for earlier, later in pairwise(seen))
    assert set(store.read_runs(sweep.root)["run_id"]) == {spec.run_id for spec in specs}
    for spec in specs:
        assert sweep.outcome(spec) == alone(spec)
    assert processes.epochs() <= sum(spec.epochs for spec in specs)  # none twice, whoever comes first


def test_a_process_killed_while_it_trains_the_trunk_is_replaced(
    sweep: Sweep, processes: Processes, alone: Alone
) -> None:
    """The system frees its lock; another goes on from its last state, and so does the killed one in the end."""
    specs = [SGD, THREE, FIVE]
    sweep.register(specs)
    processes.start(SGD, die)
    while not processes.epochs():  # it holds the lock now
        time.sleep(0.01)
    processes.start(THREE)
    processes.start(FIVE)
    assert processes.join() == [-signal.SIGKILL, 0, 0]
    processes.start(SGD)
    assert processes.join() == [-signal.SIGKILL, 0, 0, 0]
    for spec in specs:
        assert sweep.outcome(spec) == alone(spec)
    assert processes.epochs() == cost(specs) == 10
    assert sweep.trunks() == []


def during(epoch: int, action: Callable[[], object]) -> Hook:
    """A hook that does something else in the middle of an epoch, as another process would."""

    def hook(now: int, at: int) -> None:
        if (now, at) == (epoch, 1):
            with torch.random.fork_rng(devices=[]):
                action()

    return hook


def test_a_branch_begins_while_its_trunk_is_still_being_trained(sweep: Sweep, alone: Alone) -> None:
    sweep.register([SGD, ONE])
    sweep.run(SGD, during(4, lambda: sweep.run(ONE)))
    assert sweep.outcome(SGD) == alone(SGD) and sweep.outcome(ONE) == alone(ONE)
    assert len(sweep.epochs) == cost([SGD, ONE])
    assert sweep.trunks() == []


def test_a_run_that_comes_too_late_for_its_state_does_not_wait_for_the_trunk(sweep: Sweep, alone: Alone) -> None:
    sweep.register([SGD])
    sweep.run(SGD, during(4, lambda: sweep.run(ONE)))
    assert sweep.outcome(SGD) == alone(SGD) and sweep.outcome(ONE) == alone(ONE)
    assert sweep.result(ONE)["prefix"]["saved"] == 0
    assert sweep.trunks() == []


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_run_that_comes_too_late_is_killed_and_trains_no_epoch_twice(epoch: int, sweep: Sweep, alone: Alone) -> None:
    def killed_and_started_again() -> None:
        with pytest.raises(Killed):
            sweep.run(THREE, kill_at(epoch, 1))
        sweep.run(THREE)

    sweep.register([SGD])
    sweep.run(SGD, during(5, killed_and_started_again))
    assert [number for name, number in sweep.epochs if name == THREE.run_id] == list(range(EPOCHS))
    assert sweep.outcome(SGD) == alone(SGD) and sweep.outcome(THREE) == alone(THREE)
    assert sweep.result(THREE)["prefix"]["trained_by"] == {THREE.run_id: 3}
    assert sweep.trunks() == []


def test_a_run_registered_in_the_middle_of_another_finds_its_state(sweep: Sweep, alone: Alone) -> None:
    sweep.register([SGD])
    sweep.run(SGD, during(2, lambda: sweep.register([THREE])))
    sweep.run(THREE)
    assert sweep.outcome(THREE) == alone(THREE)
    assert len(sweep.epochs) == cost([SGD, THREE])


def in_between(look: Callable[[Trunk], set[int]], action: Callable[[], None]) -> tuple[Any, threading.Thread]:
    """``Trunk.needed_epochs``; after its first call the action happens, unless it waits until the other is through."""
    other = threading.Thread(target=action)

    def look_and_be_slow(trunk: Trunk) -> set[int]:
        found = look(trunk)
        if not other.ident:
            other.start()
            other.join(0.3)
        return found

    return look_and_be_slow, other


def claim(sweep: Sweep, spec: RunSpec) -> Trunk:
    """The trunk of a run that has registered."""
    trunk = Trunk(sweep.options(), str(trunk_key(spec)))
    trunk.register(spec.run_id, shared_epochs(spec))
    return trunk


def test_a_claim_made_while_the_last_run_tidies_up_is_not_lost(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers between the last run's look at the claims and its tidying up must keep his."""
    trunk = claim(sweep, THREE)
    slow, late = in_between(Trunk.needed_epochs, lambda: sweep.register([FIVE]))
    monkeypatch.setattr(Trunk, "needed_epochs", slow)
    trunk.release(THREE.run_id)
    late.join()
    assert sweep.claims() == {FIVE.run_id}


def test_a_trunk_tidied_up_while_a_run_registers_does_not_fail_it(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder it has just made may be gone again before it has written its claim."""
    trunk, write = claim(sweep, THREE), files.write_atomically

    def slow(path: Path, content: Callable[[Path], Any]) -> None:
        monkeypatch.setattr(files, "write_atomically", write)
        last.start()
        last.join(0.3)  # or it waits until the other is through
        write(path, content)

    last = threading.Thread(target=trunk.release, args=(THREE.run_id,))
    monkeypatch.setattr(files, "write_atomically", slow)
    sweep.register([FIVE])
    last.join()
    assert sweep.claims() == {FIVE.run_id}


def test_two_runs_that_end_at_once_leave_nothing_behind(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first still sees the second's claim, and the second finds the first at work."""
    first, second = claim(sweep, THREE), claim(sweep, FIVE)
    slow, late = in_between(Trunk.needed_epochs, lambda: second.release(FIVE.run_id))
    monkeypatch.setattr(Trunk, "needed_epochs", slow)
    first.release(THREE.run_id)
    late.join()
    assert sweep.trunks() == []


@pytest.mark.parametrize("name", ["writing-1.tmp", "pending/.run.1.2.tmp"])
def test_what_a_kill_left_half_written_goes_with_the_trunk(name: str, sweep: Sweep) -> None:
    trunk = claim(sweep, THREE)
    (trunk.folder / name).write_text("half of it")
    sweep.run(THREE)
    assert sweep.trunks() == []


# What must not be shared

CHANGES: dict[str, RunSpec] = {
    "lr": make_spec("tmsgd", lr=0.04),
    "seed": make_spec("tmsgd", seed=1),
    "momentum": make_spec("tmsgd", momentum=0.9),
    "weight decay": make_spec("tmsgd", weight_decay=0.1),
    "ascent": make_spec("tmsgd", maximize=True),
    "warm-up": make_spec("tmsgd", warmup={"updates": 10, "start_factor": 0.1}),
    "number of epochs": make_spec("tmsgd", epochs=7),
    "batch size": replace(THREE, batch_size=4),
    "schedule": replace(THREE, schedule=None),
    "model": replace(THREE, model={"name": "linear", "width": 2}),
    "task": replace(THREE, task={**THREE.task, "padding": "start"}),
    "data limit": replace(THREE, data={**THREE.data, "limit": 10}),
    "data kind": replace(THREE, data={**THREE.data, "kind": "real"}),
    "data fingerprint": replace(THREE, data={**THREE.data, "fingerprint": "other"}),
    "nesterov": make_spec("sgd", momentum=0.9, nesterov=True),
    "dampening": make_spec("sgd", momentum=0.9, dampening=0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_trunk_is_for_runs_that_agree_before_the_switch(change: str) -> None:
    others = [SGD, THREE, make_spec("sgd", momentum=0.9), make_spec("tmsgd", momentum=0.9)]
    others = [spec for spec in others if spec.optimizer != CHANGES[change].optimizer or spec in (SGD, THREE)]
    own = trunk_key(CHANGES[change])
    same = [spec.run_id for spec in others if trunk_key(spec) == own]
    assert own is not None
    assert same == ([make_spec("sgd", momentum=0.9).run_id] if change == "momentum" else [])


def test_a_trunk_does_not_know_names_labels_or_what_has_its_default() -> None:
    named = make_spec("sgd", momentum=0.0, weight_decay=0, nesterov=False, dampening=0.0, maximize=False)
    named.optimizer["name"] = named.optimizer["label"] = "mine"
    assert trunk_key(SGD) == trunk_key(THREE) == trunk_key(named)


@pytest.mark.parametrize("name", ["adam", "apollo", "tmsgd_auto"])
def test_other_optimizers_have_no_trunk(name: str, sweep: Sweep) -> None:
    spec = make_spec(name, EPOCHS)
    sweep.register([SGD, spec])
    sweep.run(SGD)
    assert trunk_key(spec) is None
    assert sweep.run(spec).saved == 0
    assert sweep.result(spec)["prefix"] is None
    assert {epoch for run_id, epoch in sweep.epochs if run_id == spec.run_id} == set(range(EPOCHS))


@pytest.mark.parametrize(
    "changes", [{"force": True}, {"log_sharpness": 1, "sharpness_examples": SIZE}, {"share_prefix": False}], ids=str
)
def test_a_run_can_be_asked_to_train_all_its_epochs_itself(changes: dict[str, Any], sweep: Sweep, alone: Alone) -> None:
    sweep.changes["keep_trunks"] = True
    sweep.run(FIVE)
    assert sweep.run(THREE, **changes).saved == 0
    assert {epoch for run_id, epoch in sweep.epochs if run_id == THREE.run_id} == set(range(EPOCHS))
    assert sweep.result(THREE)["prefix"] is None
    assert sweep.outcome(THREE)["weights_sha256"] == alone(THREE)["weights_sha256"]


def test_runs_that_differ_before_the_switch_leave_each_other_alone(sweep: Sweep) -> None:
    """In one store at one time: none of them gets an epoch of another."""
    specs = [SGD, *(CHANGES[name] for name in ("lr", "seed", "weight decay", "number of epochs", "schedule"))]
    sweep.register(specs)
    assert [sweep.run(spec).saved for spec in specs] == [0] * len(specs)
    assert len(sweep.epochs) == sum(spec.epochs for spec in specs)
    assert sweep.trunks() == []


# States that are damaged or gone


def test_a_damaged_state_is_passed_over_with_a_warning(
    sweep: Sweep, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.changes["keep_trunks"] = True
    sweep.run(THREE)
    newest = max(path for path in sweep.trunks() if path.suffix == ".pt")
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        outcome = sweep.run(FIVE)
    assert newest.name in caplog.text and "is damaged" in caplog.text
    assert sweep.outcome(FIVE) == alone(FIVE)
    assert outcome.saved == 2  # from the state before the damaged one


def gone_after_the_list(patch: pytest.MonkeyPatch) -> None:
    real = checkpoint.epochs

    def listed(folder: Path) -> list[tuple[int, Path]]:
        found = real(folder)
        for _, path in found[:1]:
            path.unlink()
            patch.setattr(checkpoint, "epochs", real)
        return found

    patch.setattr(checkpoint, "epochs", listed)


def gone_before_it_is_read(patch: pytest.MonkeyPatch) -> None:
    real = torch.load

    def load(path: Path, **options: Any) -> Any:
        patch.setattr(torch, "load", real)
        path.unlink()
        return real(path, **options)

    patch.setattr(torch, "load", load)


@pytest.mark.parametrize("vanish", [gone_after_the_list, gone_before_it_is_read])
def test_a_state_that_another_process_deletes_is_passed_over(
    vanish: Callable[[pytest.MonkeyPatch], None], sweep: Sweep, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.changes["keep_trunks"] = True
    sweep.run(THREE)
    vanish(monkeypatch)
    outcome = sweep.run(FIVE)
    assert sweep.outcome(FIVE) == alone(FIVE)
    assert outcome.saved == 2


def test_states_of_another_trunk_with_the_same_short_name_are_not_taken(sweep: Sweep, alone: Alone) -> None:
    sweep.changes["keep_trunks"] = True
    other = make_spec("tmsgd", EPOCHS, lr=0.04)
    sweep.run(other)
    (theirs,) = (sweep.root / prefix.FOLDER).iterdir()
    theirs.rename(theirs.with_name(str(trunk_key(THREE))[:16]))
    assert sweep.run(THREE).saved == 0
    assert sweep.outcome(THREE) == alone(THREE)


# Pruning


def test_a_state_stays_while_a_run_needs_it_and_no_longer(sweep: Sweep) -> None:
    sweep.register([SGD, ONE, THREE])
    sweep.run(SGD)
    assert sweep.claims() == {ONE.run_id, THREE.run_id}
    assert {1, 3} <= sweep.states() and len(sweep.states() - {1, 3}) <= checkpoint.NEWEST_KEPT
    sweep.run(ONE)
    assert sweep.claims() == {THREE.run_id}
    assert 1 not in sweep.states() and 3 in sweep.states()
    sweep.run(THREE)
    assert sweep.trunks() == []


def test_a_trunk_writes_only_the_states_that_somebody_waits_for(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    real = checkpoint.save

    def save(folder: Path, epoch: int, *rest: Any, **options: Any) -> Path:
        if prefix.FOLDER in folder.parts:
            saved.append(epoch)
        return real(folder, epoch, *rest, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    sweep.changes["checkpoint_seconds"] = 1e9
    sweep.register([SGD, ONE, FIVE])
    for spec in (SGD, ONE, FIVE):
        sweep.run(spec)
    assert saved == [1, 5, EPOCHS]
    assert len(sweep.epochs) == cost([SGD, ONE, FIVE])


def test_kept_states_serve_later_runs(sweep: Sweep, alone: Alone) -> None:
    sweep.changes["keep_trunks"] = True
    sweep.run(SGD)
    assert sweep.states() == set(range(1, EPOCHS + 1)) and sweep.claims() == set()
    for spec in (ONE, FIVE):
        assert sweep.run(spec).saved == shared_epochs(spec)
        assert sweep.outcome(spec) == alone(spec)
    assert len(sweep.epochs) == cost([SGD, ONE, FIVE])
    assert sweep.states() == set(range(1, EPOCHS + 1))


def test_what_was_to_be_kept_stays_whoever_comes_later(sweep: Sweep) -> None:
    sweep.run(SGD, keep_trunks=True)
    kept = sweep.states()
    sweep.run(ONE)
    assert sweep.states() == kept == set(range(1, EPOCHS + 1))


def test_the_record_says_on_what_a_shared_state_was_made(sweep: Sweep) -> None:
    """Another device, or another torch, may round otherwise."""
    sweep.register([SGD, THREE])
    sweep.run(SGD)
    sweep.run(THREE)
    made_on = {"device": "cpu", "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    assert sweep.result(THREE)["prefix"]["made_on"] == made_on
    assert "made_on" not in sweep.result(SGD)["prefix"]


def test_a_run_killed_after_its_result_leaves_no_claim_behind(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, it is done; the next start skips it, and then nobody needs the trunk."""

    def killed(trunk: Trunk, run_id: str) -> None:
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(Trunk, "release", killed)
    with pytest.raises(Killed):
        sweep.run(THREE)
    assert sweep.run(THREE).status == "skipped"
    assert sweep.trunks() == []


@pytest.mark.parametrize("changes", [{"share_prefix": False}, {"force": True}], ids=str)
def test_a_run_that_ends_without_sharing_leaves_no_claim_behind(changes: dict[str, Any], sweep: Sweep) -> None:
    with pytest.raises(Killed):
        sweep.run(THREE, kill_at(2, 1))
    assert sweep.run(THREE, **changes).status == "done"
    assert sweep.trunks() == []


# Divergence

GROWING = scheduled("ExponentialLR", gamma=30.0)


def test_a_diverging_trunk_ends_all_its_branches_at_the_same_step(sweep: Sweep, alone: Alone) -> None:
    specs = [replace(spec, schedule=GROWING) for spec in (FIVE, ONE, SGD, NEVER)]
    sweep.register(specs)
    for spec in specs:
        assert sweep.run(spec).status == "diverged"
        assert sweep.outcome(spec) == alone(spec)
    five, _, sgd, never = (sweep.result(spec)["diverged_at"] for spec in specs)
    assert five == sgd == never and 1 < five["epoch"] < 5  # the others only had to look
    assert sweep.trunks() == []


def test_the_record_of_a_diverged_run_says_which_trunk_it_came_from(sweep: Sweep) -> None:
    specs = [replace(spec, schedule=GROWING) for spec in (SGD, FIVE)]
    sweep.register(specs)
    outcomes = [sweep.run(spec) for spec in specs]
    finished = sweep.result(specs[1])["epochs_done"]
    assert [outcome.saved for outcome in outcomes] == [0, finished]
    assert sweep.result(specs[1])["prefix"]["trunk"] == str(trunk_key(specs[1]))[:16]


# The record


def test_the_record_says_where_a_run_comes_from_and_adds_up(sweep: Sweep) -> None:
    specs = [THREE, SGD, ONE, FIVE, NEVER]
    sweep.register(specs)
    outcomes = {spec.run_id: sweep.run(spec) for spec in specs}
    for spec in specs:
        origin = sweep.result(spec)["prefix"]
        assert origin == files.read_json(sweep.root / spec.run_id / store.PREFIX)
        assert origin["trunk"] == str(trunk_key(spec))[:16]
        assert origin["epochs"] == sum(origin["trained_by"].values()) == shared_epochs(spec)
        assert origin["saved"] + origin["trained_by"].get(spec.run_id, 0) == origin["epochs"]
        assert outcomes[spec.run_id].saved == origin["saved"]
        own = [epoch for run_id, epoch in sweep.epochs if run_id == spec.run_id]
        assert len(own) + origin["saved"] == EPOCHS
    assert [outcomes[spec.run_id].saved for spec in specs] == [0, 3, 1, 5, 6]


def test_the_epochs_of_a_trunk_are_credited_to_the_runs_that_trained_them(sweep: Sweep) -> None:
    specs = [ONE, THREE, SGD]
    sweep.register(specs)
    for spec in specs:
        sweep.run(spec)
    assert sweep.result(SGD)["prefix"]["trained_by"] == {ONE.run_id: 1, THREE.run_id: 2, SGD.run_id: 3}


def test_a_process_that_trains_its_trunk_too_has_one_warm_up_epoch(sweep: Sweep) -> None:
    sweep.register([SGD, THREE])
    sweep.run(THREE)
    assert sweep.result(THREE)["clocks"]["warm_up_epochs"] == 1


def test_the_record_survives_an_interruption_after_the_switch(sweep: Sweep) -> None:
    sweep.register([SGD, THREE])
    sweep.run(SGD)
    with pytest.raises(Killed):
        sweep.run(THREE, kill_at(5, 1))
    outcome = sweep.run(THREE)
    assert outcome.saved == sweep.result(THREE)["prefix"]["saved"] == 3


def test_a_shared_run_lists_itself_like_any_other(sweep: Sweep) -> None:
    """The store reads a shared run as it reads one trained alone."""
    sweep.register([SGD, THREE])
    for spec in (SGD, THREE):
        sweep.run(spec)
    frame = store.read_runs(sweep.root)
    assert sorted(frame["run_id"]) == sorted(spec.run_id for spec in (SGD, THREE))
    assert set(frame["status"]) == {"done"} and set(frame["epochs_done"]) == {EPOCHS}


def test_a_launcher_that_skips_a_finished_run_releases_its_trunk(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trunk, "release", lambda trunk, run_id: kill_at(0, 0)(0, 0))
        sweep.run(THREE)
    assert sweep.claims()
    monkeypatch.setattr(plan, "of_config", lambda config, in_sweep: PlannedRun(THREE, sweep.options()))
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "overrides": {"task": []}}})
    skipped = skip_finished(0, config)
    assert skipped is not None and skipped.status == "skipped"
    assert sweep.trunks() == []
