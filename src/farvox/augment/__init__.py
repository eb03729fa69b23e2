"""Online augmentation: every draw comes from the example's own random stream."""
