"""Where objects get lost, on pictures made so that each stage is the one that fails."""

import numpy as np

from emerdiff_lib.evaluation.regions import Region
from emerdiff_lib.evaluation.stages import STAGES, contrast, object_stages


def case():
    """A 4 × 4 grid of 8-pixel cells with an object of class 1 filling the four middle cells."""
    truth = np.zeros((32, 32), int)
    truth[8:24, 8:24] = 1
    image = np.where(truth[..., None] == 1, 0.9, 0.1) * np.ones(3)
    masks = np.stack([truth[::8, ::8] == 0, truth[::8, ::8] == 1])
    maps = np.stack([truth == 0, truth == 1]).astype(float)
    return dict(image=image, reconstruction=image, masks=masks, maps=maps, labels=truth.copy(), truth=truth)


def lost_at(**changed):
    (row,) = [row for row in object_stages(**(case() | changed)) if row["class_index"] == 1]
    return row["lost_at"]


def test_an_object_that_survives_everything_is_found():
    assert lost_at() == "found"
    (row,) = [row for row in object_stages(**case()) if row["class_index"] == 1]
    assert row["area"] == 0.25 and row["size"] == "> 20 %" and all(row[stage] for stage in STAGES)


def test_each_stage_can_lose_it():
    whole = case()
    assert lost_at(reconstruction=whole["image"] * 0 + 0.5) == "VAE"
    assert lost_at(masks=np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)])) == "clustering"
    assert lost_at(maps=1 - whole["maps"]) == "modulation"
    assert lost_at(labels=whole["labels"] * 0) == "argmax"


def test_an_object_smaller_than_half_a_cell_is_lost_at_the_grid():
    truth = np.zeros((32, 32), int)
    truth[9:13, 9:13] = 1  # a quarter of one cell
    image = np.where(truth[..., None] == 1, 0.9, 0.1) * np.ones(3)
    assert lost_at(truth=truth, image=image, reconstruction=image) == "coarse grid"


def test_contrast_is_the_distance_of_mean_colours():
    whole = case()
    region = Region(1, whole["truth"] == 1)
    assert np.isclose(contrast(whole["image"], region), 0.8 * np.sqrt(3))
    assert contrast(whole["image"], Region(0, np.ones((32, 32), bool))) == 0
