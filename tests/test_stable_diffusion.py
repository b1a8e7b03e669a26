"""The path of a user with Stable Diffusion 1.x on disk: the published architecture, random weights, a diffusers folder."""

import json

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.attention import attention_layers, layer_grid
from emerdiff_lib.benchmark import reference
from emerdiff_lib.benchmark.stable_diffusion import SCHEDULER, networks
from emerdiff_lib.features import extract_queries
from emerdiff_lib.modulation import modulated_latents, signed_offsets
from emerdiff_lib.settings import Perturbation

from .conftest import seeded

TEXT = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
BLOCK = "up_blocks.1.attentions.{}.transformer_blocks.0.attn2"


def tokenizer(folder):
    """CLIP's tokenizer with its special tokens at their places; the words between them are placeholders."""
    folder.mkdir()
    vocabulary = {f"placeholder{i}</w>": i for i in range(49406)} | {
        "<|startoftext|>": 49406,
        "<|endoftext|>": 49407,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A diffusers folder of the true architecture with random weights, in bfloat16 to spare the disk."""
    path = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    unet, vae = networks(torch.bfloat16)
    text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT)).to(torch.bfloat16)
    parts = dict(vae=vae, unet=unet, text_encoder=text_encoder)
    StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer(path / "words"),
        scheduler=PNDMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path / "model")
    return path / "model"


@pytest.fixture(scope="module")
def sd(folder):
    pipeline = EmerDiffPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PICTURE = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
SMALL = dict(processing_resolution=90)  # 64 × 128 pixels: two by four cells at the deepest level


def test_layers_are_where_the_paper_says(sd):
    cross = sd.backbone.layers()
    assert len(cross) == 16 and len(attention_layers(sd.unet)) == 32
    assert [sd.backbone.grid(BLOCK.format(i), 64, 64) for i in range(3)] == [(16, 16)] * 3
    queries = extract_queries(sd.denoiser(), torch.randn(1, 4, 8, 16, generator=seeded()), 1, cross)
    assert all(q.shape[:2] == sd.backbone.grid(name, 8, 16) for name, q in queries.items())
    assert queries[BLOCK.format(0)].shape == (2, 4, 1280)


def test_reconstruction_is_exact(sd):
    trajectory = sd.invert(PICTURE, start_timestep=81, generator=seeded(), **SMALL)
    assert trajectory.clean_latents.shape == (1, 4, 8, 16)
    assert (sd.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm() < 1e-5


@torch.no_grad()
def test_injection_equals_the_reference(sd):
    trajectory = sd.invert(PICTURE, start_timestep=41, generator=seeded(), **SMALL)
    predictor, mask = sd.denoiser(), torch.zeros(2, 4, dtype=torch.bool)
    mask[:, :2] = True
    perturbation = Perturbation(BLOCK.format(2), 41)
    rows = modulated_latents(predictor, [trajectory], signed_offsets(mask[None], 10.0), perturbation)
    maps = reference.stored_maps(predictor, trajectory, 41)
    single = reference.modulated_latents(predictor, trajectory, maps, mask, 10.0, BLOCK.format(2), 41)
    torch.testing.assert_close(rows[1:2], single, rtol=1e-3, atol=1e-3)
    assert (rows[1] - rows[0]).abs().max() > 1e-3


def test_defaults_are_the_papers_and_the_picture_is_segmented(sd):
    output = sd(PICTURE, num_masks=2, modulation_timestep=21, generator=seeded(), **SMALL)
    assert output.labels.shape == (64, 128) and output.coarse_masks.shape == (2, 2, 4)
    expected = dict(
        feature_layer=BLOCK.format(0),
        modulation_layer=BLOCK.format(2),
        feature_timestep=1,
        modulation_strength=10.0,
        num_inference_steps=50,
    )
    assert expected.items() <= output.settings.items()


@pytest.mark.slow
def test_a_photograph_at_full_size_in_bfloat16(folder):
    """512 × 512, one real photograph, every stage, within 24 GiB."""
    import resource

    from sklearn.datasets import load_sample_image

    pipeline = EmerDiffPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    photograph = load_sample_image("china.jpg")
    output = pipeline(
        photograph[:, :427],
        num_masks=2,
        num_inference_steps=10,
        modulation_timestep=201,
        generator=seeded(),
        output_difference_maps=True,
    )
    assert output.settings["processing_size"] == [512, 512] and output.coarse_masks.shape == (2, 16, 16)
    assert output.labels.shape == (427, 427) and output.mask_embeddings.shape == (2, 1280)
    assert np.isfinite(output.difference_maps).all() and output.difference_maps.max() > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 24 * 2**30
