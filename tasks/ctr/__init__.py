"""Click-through rate: Avazu with Wide & Deep (CTR-P in the paper's Table 1)."""

from tasks.ctr.task import ClickThrough

__all__ = ["ClickThrough"]
