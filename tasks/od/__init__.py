"""Object detection: VOC with RFBNet and Fast R-CNN (Section IV-B-1, Table 3 of the paper)."""

from tasks.od.task import ObjectDetection

__all__ = ["ObjectDetection"]
