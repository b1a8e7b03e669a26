"""Baselines: one signature, and each algorithm against its definition on cases small enough to check."""

import itertools
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter
from transformers import Dinov2Config, Dinov2Model

from emerdiff_lib import baselines
from emerdiff_lib.baselines.diffcut import normalised_cut, recursive_cut
from emerdiff_lib.baselines.diffseg import (
    aggregated_attention,
    anchor_distances,
    anchor_positions,
    kl_distance,
    merge,
)
from emerdiff_lib.baselines.segmentation import with_embeddings
from emerdiff_lib.images import to_guide
from emerdiff_lib.interventions import hooked
from emerdiff_lib.refinement import pixel_adaptive

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def image(scene):
    return np.asarray(scene.image)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70)
    return baselines.Backbone(Dinov2Model(Dinov2Config(**sizes)))


BASELINES = {
    "slic": lambda image, pipe, backbone: baselines.slic(image, 12),
    "felzenszwalb, 6": lambda image, pipe, backbone: baselines.felzenszwalb(image, 6),
    "kmeans": lambda image, pipe, backbone: baselines.kmeans_pixels(image, 5),
    "kmeans, cells": lambda image, pipe, backbone: baselines.kmeans_cells(image, 5, (8, 8)),
    "kmeans, position": lambda image, pipe, backbone: baselines.kmeans_pixels(image, 5, colour_weight=0.0),
    "activations": lambda image, pipe, backbone: baselines.kmeans_activations(image, pipe, 5),
    "diffseg": lambda image, pipe, backbone: baselines.diffseg(image, pipe),
    "diffseg, 6": lambda image, pipe, backbone: baselines.diffseg(image, pipe, 6),
    "diffcut": lambda image, pipe, backbone: baselines.diffcut(image, pipe),
    "diffcut, 6": lambda image, pipe, backbone: baselines.diffcut(image, pipe, 6),
    "backbone": lambda image, pipe, backbone: baselines.cluster_features(
        backbone(image), image.shape[:2], 5, 0
    ),
}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_labels_every_pixel_and_embeds_every_segment(name, image, pipe, backbone):
    wide = image[:96]
    first, again = (BASELINES[name](wide, pipe, backbone) for _ in range(2))
    assert first.labels.shape == (96, 128) and first.labels.dtype == np.int32
    assert set(np.unique(first.labels)) == set(range(len(first.embeddings)))
    assert np.isfinite(first.embeddings).all() and np.array_equal(first.labels, again.labels)
    if name.endswith("6"):
        assert abs(len(first.embeddings) - 6) <= 1


def test_embeddings_are_means_over_segments():
    labels, features = np.array([[0, 0, 7], [3, 7, 7]]), RNG.random((2, 3, 4))
    result = with_embeddings(labels, features)
    assert result.labels.tolist() == [[0, 0, 2], [1, 2, 2]]
    np.testing.assert_allclose(result.embeddings[2], features[labels == 7].mean(0), rtol=1e-6)
    small, labels = RNG.random((3, 4, 5)), RNG.integers(0, 6, (7, 9))  # as if enlarged first
    maps = torch.from_numpy(small).permute(2, 0, 1)[None]
    large = F.interpolate(maps, size=(7, 9), mode="bilinear")[0].permute(1, 2, 0).numpy()
    expected = [large[labels == k].mean(0) for k in range(6)]
    np.testing.assert_allclose(with_embeddings(labels, small).embeddings, expected, rtol=1e-5)


@pytest.mark.parametrize("name, families", [("diffseg", "FAMILY_THRESHOLDS"), ("diffcut", "FAMILY_LIMITS")])
def test_diffseg_and_diffcut_find_several_segments_by_themselves(image, pipe, monkeypatch, name, families):
    """At Stable Diffusion's thresholds, hardly anything of a Toyscapes scene comes apart."""
    module, baseline = sys.modules[f"emerdiff_lib.baselines.{name}"], getattr(baselines, name)
    assert 4 <= len(baseline(image, pipe).embeddings) <= 20
    monkeypatch.setattr(module, families, {})
    assert len(baseline(image, pipe).embeddings) <= 3


@torch.no_grad()
def test_diffseg_aggregates_attention_as_its_equations_say(pipe, trajectory):
    """Against softmax(QKᵀ/√d) of every layer by hand: resolutions weigh by their side, however many layers each has."""
    unet, latents = pipe.denoiser, trajectory.clean_latents
    inputs, maps, handles = {}, {}, []
    for name in pipe.backbone.self_attention():
        keep = lambda module, args, kwargs, name=name: inputs.update({name: args[0]})
        handles.append(unet.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True))
    with hooked(handles):
        result = aggregated_attention(pipe.predictor(), latents)
    for name, x in inputs.items():
        layer, side = unet.get_submodule(name), round(x.shape[1] ** 0.5)
        heads = lambda a, n=layer.heads: a[0].reshape(len(a[0]), n, -1).transpose(0, 1)
        query, key = heads(layer.to_q(x)), heads(layer.to_k(x))
        probabilities = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
        maps.setdefault(side, []).append(probabilities.mean(0).reshape(side, side, side, side))
    assert {side: len(layers) for side, layers in maps.items()} == {16: 3, 8: 3, 4: 1}
    expected = torch.zeros(16, 16, 16, 16)
    for side, layers in maps.items():
        mean = sum(layers) / len(layers)
        for y, x in itertools.product(range(16), repeat=2):
            one = F.interpolate(mean[y * side // 16, x * side // 16][None, None], (16, 16), mode="bilinear")
            expected[y, x] += side / sum(maps) * one[0, 0] / one.sum()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-7)
    assert not any(module._forward_hooks for module in unet.modules())


@pytest.mark.parametrize(
    ("size", "anchors", "expected"),
    [
        (64, 16, list(range(1, 62, 4))),  # the authors' case: step 63 // 15, and 3 cells left over
        (9, 4, [1, 3, 5, 7]),
        (8, 16, list(range(8))),
        (7, 1, [3]),
    ],
)
def test_diffseg_anchors_are_centred(size, anchors, expected):
    assert anchor_positions(size, anchors).tolist() == expected


def test_kl_distance_and_merging_by_definition():
    a, b = torch.rand(3, 6).softmax(1), torch.rand(4, 6).softmax(1)
    one = lambda p, q: ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    expected = torch.stack([torch.stack([one(p, q) for q in b]) for p in a]).double()
    torch.testing.assert_close(kl_distance(a, b), expected, rtol=1e-5, atol=1e-7)
    left = torch.zeros(4, 4)
    left[:, :2] = 1 / 8
    maps = torch.where((torch.arange(4) < 2)[None, :, None, None], left, left.flip(1)).expand(4, 4, 4, 4)
    proposals = merge(maps, anchor_distances(maps), threshold=0.5)
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


def test_diffcut_works_at_twice_the_size(image, pipe, monkeypatch):
    """t = 50 and 16 × 16 positions instead of 8 × 8; then a median filter of the refined labels."""
    module = sys.modules[normalised_cut.__module__]  # the package's attribute of that name is the function
    spy = Mock(wraps=module.extract_activations)
    monkeypatch.setattr(module, "extract_activations", spy)
    monkeypatch.setattr(module, "pixel_adaptive", lambda scores, guide: scores)
    filtered = baselines.diffcut(image, pipe, 8, seed=3).labels
    (_, noisy, timestep, layers), layer = spy.call_args.args, "down_blocks.2.attentions.0"
    assert timestep == 50 and layers == [f"{layer}.transformer_blocks.0.attn1"]
    assert noisy.shape[2:] == (64, 64) and pipe.backbone.grid(layers[0], 64, 64) == (16, 16)
    monkeypatch.setattr(module, "median_filter", lambda labels, size: labels)
    raw = baselines.diffcut(image, pipe, 8, seed=3).labels
    expected = with_embeddings(median_filter(raw, 3), np.zeros((1, 1, 1))).labels
    assert np.array_equal(filtered, expected) and not np.array_equal(filtered, raw)


REFINERS = baselines.guided_masks, baselines.random_walk, baselines.pixel_adaptive_masks


def two_halves():
    """Masks whose border is a pixel off the image's."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 17:] = (200, 100, 50)
    image = (image + RNG.integers(0, 6, image.shape)).astype(np.uint8)
    columns, truth = torch.arange(8)[None].expand(8, 8), (np.arange(32) >= 17)[None].repeat(32, 0)
    return torch.stack([columns < 4, columns >= 4]), image, truth.astype(int)


@pytest.mark.parametrize("refine", REFINERS)
def test_refiners_find_the_border_of_the_image(refine):
    masks, image, truth = two_halves()
    labels = refine(masks, image)
    bilinear = F.interpolate(masks[None].float(), size=(32, 32), mode="bilinear")[0].argmax(0).numpy()
    assert labels.shape == (32, 32) and (labels == truth).mean() > max(0.99, (bilinear == truth).mean())


def test_random_walk_keeps_masks_too_thin_to_be_certain():
    masks, image, _ = two_halves()
    thin = torch.zeros(1, 8, 8, dtype=torch.bool)
    thin[0, 2, 2] = True
    labels = baselines.random_walk(torch.cat([masks & ~thin, thin]), image)
    assert set(np.unique(labels)) <= {0, 1, 2} and (labels == 2).any()
    assert (baselines.random_walk(torch.ones(1, 8, 8, dtype=torch.bool), image) == 0).all()


def test_pixel_adaptive_by_brute_force():
    """Loops over pixels, dilations and neighbours; the deviation is over 9 places per dilation, the centre one of them."""
    size, dilations, iterations = (6, 7), (1, 2, 4), 2
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    scores, colours = RNG.random((2, *size)), image / 255.0
    weights, places = {}, {}
    for y, x in itertools.product(*map(range, size)):
        offsets = [(d * i, d * j) for d in dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]
        nine = [(min(max(y + i, 0), size[0] - 1), min(max(x + j, 0), size[1] - 1)) for i, j in offsets]
        deviation = np.std([colours[place] for place in nine], axis=0, ddof=1)
        places[y, x] = [place for place, offset in zip(nine, offsets, strict=True) if offset != (0, 0)]
        unlike = [np.abs(colours[p] - colours[y, x]) / (1e-8 + 0.1 * deviation) for p in places[y, x]]
        likeness = np.exp(-np.mean(unlike, 1))
        weights[y, x] = likeness / likeness.sum()
    expected = scores
    for _ in range(iterations):
        former, expected = expected, np.zeros_like(scores)
        for (y, x), around in places.items():
            near = zip(weights[y, x], around, strict=True)
            expected[:, y, x] = sum(w * former[:, p[0], p[1]] for w, p in near)
    refined = pixel_adaptive(torch.from_numpy(scores), to_guide(image), iterations, dilations)
    np.testing.assert_allclose(refined.numpy(), expected, atol=1e-5)
