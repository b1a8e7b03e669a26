"""Where objects get lost, on pictures made so that each stage is the one that fails."""

from dataclasses import replace

import numpy as np
import pytest

from emerdiff_lib.datasets.images import named
from emerdiff_lib.studies.lost_objects import FOUND, Trace, follow, object_rows, trace

from .conftest import seeded

QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1}


def whole() -> Trace:
    """A 4 × 4 grid of 8-pixel cells with an object of class 1 filling the four middle cells: nothing is lost."""
    truth = np.zeros((32, 32), int)
    truth[8:24, 8:24] = 1
    image = np.where(truth[..., None] == 1, 0.9, 0.1) * np.ones(3)
    masks = np.stack([truth[::8, ::8] == 0, truth[::8, ::8] == 1])
    maps = np.stack([truth == 0, truth == 1]).astype(float)
    return Trace(image, image, masks, maps, truth.copy(), truth)


def row_of(way: Trace, class_index: int = 1) -> dict:
    (row,) = [row for row in object_rows(way) if row["class_index"] == class_index]
    return row


NOWHERE = np.zeros((32, 32), int)  # final labels in which the object has no segment
SPOILT = {
    "VAE": dict(reconstruction=np.full((32, 32, 3), 0.5)),
    "clustering": dict(masks=np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)])),
    "modulation": dict(maps=1 - whole().maps),
}


HALF = np.where(np.arange(32)[:, None] < 16, 0, whole().truth)
EVERYTHING = {name: value for changes in SPOILT.values() for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, FOUND),
        ({"labels": HALF}, FOUND),  # half of its pixels in segments of its class are enough
        ({"labels": np.where(np.arange(32) < 9, 0, HALF)}, "argmax"),
        ({"labels": NOWHERE}, "argmax"),
        ({"labels": NOWHERE} | EVERYTHING, "VAE"),  # the first that fails
        *((spoilt, FOUND) for spoilt in SPOILT.values()),
        *((spoilt | {"labels": NOWHERE}, stage) for stage, spoilt in SPOILT.items()),
    ],
)
def test_the_first_stage_that_fails_is_named_and_the_last_where_none_does(changes, outcome):
    row = row_of(replace(whole(), **changes))
    assert row["outcome"] == outcome and row["area"] == 0.25 and row["box"] == [8, 8, 24, 24]
    alone = [stage for stage, spoilt in SPOILT.items() if changes.keys() - {"labels"} == spoilt.keys()]
    assert not any(row[stage] for stage in alone)


def test_an_object_smaller_than_half_a_cell_is_lost_at_the_grid_unless_it_is_found():
    truth = np.zeros((32, 32), int)
    truth[9:13, 9:13] = 1  # a quarter of one cell
    image = np.where(truth[..., None] == 1, 0.9, 0.1) * np.ones(3)
    way = replace(whole(), truth=truth, image=image, reconstruction=image, labels=NOWHERE)
    assert row_of(way)["outcome"] == "coarse grid"
    assert row_of(replace(way, labels=truth))["outcome"] == FOUND


def test_void_is_no_object():
    truth = whole().truth.copy()
    truth[:, :4] = 255
    rows = object_rows(replace(whole(), truth=truth, ignore_index=255))
    assert {row["class_index"] for row in rows} == {0, 1}


def test_a_trace_is_what_the_pipeline_does(pipe, data):
    sample = data[7]
    way = trace(pipe, sample, 4, **QUICK)
    output = pipe(sample.image, 4, generator=seeded(sample.seed), output_difference_maps=True, **QUICK)
    assert np.array_equal(way.labels, output.labels) and np.array_equal(way.masks, output.coarse_masks)
    assert np.allclose(way.maps, output.difference_maps, atol=1e-6)
    error = lambda image: np.abs(way.reconstruction - image).mean()
    assert error(way.image) < 0.1 < error(way.image[::-1])


def test_objects_are_followed_under_every_number_of_masks(pipe, data, tmp_path):
    objects = follow(pipe, data, named(data, [200, 201]), [2, 3, 2], tmp_path, QUICK)
    assert set(objects["K"]) == {2, 3} and list(objects["position"].unique()) == [200, 201]
    rows = object_rows(trace(pipe, data[200], 3, data.ignore_index, **QUICK))
    some = objects[(objects["K"] == 3) & (objects["position"] == 200)]
    assert [row["recall"] for row in rows] == some["recall"].tolist()
    with pytest.raises(ValueError, match="modulation_timestep"):
        follow(pipe, data, {}, [2], tmp_path / "other", {"modulation_timesteps": 41})
