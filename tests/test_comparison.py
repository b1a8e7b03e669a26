"""EmerDiff and its baselines on a data set: the pipeline's own numbers, and tables of what was kept."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from emerdiff_lib.datasets import Sample, open_dataset
from emerdiff_lib.datasets.images import named
from emerdiff_lib.evaluation import tables
from emerdiff_lib.studies import comparison, names

from .conftest import seeded

SETTINGS = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1}


def scored(pipe, data, folder, positions, methods, **settings):
    return comparison.score_images(pipe, data, named(data, positions), methods, SETTINGS | settings, folder)


@pytest.mark.parametrize("more", [{}, {"denoising_steps": 3, "guide_radius": 1.0, "filter_sigma": 2.0}])
def test_every_row_of_emerdiff_is_what_the_pipeline_gives(pipe, data, more):
    sample, settings = data[7], SETTINGS | more
    methods = [*comparison.KINDS["with modulated denoising"], names.BILINEAR]
    results = comparison.segment_image(pipe, sample, methods, settings)
    assert list(results) == methods
    alone = lambda **keywords: pipe(sample.image, generator=seeded(sample.seed), **(settings | keywords))
    exact, fast, pixel = alone(), alone(mode="fast"), alone(mode="pixel")
    expected = {
        names.EMERDIFF: exact.labels,
        names.EMERDIFF_GUIDED: alone(guide_radius=settings.get("guide_radius", 1.5)).labels,
        names.EMERDIFF_PIXEL: pixel.labels,
        names.EMERDIFF_FAST: fast.labels,
        names.BILINEAR: exact.baseline_labels,
    }
    assert len({labels.tobytes() for labels in expected.values()}) == (4 if more else 5)
    for name, result in results.items():
        whose = {names.EMERDIFF_PIXEL: pixel, names.EMERDIFF_FAST: fast}.get(name, exact)
        assert np.array_equal(result.labels, expected[name]), name
        assert np.array_equal(result.embeddings, whose.mask_embeddings) and result.seconds > 0


def test_every_method_runs_and_gives_a_segment_for_every_embedding(pipe, data):
    methods = comparison.check_methods([], has_backbone=False)
    results = comparison.segment_image(pipe, data[7], methods, SETTINGS)
    assert list(results) == methods and names.BACKBONE not in methods
    for name, result in results.items():
        assert result.labels.shape == (128, 128) and result.labels.min() >= 0, name
        assert result.labels.max() < len(result.embeddings), name
    refined = [results[name].labels for name in comparison.ON_THE_SAME_MASKS]
    assert len({labels.tobytes() for labels in refined}) == len(refined)
    assert all((labels == refined[0]).mean() > 0.7 for labels in refined)


def test_the_ceiling_is_what_the_grid_can_hold(pipe, scene):
    """Truth along cells comes back whole, what covers less than half of a cell is gone; void is a class of its own."""
    labels = np.zeros((128, 128), np.uint8)
    labels[:, 64:], labels[:, 104:] = 2, 255
    expected = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    labels[18:21, 18:21] = 1
    sample = Sample("x", scene.image, labels, 0)
    result = comparison.segment_image(pipe, sample, [names.UPPER_BOUND], SETTINGS)[names.UPPER_BOUND]
    assert np.array_equal(result.labels, expected)


def test_results_belong_to_their_settings_and_not_to_their_neighbours(pipe, data, tmp_path):
    """A default that changes between versions makes other results, though nobody gave it."""
    methods = [names.ENCODER, names.DIFFCUT]
    torch.manual_seed(3)
    first = scored(pipe, data, tmp_path, [1], methods)
    rows = tables.per_image_rows(first)
    assert len(rows) == len(methods) and not rows.isna().any().any()
    assert scored(pipe, data, tmp_path, [1], methods, modulation_strength=10.0).computed == 0
    assert scored(pipe, data, tmp_path, [1], methods, modulation_strength=9.0).computed == 1
    torch.manual_seed(4)
    second = scored(pipe, data, tmp_path / "b", [0, 1], methods)
    for method in methods:
        assert first[0]["methods"][method]["table"] == second[1]["methods"][method]["table"]


def test_ignored_pixels_are_not_scored(pipe, tmp_path, scene):
    labels = scene.coarse_labels.copy()
    labels[:20] = 255
    for part, image in (("images", scene.image), ("labels", Image.fromarray(labels))):
        (tmp_path / part).mkdir()
        image.save(tmp_path / part / "a.png")
    (result,) = scored(pipe, open_dataset("folder", tmp_path), tmp_path / "out", [0], [names.BILINEAR])
    assert np.sum(result["methods"][names.BILINEAR]["table"]) == 108 * 128


def test_one_interval_makes_every_verdict_and_few_images_make_none():
    columns = ["minus", "measure", "points", "low", "high"]
    ends = {names.BILINEAR: (-6.1, -8.7, -3.3), names.COLOUR: (2.0, -0.5, 3.0), names.SLIC: (4.0, 1.0, 6.0)}
    paired = pd.DataFrame([(name, "oracle", *row) for name, row in ends.items()], columns=columns)
    scores = pd.DataFrame({"oracle mIoU": [60.0, 66.1, 58, 56]}, [names.EMERDIFF, *ends])
    table = comparison.difference_table(paired)["oracle mIoU"]
    assert table.tolist() == ["-6.1 [-8.7, -3.3]", "+2.0 [-0.5, +3.0] (n.s.)", "+4.0 [+1.0, +6.0]"]
    (line,) = comparison.findings({"scores": scores, "paired": paired})
    said = "by 6.1 [3.3, 8.7] points of oracle mIoU. Of all 3 others, EmerDiff is ahead of 1 and behind 1."
    assert line.startswith("**EmerDiff** is behind *bilinear* (the best of the same masks") and said in line
    few = paired.assign(low=np.nan, high=np.nan)
    (line,) = comparison.findings({"scores": scores, "paired": few})
    said = comparison.difference_table(few).to_string() + line
    assert not any(word in said for word in ("[", "n.s.", "ahead", "behind"))
    assert line.endswith(", too few images for a verdict: −6.1 points of oracle mIoU.")
