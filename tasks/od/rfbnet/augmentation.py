"""SSD's augmentation (Liu et al. 2016, arXiv 1512.02325, sections 2.2 and 3.6), of torchvision's parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from tasks.compute import IMAGENET_MEAN
from tasks.od.rfbnet.priors import SIDE


class IoUCrop(v2.RandomIoUCrop):
    """torchvision's crop, whose attempts with one limit are made at once, and not one after the other in Python.

    Both take the first attempt that can be used, so crops have the same distribution; the numbers drawn differ.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where to cut, and which boxes have their centres there; empty to leave an image as it is."""
        boxes = next(value for value in flat_inputs if isinstance(value, tv_tensors.BoundingBoxes))
        assert boxes.format is tv_tensors.BoundingBoxFormat.XYXY
        while True:
            limit = self.options[int(torch.randint(len(self.options), ()))]
            if limit >= 1.0:
                return {}
            crops = self._attempts(*boxes.canvas_size)
            usable, inside = _usable(crops, boxes.as_subclass(Tensor), limit)
            if usable.any():
                first = int(usable.int().argmax())
                left, top, right, bottom = crops[first].tolist()
                within = {"is_within_crop_area": inside[first]}
                return {"top": top, "left": left, "height": bottom - top, "width": right - left, **within}

    def _attempts(self, height: int, width: int) -> Tensor:
        """Random crops of an allowed shape out of an image, in pixels: int64, (crops, 4), x1, y1, x2, y2."""
        numbers = torch.rand(self.trials, 4)
        canvas = torch.tensor([width, height])
        sizes = (canvas * (self.min_scale + (self.max_scale - self.min_scale) * numbers[:, :2])).long()
        starts = ((canvas - sizes) * numbers[:, 2:]).long()
        shape = sizes[:, 0] / sizes[:, 1]
        allowed = (shape >= self.min_aspect_ratio) & (shape <= self.max_aspect_ratio) & (sizes > 0).all(dim=1)
        return torch.cat([starts, starts + sizes], dim=1)[allowed]


def _usable(crops: Tensor, boxes: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Which crops hold the centre of a box that they overlap enough, (crops,); of which boxes, (crops, boxes)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])).all(dim=2)
    return (inside & (box_iou(crops.to(boxes.dtype), boxes) >= limit)).any(dim=1), inside


def ssd_augmentation() -> v2.Transform:
    """Colours, zooming out up to four times, a crop by overlap, mirroring, 300 x 300 pixels."""
    fill = {tv_tensors.Image: [round(255 * mean) for mean in IMAGENET_MEAN]}
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=fill, side_range=(1.0, 4.0), p=0.5),
            IoUCrop(),
            v2.RandomHorizontalFlip(0.5),
            resize(),
            v2.SanitizeBoundingBoxes(),
        ]
    )


def resize() -> v2.Transform:
    """To 300 x 300 pixels, whatever the shape."""
    return v2.Resize((SIDE, SIDE), antialias=True)
