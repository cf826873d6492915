"""Which prior answers for which object, and the multi-box loss: no Python loop over priors, objects or images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from tasks.od.rfbnet.priors import corners, encode

THRESHOLD = 0.5
"""IoU from which a prior answers for an object."""
NEGATIVES = 3
"""Background priors that count for each one with an object: those with the largest loss."""


def match(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """The object that each prior answers for.

    It is the one with the largest IoU, if that is at least 0.5. And of all priors the one with the largest IoU with an
    object answers for it in any case (of two such objects, for the later one).

    Args:
        boxes: float, shape (images, objects, 4): x1, y1, x2, y2 in shares of the image; anything where there is none.
        labels: int64, shape (images, objects): 1 to 20; 0 where there is no object.
        priors: float, shape (priors, 4): centres and sizes.

    Returns:
        Boxes (images, priors, 4) and labels (images, priors); 0 is background.
    """
    images, objects = labels.shape
    if objects == 0:
        return boxes.new_zeros(images, len(priors), 4), labels.new_zeros(images, len(priors))
    overlaps = box_iou(boxes.reshape(-1, 4), corners(priors)).view(images, objects, len(priors))
    overlaps = overlaps.masked_fill(labels[..., None] == 0, -1.0)
    best, owner = overlaps.max(dim=1)
    forced, number = _forced(overlaps, labels)
    owner = torch.where(forced, number, owner)
    positive = (best >= THRESHOLD) | forced
    matched = labels.gather(1, owner).where(positive, 0)
    return boxes.gather(1, owner[..., None].expand(-1, -1, 4)), matched


def _forced(overlaps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a prior is an object's best one, and which object's: both of shape (images, priors)."""
    images, objects, priors = overlaps.shape
    numbers = torch.arange(objects, device=labels.device).expand(images, -1).where(labels > 0, -1)
    latest = torch.full((images, priors), -1, device=labels.device)
    latest = latest.scatter_reduce(1, overlaps.argmax(dim=2), numbers, "amax")
    return latest >= 0, latest.clamp(min=0)


def multi_box(offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth L1 of the offsets and cross-entropy of the classes, both over the number of priors with an object.

    Cross-entropy counts those priors and, in each image, three times as many others: those with the largest loss
    (Liu et al. 2016, SSD, section 2.2).

    Args:
        offsets: float, shape (images, priors, 4).
        logits: float, shape (images, priors, 21).
        boxes, labels, priors: see :func:`match`.

    Returns:
        Two scalars. Of a batch without any object both are 0.
    """
    near, wanted = match(boxes, labels, priors)
    positive = wanted > 0
    count = positive.sum().clamp(min=1)
    # A prior without an object is its own target: whatever else is there might have no logarithm.
    targets = encode(near.where(positive[..., None], corners(priors)), priors.expand_as(near))
    errors = F.smooth_l1_loss(offsets, targets, reduction="none").sum(dim=2)
    entropies = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    counted = positive | _hard_negatives(entropies.detach(), positive)
    # Where, not a product: what does not count may be infinite.
    return errors.where(positive, 0.0).sum() / count, entropies.where(counted, 0.0).sum() / count


def _hard_negatives(entropies: Tensor, positive: Tensor) -> Tensor:
    """The background priors with the largest loss: bool, shape (images, priors)."""
    ranks = entropies.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ~positive & (ranks < NEGATIVES * positive.sum(dim=1, keepdim=True))
