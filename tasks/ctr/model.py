"""Wide & Deep (Cheng et al. 2016, arXiv 1606.07792) over categorical fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tmsgd_bench.checks import Section, items, number, takes, whole

OPTIONS = Section(
    {"embedding": whole(1, 1024), "hidden": items(whole(1, 16_384), most=32)},
    {"init_std": number(0, 1000, 0.1, above=True)},
)

INIT_STD = 1.0
"""How torch starts an embedding."""


@takes(OPTIONS)
class WideDeep(nn.Module):
    """A linear model of the values and a network over their embeddings; their sum is the log-odds of a click.

    The wide part adds one weight per value; the deep part joins the values' vectors to one and feeds it to linear
    layers with ReLU, whose last bias serves both. All fields share one table each for weights and vectors. The wide
    weights start at 0, the vectors from N(0, init_std²), and the rest as torch starts it.

    Args:
        rows: values of all fields together.
        fields: how many fields there are.
        embedding: length of a value's vector.
        hidden: units of the deep part's hidden layers.
        init_std: standard deviation of the vectors' first entries; with 1, torch's own, every bit is as torch draws it.
    """

    def __init__(
        self, rows: int, fields: int, embedding: int, hidden: Sequence[int], init_std: float = INIT_STD
    ) -> None:
        super().__init__()
        self.wide = nn.Embedding(rows, 1, _weight=torch.zeros(rows, 1))
        self.vectors = nn.Embedding(rows, embedding)
        with torch.no_grad():
            self.vectors.weight.mul_(init_std)  # not drawn again, so that the linear layers start alike at any scale
        layers: list[nn.Module] = []
        width = fields * embedding
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.deep = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Log-odds (rows,) of rows of the table (int32 or int64, shape (rows, fields))."""
        wide = self.wide(ids).sum(dim=1)
        odds: Tensor = (wide + self.deep(self.vectors(ids).flatten(1))).squeeze(1)
        return odds
