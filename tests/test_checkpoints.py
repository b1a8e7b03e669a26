"""Checkpoints: their own defaults, their families by layout, and weights that are read whole or refused."""

import copy
import json
import shutil
import warnings

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from emerdiff_lib import EmerDiffPipeline, load_pipeline
from emerdiff_lib.attention import attention_layers, layer_grid
from emerdiff_lib.loading import TOYSCAPES_FOLDER, check_networks, family_of, resolve

from . import tiny_stable_diffusion
from .conftest import seeded

SD = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    norm_num_groups=8,
    block_out_channels=(8, 8, 16, 16),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=768,
)
CROSS_ATTENTION = "up_blocks.{}.attentions.{}.transformer_blocks.0.attn2".format


def unet_of(**options):
    """A U-Net without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**(SD | options))


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(TOYSCAPES_FOLDER, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def flow():
    return load_pipeline("toyscapes-transformer")


# -- defaults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [("toyscapes", "Toyscapes"), ("toyscapes-transformer", "Toyscapes, transformer")],
)
def test_bundled_checkpoints_carry_their_family_s_defaults(model, name):
    pipe = load_pipeline(model)
    family = family_of(pipe.denoiser.config)
    assert family.name == name
    assert pipe.config.default_settings == family.defaults(pipe.predictor, pipe.vae_scale_factor)
    assert pipe.config.default_settings.items() <= pipe.default_settings().items()


def test_a_checkpoints_own_defaults_win_and_are_saved_with_it(pipe, scene, tmp_path):
    own = {"num_masks": 5, "modulation_timestep": 41, "modulation_strength": 7.0}
    components = {name: part for name, part in pipe.components.items() if part is not None}
    EmerDiffPipeline(**components, default_settings=own).save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert own.items() <= again.default_settings().items()
    assert again.default_settings()["feature_timestep"] == 281  # from the family
    quick = dict(generator=seeded(), noise_ensemble_size=1)
    assert own.items() <= again(scene.image, **quick).settings.items()
    assert again(scene.image, 2, **quick).settings["num_masks"] == 2  # the call over both
    exact = again.modulate(again.cluster(scene.image, mode="fast", **quick), mode="exact")
    assert exact.settings == again.resolve(noise_ensemble_size=1)


@pytest.mark.parametrize("own", [{}, {"modulation_strength": 7.0, "guide_radius": 1.5}, {"mode": "fast"}])
def test_exact_mode_sets_nothing(pipe, own):
    """It is a plain call's, unless the checkpoint's own mode is another."""
    network, layers = (pipe.predictor, pipe.vae_scale_factor), pipe.config.default_settings
    exact = resolve(*network, layers | own, mode="exact")
    plain = {name: value for name, value in own.items() if name != "mode"}
    assert exact == resolve(*network, layers | plain) and exact.shortcuts.denoising_steps is None
    assert resolve(*network, layers | own).mode == own.get("mode", "exact")


def test_default_settings_are_checked(pipe):
    with pytest.raises(ValueError, match="did you mean 'num_masks'"):
        EmerDiffPipeline(**pipe.components, default_settings={"num_mask": 5})


TINY_SD = dict(  # three levels, no middle
    layers_per_block=1,
    block_out_channels=(8, 8, 16),
    down_block_types=("CrossAttnDownBlock2D",) * 3,
    up_block_types=("CrossAttnUpBlock2D",) * 3,
    mid_block_type=None,
)


@pytest.mark.parametrize(
    ("options", "block", "last"),
    [
        (dict(), 1, 2),  # Stable Diffusion 1.x, thin
        (dict(layers_per_block=1), 1, 1),  # distilled: small-sd
        (TINY_SD, 0, 1),
        (dict(cross_attention_dim=32, sample_size=16), 1, 2),
    ],
)
def test_families_are_recognised_by_layout_whatever_the_widths(options, block, last):
    unet = unet_of(**options)
    settings = resolve(unet, 8)
    assert family_of(unet.config).name == "Stable Diffusion 1.x"
    assert settings.features.feature_layer == CROSS_ATTENTION(block, 0)
    assert settings.perturbation.modulation_layer == CROSS_ATTENTION(block, last)
    assert settings.inversion.processing_resolution == 8 * unet.config.sample_size
    assert (settings.features.num_masks, settings.perturbation.modulation_timestep) == (30, 281)


def test_a_transformer_of_full_size_is_recognised():
    """Stable Diffusion 3.5 medium: a grid of 64 × 64 for a megapixel, self-attention besides is no layer to choose."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128,
            in_channels=16,
            out_channels=16,
            num_layers=24,
            num_attention_heads=24,
            attention_head_dim=64,
            joint_attention_dim=4096,
            caption_projection_dim=1536,
            pooled_projection_dim=2048,
            pos_embed_max_size=384,
            qk_norm="rms_norm",
            dual_attention_layers=tuple(range(13)),
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(2243, rel=0.01)
    settings = resolve(model, 8)
    assert family_of(model.config).name == "Stable Diffusion 3"
    assert settings.features.feature_layer == "transformer_blocks.12.attn"
    assert settings.perturbation.modulation_layer == "transformer_blocks.23.attn"
    assert settings.inversion.processing_resolution == 1024
    layers = attention_layers(model, "attn2")
    assert layers == [f"transformer_blocks.{i}.attn" for i in range(24)]
    assert len(attention_layers(model, "attn1")) == 24 + 13
    assert layer_grid(model, layers[0], 128, 96) == (64, 48)


def test_an_unknown_unet_gets_the_block_whose_grid_is_nearest_to_the_paper_s(pipe):
    """Five levels with attention on 16 × 16 and 8 × 8 of a 64 × 64 grid: 16 × 16 is level 2, the third block upwards."""
    options = dict(
        block_out_channels=(8, 8, 8, 8, 8),
        down_block_types=("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2,
        in_channels=8,
        out_channels=8,
        cross_attention_dim=pipe.denoiser.config.cross_attention_dim,
    )
    components = pipe.components | {"unet": UNet2DConditionModel(**(SD | options))}
    feature, modulation = CROSS_ATTENTION(2, 0), CROSS_ATTENTION(2, 2)
    with pytest.warns(UserWarning, match=f"no family .* Queries are taken from {feature}, and {modulation}"):
        guessed = EmerDiffPipeline(**components)
    settings = guessed.resolve()
    assert settings.features.feature_layer == feature
    assert settings.perturbation.modulation_layer == modulation
    assert settings.features.num_masks == 30 and settings.inversion.processing_resolution == 4 * 64
    with warnings.catch_warnings():  # layers of one's own need no warning
        warnings.simplefilter("error", UserWarning)
        layers = {"feature_layer": feature, "modulation_layer": feature}
        EmerDiffPipeline(**components, default_settings=layers)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (dict(up_block_types=("UpBlock2D",) * 4), "num_masks, feature_layer, .*modulation_layer"),
        (dict(sample_size=None), "processing_resolution"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(options, missing):
    with pytest.raises(ValueError, match=f"{missing} yourself"):
        resolve(unet_of(**options), 8)


# -- networks that do not belong together ----------------------------------------------------------------------------

SIZES = dict(
    addition_embed_type="text_time", projection_class_embeddings_input_dim=8, addition_time_embed_dim=1
)
TEXT = dict(addition_embed_type="text", addition_embed_type_num_heads=8)


@pytest.mark.parametrize(
    ("options", "vae", "encoders", "message"),
    [
        (TEXT, "a VAE", ("CLIP", None), r"conditioned on what .*\(addition_embed_type='text'\)"),
        (dict(num_class_embeds=10), "a VAE", ("CLIP", None), r"\(num_class_embeds=10\)"),
        (dict(in_channels=9), "a VAE", ("CLIP", None), "takes 9 channels and gives 4 .*text-to-image"),
        (SIZES, "a VAE", ("CLIP", None), "A VAE or text encoder is missing"),
        (dict(), "a VAE", ("CLIP", "another"), "does not belong to this network"),
        (dict(), "a VAE", (None, None), "A VAE or text encoder is missing"),
        (dict(), None, ("CLIP", None), "A VAE or text encoder is missing"),
    ],
)
def test_conditions_that_cannot_be_met_are_named(options, vae, encoders, message):
    with pytest.raises(ValueError, match=message):
        check_networks(UNet2DConditionModel(**(SD | options)), vae, *encoders)


def test_text_encoders_of_a_transformer_are_checked(pipe, flow):
    with pytest.raises(ValueError, match="Stable Diffusion XL and 3 have two text encoders"):
        EmerDiffPipeline(**(flow.components | {"text_encoder": pipe.text_encoder}))


def test_noise_of_another_kind_is_refused(pipe, flow):
    for model, scheduler, message in (
        (pipe, EDMEulerScheduler(), "neither DDPM's nor a flow's, and this network needs DDPM's"),
        (pipe, FlowMatchEulerDiscreteScheduler(), "is a flow's, and this network needs DDPM's"),
        (flow, pipe.scheduler, "is DDPM's, and this network needs a flow's"),
        (flow, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "shifts its noise by the image's"),
    ):
        with pytest.raises(ValueError, match=message):
            EmerDiffPipeline(**(model.components | {"scheduler": scheduler}))


# -- reading --------------------------------------------------------------------------------------------------------


def test_missing_models_say_how_to_get_one(tmp_path):
    for name in (tmp_path / "nowhere", "nobody/no-such-model", "nowhere"):
        with pytest.raises(FileNotFoundError, match="hf download"):
            EmerDiffPipeline.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        EmerDiffPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["text_encoder/model", "unet/diffusion_pytorch_model"])
def test_incomplete_weights_are_refused(folder, name):
    file, part = folder / f"{name}.safetensors", name.split("/")[0]
    complete, weights = file.read_bytes(), load_file(file)
    save_file(dict(sorted(weights.items())[3:]), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"The {part} of .* is short of 3 tensors"):
        EmerDiffPipeline.from_pretrained(folder)
    for length in (0, 1000):
        file.write_bytes(complete[:length])
        with pytest.raises(
            ValueError, match=f"The {part} of .* cannot be read .*download the folder {part}/"
        ):
            EmerDiffPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "lacks vae"),
        (dict(unet=[None, None]), "lacks unet"),
        (
            dict(unet=[None, None], transformer=["diffusers", "FluxTransformer2DModel"]),
            "takes its unet from diffusers.FluxTransformer2DModel, which is not run",
        ),
    ],
)
def test_other_pipelines_are_refused_in_one_sentence(folder, index, message):
    file = folder / "model_index.json"
    file.write_text(index if isinstance(index, str) else json.dumps(json.loads(file.read_text()) | index))
    with pytest.raises(ValueError, match=message):
        EmerDiffPipeline.from_pretrained(folder)


def test_components_of_one_s_own_are_taken(pipe):
    parts = {name: getattr(pipe, name) for name in ("vae", "tokenizer", "text_encoder", "unet")}
    again = EmerDiffPipeline.from_pretrained("toyscapes", **parts)
    assert all(getattr(again, name) is part for name, part in parts.items())


def test_half_precision_stays_but_for_the_autoencoder_that_overflows(tmp_path):
    assert load_pipeline(dtype="float16").vae.dtype == torch.float16
    pipe = load_pipeline(tiny_stable_diffusion.save(tmp_path / "XL", 16, layout="XL"), "cpu", "float16")
    assert (pipe.vae.dtype, pipe.denoiser.dtype) == (torch.float32, torch.float16)


def test_latents_with_statistics_of_their_own_come_back(pipe, scene):
    """Mean and deviation by channel, as some variants of Stable Diffusion XL have them: other numbers, the same image."""
    plain = pipe.encode(scene.image)
    mean, deviation = [0.1 * c for c in range(8)], [1.0 + 0.1 * c for c in range(8)]
    vae = copy.deepcopy(pipe.vae)
    vae.register_to_config(latents_mean=mean, latents_std=deviation)
    other = EmerDiffPipeline(**(pipe.components | {"vae": vae}))
    mean, deviation = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, deviation))
    expected = (plain - mean * pipe.vae.config.scaling_factor) / deviation
    torch.testing.assert_close(other.encode(scene.image), expected)
    torch.testing.assert_close(other.decode(expected), pipe.decode(plain))


def test_device_and_dtype_are_one_clear_sentence():
    with pytest.raises(ValueError, match="dtype='fp16' is unknown.*; choose one of 'float32', 'bfloat16'"):
        load_pipeline(dtype="fp16")
    for device in ("nonsense", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
            load_pipeline(device=device)


@pytest.mark.parametrize("switch", [logging.disable_progress_bar, logging.enable_progress_bar])
def test_what_the_user_turned_on_or_off_stays_so(switch):
    before = logging.is_progress_bar_enabled()
    try:
        switch()
        wanted = logging.is_progress_bar_enabled()
        load_pipeline()
        assert logging.is_progress_bar_enabled() == wanted
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
