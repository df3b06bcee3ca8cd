"""What is learned from: photos with the boxes, labels and identities that are known of them."""

from objemb.training.data.base import NO_INSTANCE, Example, Examples

__all__ = ["NO_INSTANCE", "Example", "Examples"]
