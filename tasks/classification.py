"""How well a classifier does on a split: its accuracy and its cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from tmsgd_bench.task import Metric

METRICS = (Metric("accuracy", "%", "max", "ACC"), Metric("test_loss", "nat", "min", "test loss"))


def evaluate(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> dict[str, float]:
    """The values of ``METRICS``: accuracy in percent and mean cross-entropy in nats; NaN without an example.

    The same bits as torchmetrics' ``MulticlassAccuracy`` (micro) and ``MeanMetric``, whose import would double the
    time that a run takes to start.

    Args:
        batches: pairs of logits (float32, (batch, classes)) and labels (int64, (batch,)).
        device: where both are. The sums are there, too: to read one after each batch would make a GPU wait.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss, count = torch.zeros((), device=device), torch.zeros((), device=device)
    for logits, labels in batches:
        correct += (logits.argmax(1) == labels).sum()
        loss += F.cross_entropy(logits, labels, reduction="none").sum()
        count += len(labels)
    return {"accuracy": 100.0 * float(correct.float() / count), "test_loss": float(loss / count)}
