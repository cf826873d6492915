"""Segmentation: VOC with LRASPP (Section IV-B-1 of the paper)."""

from tasks.seg.task import Segmentation

__all__ = ["Segmentation"]
