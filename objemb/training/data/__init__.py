"""Training data: photos with their known boxes, labels and identities."""

from objemb.training.data.base import NO_INSTANCE, Example, Examples

__all__ = ["NO_INSTANCE", "Example", "Examples"]
