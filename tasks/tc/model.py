"""Embedding → LSTM → Linear on the last step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmsgd_bench.checks import Section, takes, whole


class SplitEmbedding(nn.Module):
    """An embedding whose rows that training never reaches are a buffer, not a parameter.

    A row without a gradient stays where it started under every optimizer without weight decay, so leaving it out
    of gradient and update changes no bit of the training (tests/tasks/test_tc.py; Apollo, which sums over the whole
    tensor, may round its sums differently) and halves their cost on R8, where 52 % of the words occur only in test
    documents or beyond the tokens that are read.

    Args:
        rows: size of the vocabulary.
        reachable: leading rows that training may look up.
        width: length of a word vector.
    """

    unreached: Tensor

    def __init__(self, rows: int, reachable: int, width: int) -> None:
        super().__init__()
        table = torch.randn(rows, width)  # N(0, 1), as nn.Embedding starts
        self.weight = nn.Parameter(table[:reachable].clone())
        self.register_buffer("unreached", table[reachable:].clone())

    def forward(self, words: Tensor) -> Tensor:
        """Vectors (..., width) of word numbers (...); in training mode every number must be reachable."""
        if self.training:
            return F.embedding(words, self.weight)
        return F.embedding(words, torch.cat([self.weight, self.unreached]))


@takes(Section({"embedding": whole(1, 4096), "hidden": whole(1, 8192)}))
class LSTMClassifier(nn.Module):
    """One-layer LSTM over word vectors; its output at the last step goes through a linear layer.

    Args:
        vocabulary_size, reachable: see :class:`SplitEmbedding`.
        classes: number of outputs.
        embedding: length of a word vector.
        hidden: length of the LSTM's state.
    """

    def __init__(self, vocabulary_size: int, reachable: int, classes: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = SplitEmbedding(vocabulary_size, reachable, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, words: Tensor) -> Tensor:
        """Logits (documents, classes) of word numbers (documents, tokens)."""
        steps, _ = self.lstm(self.embedding(words))
        logits: Tensor = self.head(steps[:, -1])
        return logits
