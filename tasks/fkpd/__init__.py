"""Facial key points: YouTube Faces with PreActResNet34 (Section IV-B-2 and Figure 1 of the paper)."""

from tasks.fkpd.task import FacialKeyPoints

__all__ = ["FacialKeyPoints"]
