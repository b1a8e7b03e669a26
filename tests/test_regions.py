"""Objects and cells of a ground truth, against other libraries."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label as scipy_components
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from emerdiff_lib.evaluation import regions

RNG = np.random.default_rng(2)


def test_regions_are_the_connected_components_of_every_class():
    labels = RNG.integers(0, 3, (12, 12)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    some = regions.find_regions(labels, 0.01, 0.05)
    expected = set()
    for c in range(3):
        components, count = scipy_components(labels == c)
        masks = [components == i for i in range(1, count + 1)]
        expected |= {(c, m.tobytes()) for m in masks if 0.01 <= m.mean() <= 0.05}
    assert {(r.class_index, r.mask.tobytes()) for r in some} == expected and len(some) == len(expected)
    assert [r.area for r in some] == sorted((r.mask.mean() for r in some), reverse=True)
    assert {r.class_index for r in regions.find_regions(labels, 0, 1, ignore_index=2)} == {0, 1}


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (16, 24), (40, 3)])
def test_cells_are_cut_as_torch_cuts_them(grid):
    labels = RNG.integers(0, 3, (32, 48))
    shares = [adaptive_avg_pool2d(torch.from_numpy(labels == c)[None].double(), grid)[0] for c in range(3)]
    for c in range(3):
        np.testing.assert_allclose(regions.cell_shares(labels == c, grid), shares[c], atol=1e-12)
    cells = np.round(np.stack(shares), 9).argmax(0)
    assert np.array_equal(regions.cell_labels(labels, grid, 3), cells)
    masks = regions.true_masks(2 * labels, grid, 6)  # classes 0, 2 and 4
    assert np.array_equal(np.unique(cells)[masks.argmax(0)], cells) and (masks.sum(0) == 1).all()


@pytest.mark.parametrize("size", [(5, 9), (24, 30), (61, 17)])
def test_labels_are_sampled_at_the_centres_of_pixels(size):
    labels = RNG.integers(0, 99, (24, 30)).astype(np.float32)
    expected = interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact")[0, 0]
    assert np.array_equal(regions.sample_labels(labels, size), expected)
