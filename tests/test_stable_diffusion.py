"""The published layout of Stable Diffusion 1.x, random weights, a diffusers folder; and U-Nets that are none of the known."""

import warnings

import pytest
import torch
from diffusers import UNet2DConditionModel

from emerdiff_lib import EmerDiffPipeline, load_pipeline
from emerdiff_lib.benchmark import stable_diffusion

BLOCK = "up_blocks.1.attentions.{}.transformer_blocks.0.attn2"


def test_defaults_are_the_papers():
    """At the published size, on the meta device."""
    pipe = stable_diffusion.pipeline(torch.bfloat16, "meta")
    assert pipe.backbone.encoder_module() == "down_blocks.2.resnets.0"
    settings = pipe.default_settings()
    expected = {
        "feature_layer": BLOCK.format(0),
        "modulation_layer": BLOCK.format(2),
        "num_masks": 30,
        "feature_timestep": 1,
        "modulation_timestep": 281,
        "modulation_strength": 10.0,
        "num_inference_steps": 50,
        "processing_resolution": 512,
    }
    assert expected.items() <= settings.items()


def unet(**options):
    widths = {"block_out_channels": (8,) * 5, "norm_num_groups": 8, "in_channels": 8, "out_channels": 8}
    kinds = {
        "down_block_types": ("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2,
    }
    return UNet2DConditionModel(**({"sample_size": 64, "cross_attention_dim": 64} | widths | kinds | options))


def test_an_unknown_unet_gets_the_block_whose_grid_is_nearest_to_the_paper_s(pipe):
    """Five levels with attention on 16 × 16 and 8 × 8 of a 64 × 64 grid: 16 × 16 is level 2, the third block upwards."""
    strange = with_parts(pipe, unet=unet())
    feature, modulation = (f"up_blocks.2.attentions.{i}.transformer_blocks.0.attn2" for i in (0, 2))
    with pytest.warns(UserWarning, match=f"no family .* Queries are taken from {feature}, and {modulation}"):
        settings = EmerDiffPipeline.from_pipe(strange).resolve()
    layers = settings.feature_layer, settings.modulation_layer
    assert layers == (feature, modulation)
    assert settings.num_masks == 30 and settings.processing_resolution == 4 * 64
    with warnings.catch_warnings():  # layers of one's own need no warning
        warnings.simplefilter("error", UserWarning)
        EmerDiffPipeline.from_pipe(strange, feature_layer=feature, modulation_layer=feature)


NO_ATTENTION = {"down_block_types": ("DownBlock2D",) * 5, "up_block_types": ("UpBlock2D",) * 5}


@pytest.mark.filterwarnings("ignore:This U-Net is of no family")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NO_ATTENTION | {"mid_block_type": None}, "has no cross-attention, of which EmerDiff is made"),
        ({"sample_size": None}, "pass processing_resolution yourself"),
        ({"in_channels": 17}, "takes 17 channels and gives 8 .*text-to-image"),
        ({"num_class_embeds": 10}, "is of no family that EmerDiff knows"),
        ({"addition_embed_type": "text", "addition_embed_type_num_heads": 8}, "is of no family that"),
    ],
)
def test_networks_that_cannot_be_used_are_named(pipe, options, message):
    strange = with_parts(pipe, unet=unet(**options))
    with pytest.raises(ValueError, match=message):
        EmerDiffPipeline.from_pipe(strange).resolve()


def with_parts(pipe, **parts):
    return type(pipe.pipe)(**(pipe.components | parts), requires_safety_checker=False)


def test_latents_with_statistics_of_their_own_come_back(pipe, scene):
    """Mean and deviation by channel, as some variants of Stable Diffusion XL have them: other numbers, the same image."""
    plain = pipe.encode(scene.image)
    other = load_pipeline()
    mean, deviation = [0.1 * c for c in range(8)], [1.0 + 0.1 * c for c in range(8)]
    other.vae.register_to_config(latents_mean=mean, latents_std=deviation)
    mean, deviation = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, deviation))
    expected = (plain - mean * pipe.vae.config.scaling_factor) / deviation
    torch.testing.assert_close(other.encode(scene.image), expected)
    torch.testing.assert_close(other.decode(expected), pipe.decode(plain))
