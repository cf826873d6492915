"""Random streams that depend on (seed, purpose, epoch) and on nothing else.

The optimizer's name is not used, so two optimizers with one seed get the same initial weights, the same order of
examples and the same augmentation: their comparison is paired. Every epoch starts its own streams, so a resumed run
continues with the same bits without a saved generator state.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, from SHA-256 of the run's seed and the purpose's words.

    Example:
        >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
        True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator at the start of a purpose's stream."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def seed_globally(seed: int, *purpose: object) -> None:
    """Seed torch's global generators on every device (weights, dropout) for a purpose."""
    torch.manual_seed(derive(seed, *purpose))


def epoch_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch visits its examples: int64, shape (size,)."""
    return torch.randperm(size, generator=generator(seed, "order", epoch))


def validation_split(size: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A training split divided: the examples that stay in it, and those to validate on; the same for every run seed.

    Args:
        size: examples of the training split, at least 2.
        share: of them to validate on, above 0 and below 1; each side gets at least one.

    Returns:
        int64, sorted, of shapes (size - count,) and (count,).
    """
    count = min(max(1, round(share * size)), size - 1)
    order = torch.randperm(size, generator=generator(0, "validation"))
    return order[count:].sort().values, order[:count].sort().values


def subset(size: int, limit: int | None) -> torch.Tensor:
    """The examples that ``data.limit`` selects: int64, sorted, shape (min(size, limit),); the same for every seed."""
    if limit is None or limit >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=generator(0, "subset"))[:limit].sort().values
