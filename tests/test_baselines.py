"""Rivals: one signature, and each algorithm against its definition on cases small enough to check."""

import itertools

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from emerdiff_lib import baselines
from emerdiff_lib.baselines.diffcut import normalised_cut, recursive_cut
from emerdiff_lib.baselines.diffseg import aggregated_attention, kl_distance, merge
from emerdiff_lib.baselines.refiners import pixel_adaptive

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def image(scene):
    return np.asarray(scene.image)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70
    )
    return baselines.Backbone(Dinov2Model(config))


RIVALS = {
    "slic": lambda image, pipe, backbone: baselines.slic(image, 12),
    "felzenszwalb": lambda image, pipe, backbone: baselines.felzenszwalb(image),
    "kmeans": lambda image, pipe, backbone: baselines.kmeans_pixels(image, 5),
    "activations": lambda image, pipe, backbone: baselines.kmeans_activations(
        image, pipe, "down_blocks.2.resnets.0", 5, timestep=21, ensemble_size=2
    ),
    "diffseg": lambda image, pipe, backbone: baselines.diffseg(image, pipe),
    "diffseg, 6": lambda image, pipe, backbone: baselines.diffseg(image, pipe, num_segments=6),
    "diffcut": lambda image, pipe, backbone: baselines.diffcut(image, pipe),
    "diffcut, 6": lambda image, pipe, backbone: baselines.diffcut(image, pipe, num_segments=6, refine=False),
    "backbone": lambda image, pipe, backbone: baselines.kmeans_backbone(image, backbone, 5, resolution=140),
}


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("wide", [False, True])
def test_every_rival_labels_every_pixel_and_embeds_every_segment(name, wide, image, pipe, backbone):
    picture = image[:96] if wide else image
    first, again = (RIVALS[name](picture, pipe, backbone) for _ in range(2))
    assert first.labels.shape == picture.shape[:2] and first.labels.dtype == np.int32
    assert (
        set(np.unique(first.labels)) == set(range(len(first.embeddings)))
        and np.isfinite(first.embeddings).all()
    )
    assert np.array_equal(first.labels, again.labels)
    if name.endswith("6"):
        assert abs(len(first.embeddings) - 6) <= 1


def test_felzenszwalb_meets_the_wanted_number(image):
    found = [len(baselines.felzenszwalb(image, num_segments=k).embeddings) for k in (8, 16, 32)]
    assert all(abs(n - k) <= max(2, k // 4) for n, k in zip(found, (8, 16, 32), strict=True))


def test_embeddings_are_means_over_segments():
    labels, features = np.array([[0, 0, 7], [3, 7, 7]]), RNG.random((2, 3, 4))
    found = baselines.with_embeddings(labels, features)
    assert found.labels.tolist() == [[0, 0, 2], [1, 2, 2]]
    np.testing.assert_allclose(found.embeddings[2], features[labels == 7].mean(0), rtol=1e-6)


@torch.no_grad()
def test_diffseg_attention_maps_are_distributions(pipe, trajectory):
    attention = aggregated_attention(pipe.denoiser(), trajectory.latents[101], 101)
    assert attention.shape == (16, 16, 16, 16)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(16, 16))


def test_kl_distance_and_merging_by_definition():
    a, b = torch.rand(3, 6).softmax(1), torch.rand(4, 6).softmax(1)
    one = lambda p, q: ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    expected = torch.stack([torch.stack([one(p, q) for q in b]) for p in a]).double()
    torch.testing.assert_close(kl_distance(a, b), expected, rtol=1e-5, atol=1e-7)
    left = torch.zeros(4, 4)
    left[:, :2] = 1 / 8
    maps = torch.where((torch.arange(4) < 2)[None, :, None, None], left, left.flip(1)).expand(4, 4, 4, 4)
    proposals = merge(maps, threshold=0.5, anchors=4)
    assert len(proposals) == 2 and {tuple(p.argmax(1).tolist()) for p in proposals} == {(0,) * 4, (2,) * 4}


def test_normalised_cut_against_all_cuts():
    """Two clusters of a small graph: the spectral split is the best of all 2ⁿ⁻¹ − 1 cuts."""
    points = np.concatenate([RNG.normal(0, 0.3, (5, 2)), RNG.normal(2, 0.3, (4, 2))])
    affinity = np.exp(-np.square(points[:, None] - points[None]).sum(-1))
    side, value = normalised_cut(affinity)
    degrees = affinity.sum(1)

    def cut(nodes):
        inside = np.isin(np.arange(9), nodes)
        across = affinity[inside][:, ~inside].sum()
        return across / degrees[inside].sum() + across / degrees[~inside].sum()

    best = min(cut(c) for n in range(1, 9) for c in itertools.combinations(range(9), n))
    assert value == pytest.approx(best) and cut(np.flatnonzero(side)) == pytest.approx(best)


def test_recursive_cut_stops_where_it_should():
    blocks = np.kron(np.eye(3), np.ones((4, 4))) + 1e-3
    assert len(set(recursive_cut(blocks, limit=0.5))) == 3
    assert len(set(recursive_cut(blocks, limit=1e-6))) == 1
    assert len(set(recursive_cut(blocks, limit=0.0, most=2))) == 2


def two_halves():
    """Masks whose border is a pixel off the picture's."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 17:] = (200, 100, 50)
    picture = (picture + RNG.integers(0, 6, picture.shape)).astype(np.uint8)
    columns = torch.arange(8)[None].expand(8, 8)
    return (
        torch.stack([columns < 4, columns >= 4]),
        picture,
        (np.arange(32) >= 17)[None].repeat(32, 0).astype(int),
    )


@pytest.mark.parametrize(
    "refine", [baselines.guided_masks, baselines.random_walk, baselines.pixel_adaptive_masks]
)
def test_refiners_find_the_pictures_border(refine):
    masks, picture, truth = two_halves()
    labels = refine(masks, picture)
    bilinear = (
        torch.nn.functional.interpolate(masks[None].float(), size=(32, 32), mode="bilinear")[0]
        .argmax(0)
        .numpy()
    )
    assert labels.shape == (32, 32) and (labels == truth).mean() > max(0.99, (bilinear == truth).mean())


def test_random_walk_keeps_masks_too_thin_to_be_certain():
    masks, picture, _ = two_halves()
    thin = torch.zeros(1, 8, 8, dtype=torch.bool)
    thin[0, 2, 2] = True
    labels = baselines.random_walk(torch.cat([masks & ~thin, thin]), picture)
    assert set(np.unique(labels)) <= {0, 1, 2} and (labels == 2).any()
    assert (baselines.random_walk(torch.ones(1, 8, 8, dtype=torch.bool), picture) == 0).all()


def test_pixel_adaptive_weights_are_a_mean():
    masks, picture, _ = two_halves()
    refined = pixel_adaptive(masks.float(), picture, iterations=3)
    torch.testing.assert_close(refined.sum(0), torch.ones(32, 32))
    assert refined.min() >= 0 and refined.max() <= 1 + 1e-6
