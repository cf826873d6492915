"""Click-through rate on Avazu with Wide & Deep."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import build_model
from tasks.ctr import data
from tasks.ctr.auc import area_under_curve
from tmsgd_bench.checks import Section, choice, whole
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]
EVALUATION_BATCH = 8192
GATHERED = 1 << 14
"""Rows that are gathered at once and then cut into batches: fewer, larger calls than batch by batch."""


class ClickThrough(Task):
    """Whether an advertisement is clicked, from 22 categorical fields; binary cross-entropy; AUC on the test split.

    Args:
        settings: the run's.
        min_count: values that occur less often in the training split share one row of the table per field, and so do
            values that do not occur in it at all.
        hour: "value" for the hour as one field, "split" for hour of the day and weekday.
        evaluate_on: "test", or "validation" to choose settings by.
    """

    options = Section(
        {"min_count": whole(1), "hour": choice("value", "split"), "evaluate_on": choice("test", "validation")}
    )
    model_arguments = ("rows", "fields")
    metrics: tuple[Metric, ...] = (
        Metric("auc", "", "max", "AUC"),
        Metric("log_loss", "nat", "min", "log-loss"),
        Metric("calibration_error", "", "min", "|predicted / clicked - 1|"),
    )

    def __init__(self, settings: TaskSettings, min_count: int, hour: str, evaluate_on: str) -> None:
        super().__init__(settings)
        self.options("task", {"min_count": min_count, "hour": hour, "evaluate_on": evaluate_on})
        self.train, self.evaluation, sizes = data.load(settings, min_count, hour, evaluate_on)
        model = build_model(nn.Module, settings.model, rows=sum(sizes), fields=len(sizes))
        self.model = model.to(settings.device)
        self.modules = {"wide_deep": self.model}
        self.train_size = len(self.train)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Pairs of table rows (batch, fields), int32, and clicks (batch,), float32."""
        size = self.settings.batch_size
        order = epoch_order(self.train_size, self.settings.seed, epoch)
        for places in order.split(max(1, GATHERED // size) * size):
            ids, clicks = self.train.batch(places.to(self.settings.device))
            yield from zip(ids.split(size), clicks.float().split(size), strict=True)

    def loss(self, batch: Batch) -> Tensor:
        """Mean binary cross-entropy in nats."""
        ids, clicks = batch
        return F.binary_cross_entropy_with_logits(self.model(ids), clicks)

    def evaluate(self) -> dict[str, float]:
        """AUC, mean binary cross-entropy in nats, and how far the mean prediction is from the mean click, as a share.

        The AUC is exact: all scores are kept, in single precision.
        """
        places = torch.arange(len(self.evaluation), device=self.settings.device).split(EVALUATION_BATCH)
        scored = [(self.model(ids), clicks) for ids, clicks in map(self.evaluation.batch, places)]
        odds, clicks = (torch.cat(tensors) for tensors in zip(*scored, strict=True))
        loss = F.binary_cross_entropy_with_logits(odds.double(), clicks.double())
        predicted = odds.double().sigmoid().mean() / clicks.double().mean()
        return {
            "auc": area_under_curve(odds, clicks),
            "log_loss": float(loss),
            "calibration_error": math.fabs(float(predicted) - 1.0),
        }
