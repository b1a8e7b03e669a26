"""Responses of small masks, kept once: what follows from them against sums, loops and the network itself."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as connected_components

from emerdiff_lib import pixels
from emerdiff_lib.evaluation.regions import find_regions
from emerdiff_lib.pixels import border_contrast, feature_superpixels
from emerdiff_lib.responses import quantise
from emerdiff_lib.stages import Responses

from .conftest import refusal, seeded


@pytest.fixture(scope="module")
def coarse(pipe, scene):
    return pipe.cluster(scene.image, 6, generator=seeded(), num_parts=24, mode="pixel")


@pytest.fixture(scope="module")
def found(pipe, coarse):
    """As they come back from a pickle."""
    return pickle.loads(pickle.dumps(pipe.probe(coarse)))


def signed(found):
    """(P, 3, H, W) as the class documents its codes."""
    root = found.codes.double() / 127
    return root.sign() * root.square() * found.scales[:, None, None, None].double()


def test_the_error_of_quantisation_is_as_documented():
    r = torch.randn(5, 3, 40, 40, generator=seeded()) ** 3
    r[2] = 0
    codes, scales = quantise(r)
    assert codes.dtype == torch.int8
    root = codes.double() / 127
    back = root.sign() * root.square() * scales[:, None, None, None]
    share = (r.abs() / scales[:, None, None, None]).sqrt()
    bound = (share + 1 / 508) / 127 * scales[:, None, None, None]
    assert ((back - r).abs() <= bound + 1e-7).all()
    assert (back[2] == 0).all()


def test_responses_to_masks_are_sums_of_shares(found):
    strokes = torch.rand(3, *found.parts.shape[1:], generator=seeded()) < 0.3
    expected = []
    for stroke in strokes:
        total = 0
        for part, response in zip(found.parts, signed(found), strict=True):
            total = total + (part & stroke).sum() / part.sum() * response
        expected.append(total)
    expected = torch.stack(expected)
    torch.testing.assert_close(found.responses_to(strokes).double(), expected, atol=1e-6, rtol=1e-4)
    lengths = found.difference_maps(strokes.numpy()).double()
    torch.testing.assert_close(lengths, expected.norm(dim=1), atol=1e-6, rtol=1e-4)
    finer = strokes.repeat_interleave(3, 1).repeat_interleave(3, 2)
    torch.testing.assert_close(found.responses_to(finer), found.responses_to(strokes), atol=1e-6, rtol=1e-4)
    assert "(K, h, w)" in refusal(lambda: found.responses_to(strokes[0]))


def test_sums_are_what_the_network_answers_to_small_pushes(pipe, coarse):
    """Responses add up as long as λ is small: the network, given the union, agrees with the sum."""
    how = {"mode": "pixel", "num_parts": 24, "modulation_strength": 0.3}
    found = pipe.probe(coarse, **how)
    union = torch.stack([found.parts[:4].any(0), found.parts[4:12].any(0)])
    own = pipe.cluster(coarse.trajectory, coarse_masks=union)
    asked = pipe.modulate(own, denoising_steps=2, one_sided=True, modulation_strength=0.3)
    assert isinstance(asked, Responses)
    error = (found.difference_maps(union) - asked.difference_maps).norm() / asked.difference_maps.norm()
    assert error < 0.1


def test_weights_and_features_are_those_of_loops(found, monkeypatch):
    monkeypatch.setattr("emerdiff_lib.responses.ADAPTIVE", 0)
    lengths = signed(found).norm(dim=1).numpy()
    height, width = found.processing_size
    weights = torch.cat(list(found.weights()), 1).unflatten(1, (height, width)).numpy()
    plain = found.features(guide_radius=0, size=found.processing_size).numpy()
    queries, image = found.queries.numpy(), np.asarray(found.image) / 255
    means = np.stack([queries[part].mean(0) for part in found.parts.numpy()])
    rows, columns = found.parts.shape[1:]
    cells = image.reshape(rows, height // rows, columns, width // columns, 3).mean((1, 3))
    for y, x in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        above = np.maximum(lengths[:, y, x] - pixels.FLOOR * lengths[:, y, x].mean(), 0)
        for k, part in enumerate(found.parts.numpy()):
            unlike = np.square(cells[part] - image[y, x]).sum(1).min()
            above[k] = above[k] * np.exp(-unlike / (2 * pixels.COLOUR**2)) + 1e-6 * lengths[k, y, x]
        expected = above / above.sum()
        np.testing.assert_allclose(weights[:, y, x], expected, atol=1e-4)
        np.testing.assert_allclose(plain[y, x], expected @ means, atol=1e-3)
    one = found.features(np.ones((*found.parts.shape[1:], 2), np.float32))
    torch.testing.assert_close(one, torch.ones_like(one), atol=1e-4, rtol=0)


def test_a_pixel_that_answers_to_nothing_has_equal_shares(found):
    silent = replace(found, codes=torch.zeros_like(found.codes))
    weights = torch.cat(list(silent.weights()), 1)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 24))


def test_segments_for_any_number_follow_from_one_set(found, scene):
    for count in (1, 2, 7, 20):
        labels = found.segments(count)
        assert labels.shape == scene.labels.shape and labels.dtype == np.int32
        areas = np.bincount(labels.ravel())
        assert len(areas) == count and (np.diff(areas) <= 0).all() and areas.min() > 0
    cells, embeddings = found.cells_of(found.segments(7))
    assert cells.shape == (7, *found.parts.shape[1:]) and (cells.sum(0) == 1).all()
    large = int(cells[0].sum())
    inner = found.queries[cells[0]].mean(0)
    assert large > 10 and torch.cosine_similarity(inner, embeddings[0], dim=0) > 0.9
    for bad in (0, 2.5):
        assert "num_segments" in refusal(lambda bad=bad: found.segments(bad))


def test_what_lies_at_a_point_grows_with_granularity(found, scene):
    regions = find_regions(scene.coarse_labels, 0.02, 0.5)
    best = []
    for region in regions:
        depth = distance_transform_edt(np.pad(region.mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        point = column + 0.5, row + 0.5
        cuts = [found.segment_at(point, g) for g in np.linspace(0, 1, 11)]
        assert all(cut[row, column] for cut in cuts)
        assert all((cut <= coarser).all() for cut, coarser in zip(cuts, cuts[1:], strict=False))
        assert all(connected_components(cut).max() == 1 for cut in cuts)
        best.append(max((cut & region.mask).sum() / (cut | region.mask).sum() for cut in cuts))
    assert np.mean(best) > 0.5 and max(best) > 0.9 and cuts[-1].all()


def test_points_are_those_of_a_picture_of_any_size_and_none_beside_it(pipe, scene, found):
    for point, granularity, message in (((129, 0), 0, "x=129"), ((0, 0), 2, "granularity=2")):
        with pytest.raises(ValueError, match=message):
            found.segment_at(point, granularity)
    large = scene.image.resize((300, 200))
    responses = pipe.probe(pipe.cluster(large, 3, mode="fast", generator=seeded()))
    cut = responses.segment_at((299.9, 199.9), 0.3)
    assert cut.shape == (200, 300) and cut[199, 299]


def test_borders_are_compared_as_loops_do():
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 3, (7, 9)), rng.normal(size=(7, 9, 2))
    for reach in (1, 2):
        contrast, length = np.zeros((3, 3)), np.zeros((3, 3))
        for y in range(7):
            for x in range(9):
                for dy, dx in ((1, 0), (0, 1)):
                    if y + dy > 6 or x + dx > 8 or labels[y, x] == labels[y + dy, x + dx]:
                        continue
                    back = max(y - (reach - 1) * dy, 0), max(x - (reach - 1) * dx, 0)
                    front = min(y + reach * dy, 6), min(x + reach * dx, 8)
                    a, b = labels[y, x], labels[y + dy, x + dx]
                    difference = np.linalg.norm(values[back] - values[front])
                    for pair in ((a, b), (b, a)):
                        contrast[pair] += difference
                        length[pair] += 1
        found = border_contrast(labels, values, reach)
        np.testing.assert_allclose(found[0], contrast)
        np.testing.assert_array_equal(found[1], length)


def test_neighbours_join_in_the_order_of_their_contrast():
    """Every join against tables made anew from the joined label map."""
    features = torch.randn(12, 12, 3, generator=seeded()).repeat_interleave(4, 0).repeat_interleave(4, 1)
    found = feature_superpixels(features, cell=8)
    labels = found.labels.copy()
    assert len(found.joins) == labels.max()
    for kept, gone in found.joins:
        contrast, length = border_contrast(labels, features.numpy(), 2)
        areas = np.bincount(labels.ravel(), minlength=len(length)).astype(float)
        with np.errstate(invalid="ignore"):
            cost = contrast / length * np.minimum(areas[:, None], areas[None]) ** 0.25
        assert cost[kept, gone] == pytest.approx(np.nanmin(cost))
        labels[labels == gone] = kept


def test_plain_features():
    assert (feature_superpixels(torch.zeros(16, 16, 4), cell=4).segments(5) == 0).all()


def test_the_pipeline_s_pixel_mode(pipe, scene):
    wide = scene.image.resize((144, 96))
    one = pipe(wide, 6, mode="pixel", num_parts=16, generator=seeded(), output_difference_maps=True)
    assert one.labels.shape == (96, 144) and one.difference_maps.shape[1:] == (96, 144)
    count = one.labels.max() + 1
    assert count == 6 and len(one.coarse_masks) == len(one.mask_embeddings) == len(one.difference_maps) == 6
    assert one.settings["num_parts"] == 16 and one.settings["mode"] == "pixel"
    both = pipe([wide, wide], 6, mode="pixel", num_parts=16, generator=seeded())
    assert np.array_equal(both[0].labels, one.labels)
    large = scene.image.resize((300, 300))
    assert pipe(large, 3, mode="pixel", num_parts=4, generator=seeded()).labels.shape == (300, 300)


def test_chunks_make_no_difference(pipe, coarse, found):
    again = pipe.probe(coarse, mask_batch_size=5)
    # codes of the weakest jump: another sum's rounding, under a square root
    one, other = signed(found), signed(again)
    scales = found.scales[:, None, None, None].double()
    rounding = ((one.abs() / scales).sqrt() + 1 / 508) * scales / 127
    assert ((one - other).abs() <= 2 * rounding + 1e-4 * scales).all()
    assert (pipe.assign(again) == pipe.assign(found)).mean() > 0.99


def test_masks_of_one_s_own_take_what_their_probes_say(pipe, scene):
    halves = torch.zeros(2, 40, 40, dtype=torch.bool)
    halves[0, :, :15], halves[1, :, 15:] = True, True
    settings = {"mode": "pixel", "num_parts": 16, "guide_radius": 0.0, "filter_sigma": 0.0}
    out = pipe(scene.image, coarse_masks=halves, **settings, generator=seeded(), output_difference_maps=True)
    assert np.array_equal(out.labels, out.difference_maps.argmax(0)) and out.settings["own_masks"]
    assert np.array_equal(out.coarse_masks, halves.numpy()) and out.settings["num_masks"] == 2
    responses = pipe.probe(pipe.cluster(scene.image, coarse_masks=halves, generator=seeded(), **settings))
    shares = torch.nn.functional.adaptive_avg_pool2d(halves.float(), (16, 16))  # 2.5 cells each
    expected = torch.einsum("khw,hwd->kd", shares, responses.queries) / shares.sum((1, 2))[:, None]
    np.testing.assert_allclose(out.mask_embeddings, expected, rtol=1e-4)
    assert np.array_equal(pipe.assign(responses), out.labels)
    changed = pipe.cluster(scene.image, generator=seeded(), **settings)
    changed.masks = halves
    assert np.array_equal(pipe.assign(pipe.probe(changed)), out.labels)
    assert "num_parts=1 " in refusal(lambda: pipe(scene.image, num_parts=1))
