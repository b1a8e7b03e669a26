"""The world is the same everywhere and exact, under its shifts as well; the bundled model is what it claims to be."""

import hashlib

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from emerdiff_lib import Toyscapes
from emerdiff_lib.toyscapes import world
from emerdiff_lib.toyscapes.shifts import COARSE_UNSEEN, SHIFTS, UNSEEN

from .conftest import refusal

SEEDS = (3, 46, 401)


@pytest.mark.parametrize(
    "shift, count, expected",
    [  # of the first test scenes; they change only when the world is changed on purpose
        ("as trained", 20, "bf0b07bcb451a188"),
        ("textures swapped", 4, "314f15e0c72712b6"),
        ("unseen objects", 4, "b48aed54637d9f46"),
        ("line drawing", 4, "c7eb97c81b05cb61"),
        ("light from one side", 4, "a5a302e4faefa9dc"),
        ("red light", 4, "734010261aacd77f"),
        ("twice as near", 4, "29f2ce29c560f37b"),
        ("farther", 4, "ba99eb3ad14cc0ec"),
    ],
)
def test_the_same_bytes_on_every_machine(shift, count, expected):
    """Of the shifts that another library's arithmetic takes no part in."""
    total = hashlib.sha256()
    for seed in range(count):
        image, labels, caption = world.draw_scene(seed, SHIFTS[shift])
        total.update(image.tobytes() + labels.tobytes() + caption.encode())
    assert total.hexdigest()[:16] == expected


@pytest.mark.parametrize("shift", [name for name in SHIFTS if name != "as trained"])
def test_only_what_is_shifted_changes(shift):
    for seed in SEEDS:
        before, after = Toyscapes("test")[seed], Toyscapes("test", shift=shift)[seed]
        changed = (np.asarray(before.image) != np.asarray(after.image)).any(-1)
        assert changed.any() and after.image.tobytes() == Toyscapes.from_seed(seed, shift).image.tobytes()
        if shift not in ("unseen objects", "twice as near", "farther"):
            assert np.array_equal(after.labels, before.labels) and after.caption == before.caption
        if shift == "unseen objects":  # two pixels inside: pixels are means of 2 × 2 samples
            unseen = after.labels == UNSEEN
            assert 0.01 < unseen.mean() < 0.4 and np.array_equal(unseen, after.coarse_labels == COARSE_UNSEEN)
            assert not changed[~binary_dilation(unseen, iterations=2)].any()


def test_splits_and_shifts_that_do_not_exist_are_refused():
    test, validation, training = (Toyscapes(split) for split in ("test", "validation", "train"))
    assert len(test) == len(validation) == 1000 and test[-1].seed == 999 and validation[0].seed == 1000
    assert training[0].seed == 2000 and training.seeds[-1] < 900_000
    assert "'test', 'validation', 'train'" in refusal(lambda: Toyscapes("tset"))
    assert "'line drawing'" in refusal(lambda: Toyscapes.from_seed(3, shift="fog"))


def test_labels_classes_and_palette_fit_together():
    assert len(Toyscapes.palette) == 18 and len(Toyscapes.coarse_palette) == 10
    fine, coarse = np.array(Toyscapes.class_names), np.array(Toyscapes.coarse_class_names)
    scenes = [Toyscapes("test")[i] for i in range(40)]
    named = lambda s: zip(fine[s.labels.flat], coarse[s.coarse_labels.flat], strict=True)
    pairs = {pair for one in scenes for pair in named(one)}
    assert {("wheel", "car"), ("crown", "tree"), ("sail", "boat"), ("roof", "building")} <= pairs
    assert len(pairs) == 18  # every class occurs, each in one group
