"""Objects and cells of a ground truth, against other libraries."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label as scipy_components

from emerdiff_lib.evaluation import regions

RNG = np.random.default_rng(2)


def test_regions_are_the_connected_components_of_every_class():
    labels = RNG.integers(0, 3, (12, 12)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    found = regions.find_regions(labels, 0.01, 0.2)
    expected = set()
    for c in range(3):
        components, count = scipy_components(labels == c)
        masks = [components == i for i in range(1, count + 1)]
        expected |= {(c, m.tobytes()) for m in masks if 0.01 <= m.mean() <= 0.2}
    assert {(r.class_index, r.mask.tobytes()) for r in found} == expected and len(found) == len(expected)
    assert [r.area for r in found] == sorted((r.mask.mean() for r in found), reverse=True)
    assert {r.class_index for r in regions.find_regions(labels, 0, 1, ignore_index=2)} == {0, 1}
    for region in found:
        same = regions.Region.from_mask(region.class_index, region.mask)
        assert same.window == region.window and np.array_equal(same.inside, region.inside)


def test_many_regions_need_no_picture_each():
    """A thousand specks in a picture of a quarter of a million pixels; a mask of full size for each would be 250 MB."""
    labels = np.zeros((512, 512), np.int64)
    labels[4::16, 4::16] = 1
    tracemalloc.start()
    found = regions.find_regions(labels, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1 + 32 * 32 and peak < 30e6


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (16, 24), (40, 3)])
def test_cells_are_cut_as_torch_cuts_them(grid):
    labels = RNG.integers(0, 3, (32, 48))
    pooled = torch.nn.functional.adaptive_avg_pool2d
    shares = [pooled(torch.from_numpy(labels == c)[None].double(), grid)[0].numpy() for c in range(3)]
    for c in range(3):
        np.testing.assert_allclose(regions.cell_shares(labels == c, grid), shares[c], atol=1e-12)
    assert np.array_equal(regions.cell_labels(labels, grid, 3), np.round(shares, 9).argmax(0))


def test_inner_cells_are_the_best_covered():
    mask = np.zeros((32, 32), bool)
    mask[3:20, 8:32] = True  # covers cells (0 … 2, 1 … 3) of 8 pixels: rows by 5/8, 1 and 4/8
    cells = regions.inner_cells(mask, (4, 4), share=1 / 3)
    assert np.argwhere(cells).tolist() == [[1, 1], [1, 2], [1, 3]]


@pytest.mark.parametrize("size", [(5, 9), (24, 30), (61, 17)])
def test_labels_are_sampled_as_pillow_does_it(size):
    labels = RNG.integers(0, 99, (24, 30)).astype(np.int32)
    expected = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(regions.sample_labels(labels, size), expected)
