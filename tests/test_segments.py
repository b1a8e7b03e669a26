"""Clustering, assignment and colour baselines against brute force and other libraries."""

import numpy as np
import pytest
import torch

from emerdiff_lib.assignment import assign_bilinear, assign_pixels
from emerdiff_lib.baselines import kmeans_cells, kmeans_pixels
from emerdiff_lib.clustering import cluster_queries, mask_embeddings

RNG = np.random.default_rng(0)


def blobs():
    """A 6 × 8 grid whose cells belong to four well separated groups."""
    truth = (np.arange(6)[:, None] >= 3) * 2 + (np.arange(8)[None] >= 4)
    centres = RNG.normal(0, 10, (4, 5))
    return truth, torch.from_numpy(centres[truth] + RNG.normal(0, 0.1, (6, 8, 5))).float()


def test_clusters_find_well_separated_groups():
    truth, queries = blobs()
    masks = cluster_queries(queries, 4)
    assert (masks.sum(0) == 1).all()
    assert sorted(m.numpy().tobytes() for m in masks) == sorted((truth == k).tobytes() for k in range(4))
    for mask, embedding in zip(masks, mask_embeddings(queries, masks), strict=True):
        np.testing.assert_allclose(embedding, queries[mask].mean(0), rtol=1e-5)


def test_clusters_are_sorted_and_reproducible():
    queries = torch.randn(8, 8, 3, generator=torch.Generator().manual_seed(0))
    first, second = cluster_queries(queries, 5, 3), cluster_queries(queries, 5, 3)
    assert torch.equal(first, second) and (first.flatten(1).sum(1).diff() <= 0).all()


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_as_many_masks_as_there_are_distinct_vectors():
    assert len(cluster_queries(torch.ones(4, 4, 2), 3)) == 1
    with pytest.raises(ValueError, match="choose 1 to 16"):
        cluster_queries(torch.ones(4, 4, 2), 17)


def test_assignment_is_the_argmax_of_the_maps_or_masks_at_the_pictures_size():
    maps = torch.from_numpy(RNG.random((4, 20, 30)).astype(np.float32))
    assert np.array_equal(assign_pixels(maps, (20, 30)), maps.numpy().argmax(0))
    masks = torch.from_numpy(np.eye(5, dtype=bool)[RNG.integers(0, 5, (6, 9))]).permute(2, 0, 1)
    for assign, given in ((assign_pixels, maps), (assign_bilinear, masks)):
        stack = torch.nn.functional.interpolate(given[None].float(), size=(50, 41), mode="bilinear")[0]
        assert np.array_equal(assign(given, (50, 41)), stack.argmax(0))


def test_colour_kmeans_separates_flat_colours():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 16:32], image[:, 32:] = (255, 0, 0), (0, 0, 255)
    stripes = (slice(0, 15), slice(18, 30), slice(34, 48))
    # a cell's colour reaches half a cell into its neighbour, where features are brought to the picture's size
    for result, blurred in ((kmeans_pixels(image, 3), 1e-6), (kmeans_cells(image, 3, (8, 12)), 0.07)):
        assert all(len(np.unique(result.labels[:, s])) == 1 for s in stripes)
        order = result.labels[0, [0, 24, 47]]
        np.testing.assert_allclose(result.embeddings[order], [[0, 0, 0], [1, 0, 0], [0, 0, 1]], atol=blurred)
