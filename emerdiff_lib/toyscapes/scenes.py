"""The Toyscapes data set: procedural scenes with exact labels, indexed like any other data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..settings import check_known
from .objects import CLASS_NAMES, COARSE_CLASS_NAMES, COARSE_PALETTE, FINE_TO_COARSE, PALETTE
from .shifts import COARSE_UNSEEN, SHIFTS
from .world import draw_scene

# Seeds of each split. The seeds from 900 000 on belong to nobody.
SPLITS = {"test": range(0, 1_000), "validation": range(1_000, 2_000), "train": range(2_000, 900_000)}


@dataclass(frozen=True)
class Scene:
    """One image of the world with its ground truth.

    Attributes:
        image: RGB image, 128 × 128.
        labels: (128, 128) uint8, indices into ``Toyscapes.class_names``.
        coarse_labels: (128, 128) uint8, indices into ``Toyscapes.coarse_class_names``.
        caption: what the image shows, in words.
        seed: the number that the scene is a function of.
    """

    image: Image.Image
    labels: np.ndarray
    coarse_labels: np.ndarray
    caption: str
    seed: int


class Toyscapes:
    """A split of the Toyscapes world: ``Toyscapes("test")[7]`` is a :class:`Scene`, the same one on every machine.

    Args:
        split: "train", "validation" or "test". No training run of this repository ever sees the last two.
        shift: name of a domain shift (:data:`.shifts.SHIFTS`): the same scenes with one thing changed. Under "unseen
            objects", labels 18 and coarse labels 10 mark objects of kinds that the world does not have.

    Raises:
        ValueError: for any other split or shift.
    """

    class_names = CLASS_NAMES
    coarse_class_names = COARSE_CLASS_NAMES
    palette = PALETTE
    coarse_palette = COARSE_PALETTE

    def __init__(self, split: str = "train", shift: str = "as trained"):
        self.seeds = SPLITS[check_known("split", split, SPLITS)]
        self.shift = check_known("shift", shift, SHIFTS)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> Scene:
        return self.from_seed(self.seeds[index], self.shift)

    @staticmethod
    def from_seed(seed: int, shift: str = "as trained") -> Scene:
        """The scene of any seed, whatever split it belongs to, under a domain shift if one is named (ValueError: unknown)."""
        image, labels, caption = draw_scene(seed, SHIFTS[check_known("shift", shift, SHIFTS)])
        coarse = np.append(FINE_TO_COARSE, np.uint8(COARSE_UNSEEN))[labels]
        return Scene(Image.fromarray(image), labels, coarse, caption, seed)
