"""Upsamplers of features against loops, equations and images whose features are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emerdiff_lib.baselines import upsamplers as up

from .conftest import seeded

ALL = {
    "bilinear": up.bilinear,
    "guided": up.guided,
    "joint bilateral": up.joint_bilateral,
    "adaptive": up.adaptive,
    "guided, adaptive": up.guided_adaptive,
    "random walk": up.random_walk_features,
    "optimised": lambda features, image: up.optimised(features, image, steps=20),
}


@pytest.fixture(scope="module")
def halves():
    """A wide image of a dark and a light half whose border lies inside a column of cells."""
    image = np.full((24, 40, 3), 40, np.uint8)
    image[:, 22:] = 210
    return image


@pytest.mark.parametrize("name", ALL)
def test_constant_features_stay(name, halves):
    features = torch.tensor([2.0, -3.0]).expand(3, 5, 2)
    pixels = ALL[name](features, halves)
    tolerance = 1e-3 if name != "optimised" else 0.2
    torch.testing.assert_close(pixels, features[0, 0].expand(24, 40, 2), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("bilinear", "optimised")])
def test_features_follow_an_edge_that_bilinear_interpolation_misses(name, halves):
    features = torch.zeros(3, 5, 1)
    features[:, 3:], features[:, 2] = 1.0, 0.75  # cell 2 is light on six of its eight columns
    truth = (torch.arange(40) >= 22).float()[None, :, None].expand(24, 40, 1)
    error = lambda upsampled: float((upsampled - truth).abs()[:, 14:30].mean())
    assert error(ALL[name](features, halves)) < 0.75 * error(up.bilinear(features, halves))


def test_the_optimised_upsampler_s_means_over_cells_are_the_cells():
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    features = torch.randn(3, 5, 2, generator=seeded())
    means = lambda pixels: F.adaptive_avg_pool2d(pixels.permute(2, 0, 1), (3, 5)).permute(1, 2, 0)
    error = lambda pixels: float((means(pixels) - features).norm() / features.norm())
    assert error(up.optimised(features, image)) < 0.5 * error(up.bilinear(features, image))


def test_joint_bilateral_is_its_sum_over_cells():
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)
    features = torch.randn(3, 2, 2, generator=seeded())
    upsampled = up.joint_bilateral(features, image, reach=1, space=0.8, colour=0.3)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    cells = F.avg_pool2d(pixels, 4)
    for y, x in ((0, 0), (5, 3), (11, 7)):
        cy, cx = (y + 0.5) / 4 - 0.5, (x + 0.5) / 4 - 0.5
        total, weight = 0, 0
        for row, column in np.ndindex(3, 2):
            if abs(row - round(cy)) <= 1 and abs(column - round(cx)) <= 1:
                far = (row - cy) ** 2 + (column - cx) ** 2
                unlike = (pixels[:, y, x] - cells[:, row, column]).square().sum()
                w = torch.exp(-far / (2 * 0.8**2) - unlike / (2 * 0.3**2))
                total, weight = total + w * features[row, column], weight + w
        torch.testing.assert_close(upsampled[y, x], total / weight)


def test_the_random_walk_s_features_are_stationary():
    """The gradient of its energy, written with loops, is zero."""
    image = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)
    features = torch.randn(2, 2, 1, generator=seeded())
    walked = up.random_walk_features(features, image, beta=2.0, pull=0.1)[..., 0].double().numpy()
    start, colours = up.bilinear(features, image)[..., 0].numpy(), image / 255.0
    for y, x in np.ndindex(6, 5):
        gradient = 0.1 * (walked[y, x] - start[y, x])
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < 6 and 0 <= u < 5:
                weight = np.exp(-2.0 * np.square(colours[y, x] - colours[v, u]).sum()) + 1e-6
                gradient += weight * (walked[y, x] - walked[v, u])
        assert abs(gradient) < 1e-5


def test_self_attention_gives_means_of_what_is_attended_to(pipe, scene):
    image, features = np.asarray(scene.image), torch.randn(16, 16, 3, generator=seeded())
    constant = up.self_attention(torch.ones(16, 16, 3), image, pipe)
    torch.testing.assert_close(constant, torch.ones_like(constant), atol=1e-4, rtol=0)
    assert up.self_attention(features, image, pipe).std() < up.bilinear(features, image).std()
