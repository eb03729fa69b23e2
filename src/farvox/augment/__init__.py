"""Online augmentation: every draw comes from the example's own random stream."""

from farvox.augment.chain import Augmenter, build_augmenter

__all__ = ["Augmenter", "build_augmenter"]
