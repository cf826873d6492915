"""Accuracy and cross-entropy of a classifier."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tasks import classification

CPU = torch.device("cpu")


@pytest.mark.parametrize(("examples", "classes", "size"), [(1, 2, 1), (37, 8, 10), (1000, 100, 64), (999, 3, 512)])
def test_the_bits_are_torchmetrics(examples: int, classes: int, size: int) -> None:
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    generator = torch.Generator().manual_seed(examples)
    logits = torch.randn(examples, classes, generator=generator)
    labels = torch.randint(classes, (examples,), generator=generator)
    accuracy, loss = MulticlassAccuracy(classes, average="micro"), MeanMetric(nan_strategy="disable")
    batches = list(zip(logits.split(size), labels.split(size), strict=True))
    for batch, truth in batches:
        accuracy.update(batch, truth)
        loss.update(F.cross_entropy(batch, truth, reduction="none"))
    expected = {"accuracy": 100.0 * float(accuracy.compute()), "test_loss": float(loss.compute())}
    assert classification.evaluate(batches, CPU) == expected


def test_the_values_are_those_of_the_declared_metrics_also_of_logits_that_are_not_finite() -> None:
    values = classification.evaluate([(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]))], CPU)
    assert list(values) == [metric.name for metric in classification.METRICS]
    assert math.isnan(values["test_loss"]) and values["accuracy"] == 50.0  # of equals, the first class is taken
