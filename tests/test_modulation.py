"""Lockstep modulation against the brute-force implementation, and what must never change."""

import pytest
import torch

from emerdiff_lib.attention import LockstepAttention, attention_layers, layer_grid, lockstep
from emerdiff_lib.modulation import difference_maps, modulated_latents, signed_offsets

from . import brute_force

LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def masks():
    columns = torch.arange(16)[None].expand(16, 16)
    return torch.stack([columns < 5, (columns >= 5) & (columns < 12), columns >= 12])


def maps_of(pipe, trajectory, masks, **options):
    options = dict(layer=LAYER, timestep=101, strength=10.0) | options
    with torch.no_grad():
        return difference_maps(pipe.denoiser(), pipe.decode, trajectory, masks, **options)


@pytest.mark.parametrize("injection", [True, False])
@pytest.mark.parametrize("placement", ["after_projection", "before_projection"])
@torch.no_grad()
def test_lockstep_equals_brute_force(pipe, trajectory, masks, injection, placement):
    denoiser = pipe.denoiser()
    rows = modulated_latents(denoiser, trajectory, signed_offsets(masks[:2], 10.0), LAYER, 101, injection, placement)
    singles = [trajectory.clean_latents]
    for strength in (10.0, -10.0):
        for mask in masks[:2]:
            singles.append(
                brute_force.modulated_latents(denoiser, trajectory, mask, strength, LAYER, 101, injection, placement)
            )
    torch.testing.assert_close(rows, torch.cat(singles), rtol=1e-3, atol=1e-3)
    assert (rows[1] - rows[0]).abs().max() > 0.1  # the comparison is not one of zeros


@torch.no_grad()
def test_injection_and_placement_matter(pipe, trajectory, masks):
    offsets = signed_offsets(masks[:1], 10.0)
    default, free, before = (
        modulated_latents(pipe.denoiser(), trajectory, offsets, LAYER, 101, injection, placement)
        for injection, placement in (
            (True, "after_projection"),
            (False, "after_projection"),
            (True, "before_projection"),
        )
    )
    assert (default - free)[1:].abs().max() > 1e-3 and (default - before)[1:].abs().max() > 1e-3
    torch.testing.assert_close(default[0], free[0], rtol=1e-4, atol=1e-4)  # the unmodulated row never changes


def test_no_modulation_makes_no_difference(pipe, trajectory, masks):
    assert maps_of(pipe, trajectory, masks, strength=0.0).abs().max() < 1e-5  # rounding of the batch's rows


def test_offsets_of_a_coarser_grid_are_resized(pipe, trajectory, masks):
    coarse = masks[:, ::2, ::2]
    expected = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(maps_of(pipe, trajectory, coarse), maps_of(pipe, trajectory, expected))


def test_chunks_do_not_change_labels_or_order(pipe, trajectory, masks):
    whole, single = (maps_of(pipe, trajectory, masks, chunk_size=size) for size in (3, 1))
    torch.testing.assert_close(whole, single, rtol=1e-3, atol=1e-4)
    assert (whole.argmax(0) == single.argmax(0)).float().mean() > 0.9999


def test_out_of_memory_halves_the_chunk_and_loses_nothing(pipe, trajectory, masks):
    expected, sizes = maps_of(pipe, trajectory, masks, chunk_size=1), []

    def decode(latents):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return pipe.decode(latents)

    with torch.no_grad():
        maps = difference_maps(pipe.denoiser(), decode, trajectory, masks, LAYER, 101, 10.0, chunk_size=3)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)
    assert sizes[:2] == [3, 2] and set(sizes[2:]) == {1}


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()])
def test_processors_are_restored_whatever_happens(pipe, trajectory, masks, error):
    before = dict(pipe.unet.attn_processors)

    def decode(latents):
        if error is not None:
            raise error
        return pipe.decode(latents)

    def run():
        with torch.no_grad():
            difference_maps(pipe.denoiser(), decode, trajectory, masks[:1], LAYER, 101, 10.0)

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
        with pytest.raises(type(error)), lockstep(pipe.unet, injection=True):
            assert all(isinstance(p, LockstepAttention) for p in pipe.unet.attn_processors.values())
            raise error
    after = pipe.unet.attn_processors
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)


def test_layers_are_listed_in_forward_order_with_their_grids(pipe):
    names = attention_layers(pipe.unet, "attn2")
    assert names[0].startswith("down_blocks.1") and names[-1] == LAYER
    assert [layer_grid(pipe.unet, name, 32, 48) for name in names][-3:] == [(8, 12), (16, 24), (16, 24)]


@torch.no_grad()
def test_lockstep_without_modulation_is_the_network_itself(pipe, trajectory):
    latents, denoiser = torch.cat([trajectory.latents[t] for t in (101, 101)]), pipe.denoiser()
    plain = denoiser.unet_output(latents, 101)
    with lockstep(pipe.unet, injection=True):
        torch.testing.assert_close(denoiser.unet_output(latents, 101), plain, rtol=1e-4, atol=1e-4)
