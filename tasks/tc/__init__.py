"""Text classification: R8 with an LSTM (the paper's Table 5)."""

from tasks.tc.task import TextClassification

__all__ = ["TextClassification"]
