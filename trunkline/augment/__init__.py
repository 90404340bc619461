"""A clean call made into many telephone calls: speed, level, noise, rooms, talkers, lines, masks.

Every operation is a function of a waveform (samples,) float32 tensor on any device; `Augmenter`
draws which of them an item gets, from nothing but (seed, epoch, id).
"""

from trunkline.augment.augmenter import Augmented, Augmenter
from trunkline.augment.config import AugmentConfig
from trunkline.augment.masking import spec_augment

__all__ = ["AugmentConfig", "Augmented", "Augmenter", "spec_augment"]
