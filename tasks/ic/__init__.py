"""Image classification: CIFAR-10 and CIFAR-100 with VGG and ResNet."""

from tasks.ic.task import ImageClassification

__all__ = ["ImageClassification"]
