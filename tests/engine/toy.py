"""A task small enough to train in milliseconds, with dropout so that random streams matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from whole_runs import make_options as make_options

from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

SIZE, BATCH = 20, 5
STEPS = SIZE // BATCH
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.05},
    "sgdm": {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9},
    "tmsgd": {"_target_": "tmsgd_bench.optim.TMSGD", "lr": 0.05, "switch_epoch": 3},
    "tmsgdm": {"_target_": "tmsgd_bench.optim.TMSGD", "lr": 0.01, "switch_epoch": 3, "momentum": 0.9},
    "tmsgd_auto": {  # switches at epoch 3
        "_target_": "tmsgd_bench.optim.TMSGD",
        "lr": 0.05,
        "switch_epoch": "auto",
        "auto_switch": {"every_epochs": 1, "margin": 0.5, "patience": 3, "examples": SIZE},
    },
    "adam": {"_target_": "torch.optim.Adam", "lr": 0.05, "fused": True},
    "apollo": {
        "_target_": "tmsgd_bench.optim.apollo.Apollo",
        "lr": 0.001,
        "warmup_steps": 0,
        "warmup": {"updates": 10, "start_factor": 0.001},
    },
}


class ToyTask(Task):
    """Noisy linear regression through a layer with dropout."""

    metrics: tuple[Metric, ...] = (Metric("error", "", "min"), Metric("score", "%", "max"))

    def __init__(self, settings: TaskSettings, on_step: Callable[[int, int], None] = lambda epoch, step: None) -> None:
        super().__init__(settings)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.modules = {"net": self.model}
        self.train_size, self.on_step = SIZE, on_step
        data = torch.Generator().manual_seed(5)
        self.x = torch.randn(SIZE, 4, generator=data)
        self.y = self.x.sum(1, keepdim=True) + 0.1 * torch.randn(SIZE, 1, generator=data)

    def batches(self, epoch: int) -> Iterable[tuple[int, int, Tensor]]:
        order = epoch_order(SIZE, self.settings.seed, epoch)
        for step, index in enumerate(order.split(self.settings.batch_size)):
            yield epoch, step, index

    def loss(self, batch: tuple[int, int, Tensor]) -> Tensor:
        epoch, step, index = batch
        self.on_step(epoch, step)
        return (self.model(self.x[index]) - self.y[index]).square().mean()

    def evaluate(self) -> dict[str, float]:
        error = float((self.model(self.x) - self.y).square().mean())
        return {"error": error, "score": 100.0 / (1.0 + error)}


def make_spec(optimizer: str = "tmsgd", epochs: int = 6, seed: int = 0, **options: Any) -> RunSpec:
    """The settings of a toy run; further options are the optimizer's."""
    return RunSpec(
        task={"name": "toy", "dataset": "none"},
        model={"name": "linear"},
        data={"kind": "synthetic", "limit": None, "fingerprint": "toy"},
        optimizer={"name": optimizer, "label": optimizer.upper(), **OPTIMIZERS[optimizer], **options},
        epochs=epochs,
        batch_size=BATCH,
        schedule={"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [2, 4], "gamma": 0.5},
        seed=seed,
    )


def task_maker(
    seed: int = 0, on_step: Callable[[int, int], None] = lambda epoch, step: None
) -> Callable[[torch.device], ToyTask]:
    """What the runner calls to build the toy task."""
    settings = TaskSettings(Path(), None, BATCH, seed, torch.device("cpu"), {})
    return lambda device: ToyTask(settings, on_step)
