"""Lockstep modulation against the brute-force implementation, and what must never change."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emerdiff_lib.benchmark import reference
from emerdiff_lib.interventions import shared_attention
from emerdiff_lib.modulation import (
    difference_maps,
    modulated_latents,
    resize_offsets,
    scaled_strength,
    shortened,
    signed_offsets,
    signed_responses,
)
from emerdiff_lib.refinement import guided_filter, refine
from emerdiff_lib.settings import Settings

from .conftest import seeded

LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def masks():
    columns = torch.arange(16)[None].expand(16, 16)
    return torch.stack([columns < 5, (columns >= 5) & (columns < 12), columns >= 12])


def modulated(layer=LAYER, timestep=101, **others):
    layers = {"feature_layer": layer, "modulation_layer": layer, "modulation_timestep": timestep}
    return Settings(num_masks=3, processing_resolution=64, **layers, **others)


@torch.no_grad()
def maps_of(pipe, trajectory, masks, decode=None, chunk_size=8, **others):
    settings, decode = modulated(**others), decode or pipe.decode
    responses = signed_responses(pipe.predictor(), decode, trajectory, masks, settings, chunk_size)
    return difference_maps(responses)


@pytest.mark.parametrize("injection", [True, False])
@pytest.mark.parametrize("placement", ["after_projection", "before_projection"])
@torch.no_grad()
def test_lockstep_equals_the_reference(pipe, trajectory, masks, injection, placement):
    settings = modulated(offset_placement=placement, attention_injection=injection)
    predictor = pipe.predictor()
    rows = modulated_latents(predictor, trajectory, signed_offsets(masks[:2], 10.0), settings)
    maps = reference.stored_maps(predictor, trajectory, 101) if injection else dict.fromkeys(range(102), {})
    singles = [
        reference.modulated_latents(predictor, trajectory, maps, mask, strength, LAYER, 101, placement)
        for strength in (10.0, -10.0)
        for mask in masks[:2]
    ]
    torch.testing.assert_close(rows, torch.cat([trajectory.clean_latents, *singles]), rtol=1e-3, atol=1e-3)
    assert (rows[1] - rows[0]).abs().max() > 0.1  # the comparison is not one of zeros


@torch.no_grad()
@pytest.mark.parametrize("injection", [True, False])
@pytest.mark.parametrize(
    "block", ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.2.attentions.0"]
)
def test_rows_part_at_any_layer(pipe, trajectory, masks, block, injection):
    """Everything before the modulated layer is computed once; the rows must come out as if nothing had been shared."""
    layer, predictor = f"{block}.transformer_blocks.0.attn2", pipe.predictor()
    maps = reference.stored_maps(predictor, trajectory, 41) if injection else dict.fromkeys(range(102), {})
    settings = modulated(layer, 41, attention_injection=injection)
    rows = modulated_latents(predictor, trajectory, signed_offsets(masks[:1], 10.0), settings)
    grid = pipe.backbone.grid(layer, *trajectory.clean_latents.shape[2:])
    mask = torch.nn.functional.interpolate(masks[None, :1].float(), size=grid, mode="nearest-exact")[0, 0]
    single = reference.modulated_latents(predictor, trajectory, maps, mask, 10.0, layer, 41)
    torch.testing.assert_close(rows[1:2], single, rtol=1e-3, atol=1e-3)


def test_chunks_and_lack_of_memory_change_nothing(pipe, trajectory, masks):
    expected, sizes = maps_of(pipe, trajectory, masks, chunk_size=1), []

    def decode(latents):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return pipe.decode(latents)

    for options in ({"chunk_size": 3}, {"chunk_size": 3, "decode": decode}):
        maps = maps_of(pipe, trajectory, masks, **options)
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)
    assert sizes[:2] == [3, 2] and set(sizes[2:]) == {1}


@torch.no_grad()
def test_fewer_steps_are_even_exact_and_scaled(pipe, trajectory):
    predictor, available = pipe.predictor(), trajectory.timesteps
    assert shortened(available, 101, None) == [101, 81, 61, 41, 21, 1] == shortened(available, 101, 9)
    assert shortened(available, 101, 1) == [101] and shortened(available, 101, 2) == [101, 61]
    long = list(range(481, 0, -20))
    assert all(len(set(shortened(long, 481, n))) == n for n in range(1, 26))  # as many as were asked for
    offsets = torch.zeros(1, 16, 16)
    rows = modulated_latents(predictor, trajectory, offsets, modulated(), timesteps=[101, 41])
    torch.testing.assert_close(rows, trajectory.clean_latents, rtol=1e-4, atol=1e-5)
    # x̂₀ right after the modulated step moves by λ' √(1−ᾱ)/√ᾱ, an ordinary step by λ |√(1−ᾱ'−σ²) − √ᾱ' √(1−ᾱ)/√ᾱ|
    a, p = (predictor.alpha_bar(t).item() for t in (101, 81))
    variance = (1 - p) / (1 - a) * (1 - a / p)
    ordinary = abs((1 - p - variance) ** 0.5 - (p * (1 - a) / a) ** 0.5)
    expected = 10 * ordinary / ((1 - a) / a) ** 0.5
    assert scaled_strength(predictor, 10.0, [101], "ddpm") == pytest.approx(expected)
    assert scaled_strength(predictor, 10.0, [101, 81], "ddpm") == pytest.approx(10.0)


@torch.no_grad()
def test_the_strength_of_shortened_runs_is_scaled(pipe, trajectory, masks):
    predictor, shortcuts = pipe.predictor(), {"denoising_steps": 2, "one_sided": True, "readout": "latents"}
    maps = maps_of(pipe, trajectory, masks, **shortcuts)
    visited = shortened(trajectory.timesteps, 101, 2)
    strength = scaled_strength(predictor, 10.0, visited, "ddpm")
    offsets = signed_offsets(masks, strength, one_sided=True)
    rows = modulated_latents(predictor, trajectory, offsets, modulated(), timesteps=visited)
    torch.testing.assert_close(maps, (rows[1:] - rows[:1]).norm(dim=1), rtol=1e-3, atol=1e-4)
    assert strength < 9  # the larger step moves further by itself


def test_one_sided_is_half_of_paired_where_responses_are_linear(pipe, trajectory, masks):
    paired = maps_of(pipe, trajectory, masks, modulation_strength=0.05)
    one_sided = maps_of(pipe, trajectory, masks, modulation_strength=0.05, one_sided=True)
    assert (2 * one_sided - paired).norm() / paired.norm() < 0.1


def test_guided_filter_is_the_regression_in_every_window():
    """Against ordinary least squares (numpy) window by window, averaged over the windows that hold a pixel."""
    rng = np.random.default_rng(0)
    guide, maps, radius, eps = rng.random((3, 9, 11)), rng.random((2, 9, 11)), 2, 1e-2
    fits, counts = np.zeros_like(maps), np.zeros((9, 11))
    for y, x in np.ndindex(9, 11):
        rows, cols = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
        colours = guide[:, rows, cols].reshape(3, -1)
        centred = colours - colours.mean(1, keepdims=True)
        normal = centred @ centred.T / centred.shape[1] + eps * np.eye(3)
        for k, one in enumerate(maps):
            values = one[rows, cols].ravel()
            slope = np.linalg.solve(normal, centred @ (values - values.mean()) / len(values))
            fits[k, rows, cols] += np.einsum("c,chw->hw", slope, guide[:, rows, cols])
            fits[k, rows, cols] += values.mean() - slope @ colours.mean(1)
        counts[rows, cols] += 1
    result = guided_filter(torch.from_numpy(maps), torch.from_numpy(guide), radius, eps)
    np.testing.assert_allclose(result, fits / counts, rtol=1e-4, atol=1e-5)


def test_refinement_is_gaussian_first_in_pixels_then_guided_in_cells():
    rng = np.random.default_rng(1)
    guide = torch.from_numpy(rng.random((3, 32, 48))).float()
    maps = torch.from_numpy(rng.random((2, 8, 12))).float()
    both = refine(maps, guide, 4.0, filter_sigma=2.0, guide_radius=1.5)
    large = torch.nn.functional.interpolate(maps[:, None], scale_factor=4, mode="bilinear")[:, 0]
    smooth = torch.from_numpy(gaussian_filter(large.numpy(), (0, 2.0, 2.0)))  # in pixels of the image
    torch.testing.assert_close(refine(maps, guide, 4.0, 2.0, 0.0), smooth)
    torch.testing.assert_close(both, guided_filter(smooth, guide, 6))
    torch.testing.assert_close(refine(maps, guide, 4.0, 0.0, 0.0), large)
    torch.testing.assert_close(refine(maps, guide, 4.0, 0.0, 0.01), guided_filter(large, guide, 1))


@pytest.mark.parametrize("max_bytes", [2**28, 500])
@pytest.mark.parametrize("kind", ["no mask", "boolean", "additive", "one row"])
def test_shared_attention_is_attention_in_blocks_too(monkeypatch, max_bytes, kind):
    monkeypatch.setattr("emerdiff_lib.interventions._MAX_BYTES", max_bytes)
    query, key, values = (torch.randn(n, 3, 10, 4, generator=seeded(i)) for i, n in enumerate((1, 1, 5)))
    mask = torch.randn(1, 1, 1 if kind == "one row" else 10, 10, generator=seeded())
    mask = None if kind == "no mask" else mask < 1 if kind == "boolean" else mask
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.repeat_interleave(5, 0) for x in (query, key)),
        values,
        None if mask is None else mask.repeat_interleave(5, 0),
        scale=0.3,
    )
    torch.testing.assert_close(shared_attention(query, key, values, 0.3, mask), expected)


def test_maps_that_are_not_finite_are_an_error_whatever_made_them_so(pipe, trajectory, masks):
    broken = lambda latents: pipe.decode(latents) * float("nan")
    with pytest.raises(ValueError, match="not finite at modulation_strength=10 in float32"):
        maps_of(pipe, trajectory, masks[:1], decode=broken)


def test_a_mask_smaller_than_a_cell_does_not_vanish():
    point = torch.zeros(2, 64, 64)
    point[0, 1, 2], point[1, :32] = -10.0, 3.0
    resized = resize_offsets(point, (16, 16)).unflatten(1, (16, 16))
    assert resized[0, 0, 0] == -10 and (resized[0] != 0).sum() == 1
    assert torch.equal(resized[1], torch.cat([torch.full((8, 16), 3.0), torch.zeros(8, 16)]))


@torch.no_grad()
def test_ddim_rows_follow_the_sampler_itself_with_its_error(pipe, scene, masks):
    trajectory = pipe.invert(scene.image, "ddim", start_timestep=101)
    rows = modulated_latents(pipe.predictor(), trajectory, signed_offsets(masks[:1], 10.0), modulated())
    torch.testing.assert_close(rows[:1], pipe.replay(trajectory), rtol=1e-4, atol=1e-4)
    assert (rows[0] - trajectory.clean_latents[0]).norm() > 1e-3 * trajectory.clean_latents.norm()
