"""Online augmentation: every draw comes from the example's own random stream."""

from farvox.augment.chain import Augmenter, AugmentOptions, build_augmenter

__all__ = ["AugmentOptions", "Augmenter", "build_augmenter"]
