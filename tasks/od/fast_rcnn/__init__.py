"""Fast R-CNN (Girshick 2015, arXiv 1504.08083) with VGG16, on selective search's proposals."""

from tasks.od.fast_rcnn.detector import FastRCNN

__all__ = ["FastRCNN"]
