"""The studies behind notebooks 02 and 03: each against something that does not use their code."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from emerdiff_lib import words
from emerdiff_lib.backbones import TextTokens
from emerdiff_lib.evaluation.regions import cell_shares, find_regions
from emerdiff_lib.interventions import hooked

from . import tiny_stable_diffusion
from .conftest import run_cells, seeded

LAYER = "up_blocks.2.attentions.0.transformer_blocks.0.attn2"


@torch.no_grad()
def test_word_attention_is_the_softmax_of_the_layers_queries_and_keys(pipe, scene):
    predictor = pipe.predictor(prompt="a picture of a road")
    noisy = torch.randn(2, 8, 32, 32, generator=seeded())
    module, seen = pipe.denoiser.get_submodule(LAYER), {}
    keep = lambda name: lambda module, inputs, output: seen.update({name: output})
    with hooked([getattr(module, name).register_forward_hook(keep(name)) for name in ("to_q", "to_k")]):
        found = words.word_attention(predictor, noisy, 281, [LAYER])[LAYER]
    expected, depth = np.zeros((256, seen["to_k"].shape[1])), seen["to_q"].shape[-1] // module.heads
    for row in range(2):
        for head in range(module.heads):
            part = slice(head * depth, (head + 1) * depth)
            scores = (seen["to_q"][row, :, part] @ seen["to_k"][row, :, part].T).double().numpy() / depth**0.5
            weights = np.exp(scores - scores.max(1, keepdims=True))
            expected += weights / weights.sum(1, keepdims=True) / (2 * module.heads)
    np.testing.assert_allclose(found.flatten(0, 1), expected, atol=1e-6)


def test_words_are_found_in_prompts(pipe, tmp_path):
    assert words.word_positions(pipe, "a picture of a road and a road", "road") == [5, 8]
    clip = tiny_stable_diffusion.tokenizer(tmp_path)
    backbone = SimpleNamespace(text_tokens=lambda prompt: [TextTokens(clip, prompt, 77)])
    # a word of its vocabulary, one in pieces, none
    for word, pieces in (("road", 1), ("zebra", 5), ("cat", 0)):
        where = words.word_positions(SimpleNamespace(backbone=backbone), "a zebra on a road", word)
        tokens = clip.convert_ids_to_tokens([clip("a zebra on a road").input_ids[i] for i in where])
        assert len(where) == pieces and "".join(tokens).replace("</w>", "") == (word if pieces else "")
    # Qwen's and Gemma's make the blank a part of the word behind it; a pipeline says something before the prompt
    split = lambda text, **_: SimpleNamespace(input_ids=re.findall(" ?[^ ]+", text))
    backbone = SimpleNamespace(text_tokens=lambda prompt: [TextTokens(split, f"a road is {prompt}", 77)])
    assert sorted(words.word_positions(SimpleNamespace(backbone=backbone), "road and road", "road")) == [3, 5]


@pytest.fixture(scope="module")
def cells_of_03():
    given = {"seed": 0, "np": np, "torch": torch, "distance_transform_edt": distance_transform_edt}
    return run_cells("03_difference_maps", given, "def enlarge", "def responses_to", "def competing_regions")


def test_competing_regions_hold_every_cell(cells_of_03, scene):
    regions = cells_of_03["competing_regions"](scene.coarse_labels, (16, 16))
    shares = np.stack([cell_shares(region.mask, (16, 16)) for region in regions])
    assert set(shares.argmax(0).ravel()) == set(range(len(regions)))
    assert not (np.stack([region.mask for region in regions]).sum(0) > 1).any()


def test_responses_to_cells_are_the_pipelines_difference_maps(pipe, cells_of_03, scene):
    region = find_regions(scene.coarse_labels, 0.015, 0.2)[0]
    cells = cells_of_03["inner_cells"](region.mask, (16, 16))[None]
    trajectory = cells_of_03["inverted"](pipe, scene.image, [41])
    assert cells_of_03["grid_of"](pipe, trajectory) == (16, 16)
    settings = {"modulation_timestep": 41, "modulation_strength": 10.0}
    (response,) = cells_of_03["responses_to"](pipe, trajectory, cells, **settings)
    settings |= {"trajectory": trajectory, "output_difference_maps": True}
    out = pipe(scene.image, coarse_masks=cells, **settings)
    np.testing.assert_allclose(response, out.difference_maps[0], atol=1e-6)
    assert response[region.mask].mean() > 3 * response.mean()
