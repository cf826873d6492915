"""RFBNet-300 (Liu, Huang and Wang 2018, ECCV, arXiv 1711.07767)."""

from tasks.od.rfbnet.detector import RFBDetector

__all__ = ["RFBDetector"]
