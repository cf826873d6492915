"""Image generation: sneakers with a DCGAN (Section IV-B-3 and Figure 2 of the paper)."""

from tasks.ig.task import ImageGeneration

__all__ = ["ImageGeneration"]
