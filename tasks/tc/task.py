"""R8 text classification with an LSTM."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import build_model, classification
from tasks.tc import data
from tmsgd_bench.checks import Section, choice, whole
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]
EVALUATION_BATCH = 512


class TextClassification(Task):
    """The first ``tokens`` words of a document through an LSTM; cross-entropy; accuracy on the test split.

    Args:
        settings: the run's.
        tokens: leading words of a document that are used.
        padding: "end" or "start": where documents with fewer words are filled up.
    """

    options = Section({"tokens": whole(1, 10_000), "padding": choice("end", "start")})
    splits_training = True
    model_arguments = ("vocabulary_size", "reachable", "classes")
    metrics: tuple[Metric, ...] = classification.METRICS

    def __init__(self, settings: TaskSettings, tokens: int, padding: str) -> None:
        super().__init__(settings)
        self.options("task", {"tokens": tokens, "padding": padding})
        loaded = data.load(settings, tokens, padding)
        model = build_model(
            nn.Module,
            settings.model,
            vocabulary_size=loaded.vocabulary_size,
            reachable=loaded.reachable,
            classes=len(data.CLASSES),
        )
        self.data = loaded.to(settings.device)
        self.model = model.to(settings.device)
        self.modules = {"classifier": self.model}
        self.train_size = len(loaded.train_labels)

    def batches(self, epoch: int) -> Iterable[Batch]:
        """Pairs of words (batch, tokens) and labels (batch,); gathered once for the epoch, then cut into views."""
        order = epoch_order(self.train_size, self.settings.seed, epoch).to(self.settings.device)
        size = self.settings.batch_size
        words, labels = self.data.train_words[order], self.data.train_labels[order]
        return zip(words.split(size), labels.split(size), strict=True)

    def probe(self, examples: int) -> Iterable[tuple[Batch, int]]:
        """The same examples in batches of ``EVALUATION_BATCH``, seven times as fast as in batches of 5."""
        words, labels = (
            torch.cat(parts) for parts in zip(*(batch for batch, _ in super().probe(examples)), strict=True)
        )
        batches = zip(words.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
        return ((batch, len(batch[1])) for batch in batches)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        words, labels = batch
        return F.cross_entropy(self.model(words), labels)

    def evaluate(self) -> dict[str, float]:
        """Accuracy in percent and mean cross-entropy in nats on the split that is evaluated."""
        words, labels = (split.split(EVALUATION_BATCH) for split in (self.data.test_words, self.data.test_labels))
        return classification.evaluate(zip(map(self.model, words), labels, strict=True), self.settings.device)
