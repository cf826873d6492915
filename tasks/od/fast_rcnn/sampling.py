"""Which regions of an image are trained on (Girshick 2015, section 2.3, "Mini-batch sampling")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from tasks.od.fast_rcnn.boxes import encode
from tmsgd_bench.voc import Objects

REGIONS = 64
"""Of each image."""
FOREGROUND = 16
"""At most so many of them are on an object: 25 %."""
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1
"""A region that overlaps no object by so much is too easy to be trained on as background."""
UNUSED = -1
"""The label in place of a region that an image has too few of."""


@dataclass(frozen=True)
class Sample:
    """Regions to train on.

    Args:
        boxes: float32, shape (REGIONS, 4).
        labels: int64, shape (REGIONS,): 0 for background, 1 to 20 for a class, UNUSED for none; foreground comes first.
        targets: float32, shape (REGIONS, 4): see :func:`tasks.od.fast_rcnn.boxes.encode`; 0 where it is not foreground.
    """

    boxes: Tensor
    labels: Tensor
    targets: Tensor


def sample(proposals: Tensor, objects: Objects) -> Sample:
    """Draw regions of one image from torch's CPU stream.

    Objects marked as difficult are left out, as in py-faster-rcnn: no region is trained to find them. The boxes of the
    others join the proposals. A region is foreground, of the class of the object it overlaps most, from an IoU of 0.5,
    and background from 0.1 up to there. Where an image has too few, there are fewer regions. Where it has no background
    of that kind, because it has no object, say, all regions below 0.5 are, in place of none: the original leaves images
    without objects out.

    Args:
        proposals: float32, shape (proposals, 4).
        objects: of the image, in the same coordinates.
    """
    truth, classes = objects.boxes[~objects.difficult], objects.labels[~objects.difficult]
    regions = torch.cat([truth, proposals])
    best, owner = _overlaps(regions, truth)
    foreground = _some(best >= FOREGROUND_IOU, FOREGROUND)
    below = best < FOREGROUND_IOU
    hard = below & (best >= BACKGROUND_IOU)
    background = _some(hard if hard.any() else below, REGIONS - len(foreground))
    return _fill(regions, foreground, background, truth[owner[foreground]], classes[owner[foreground]])


def _overlaps(regions: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Each region's largest IoU with an object, and that object's number."""
    if not len(truth):
        return torch.zeros(len(regions)), torch.zeros(len(regions), dtype=torch.int64)
    best, owner = box_iou(regions, truth).max(dim=1)
    return best, owner


def _some(wanted: Tensor, most: int) -> Tensor:
    """Positions of at most so many of the entries that are true, drawn without replacement."""
    positions = wanted.nonzero().flatten()
    return positions[torch.randperm(len(positions))[:most]]


def _fill(regions: Tensor, foreground: Tensor, background: Tensor, truth: Tensor, classes: Tensor) -> Sample:
    count, hits = len(foreground) + len(background), len(foreground)
    boxes, targets = torch.zeros(REGIONS, 4), torch.zeros(REGIONS, 4)
    labels = torch.full((REGIONS,), UNUSED)
    boxes[:count] = regions[torch.cat([foreground, background])]
    labels[:hits], labels[hits:count] = classes + 1, 0
    targets[:hits] = encode(truth, regions[foreground])
    return Sample(boxes, labels, targets)
