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
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

from emerdiff_lib import EmerDiffPipeline, load_pipeline
from emerdiff_lib.attention import attention_layers, layer_grid
from emerdiff_lib.checkpoints import FAMILIES, TOYSCAPES_FOLDER, check_networks, family_of, resolve

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


def config_of(**options):
    """A U-Net's full config, without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**(SD | options)).config


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(TOYSCAPES_FOLDER, tmp_path / "model")
    return tmp_path / "model"


# -- defaults -----------------------------------------------------------------------------------------------------


def test_the_bundled_checkpoint_carries_its_own_defaults_which_are_its_familys(pipe):
    own = json.loads((TOYSCAPES_FOLDER / "model_index.json").read_text())["default_settings"]
    family = family_of(pipe.unet.config)
    assert family.name == "Toyscapes" and own == family.defaults(pipe.unet.config, pipe.vae_scale_factor)
    assert (
        own["modulation_layer"]
        == own["feature_layer"]
        == "up_blocks.2.attentions.0.transformer_blocks.0.attn2"
    )
    assert own.items() <= pipe.default_settings().items()


def test_a_checkpoints_own_defaults_win_and_are_saved_with_it(pipe, scene, tmp_path):
    components = {name: part for name, part in pipe.components.items() if part is not None}
    own = EmerDiffPipeline(**components, default_settings={"num_masks": 5, "modulation_timestep": 41})
    own.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    defaults = again.default_settings()
    assert defaults["num_masks"] == 5 and defaults["modulation_timestep"] == 41
    assert defaults["feature_timestep"] == 281  # from the family
    output = again(scene.image, generator=seeded(), noise_ensemble_size=1)
    assert output.settings["num_masks"] == 5 and output.settings["modulation_timestep"] == 41
    assert again(scene.image, 2, noise_ensemble_size=1).settings["num_masks"] == 2  # the call over both


def test_default_settings_are_checked(pipe):
    with pytest.raises(ValueError, match="did you mean 'num_masks'"):
        EmerDiffPipeline(**pipe.components, default_settings={"num_mask": 5})


@pytest.mark.parametrize(
    ("options", "block", "last"),
    [
        (dict(), 1, 2),  # Stable Diffusion 1.x, thin
        (dict(layers_per_block=1), 1, 1),  # distilled: small-sd
        (
            dict(
                layers_per_block=1,
                block_out_channels=(8, 8, 16),
                down_block_types=("CrossAttnDownBlock2D",) * 3,
                up_block_types=("CrossAttnUpBlock2D",) * 3,
                mid_block_type=None,
            ),
            0,
            1,
        ),  # tiny-sd: three levels, no middle
        (dict(cross_attention_dim=32, sample_size=16), 1, 2),
    ],
)
def test_families_are_recognised_by_layout_whatever_the_widths(options, block, last):
    config = config_of(**options)
    settings = resolve(config, 8, None)
    attention = "up_blocks.{}.attentions.{}.transformer_blocks.0.attn2"
    assert family_of(config).name == "Stable Diffusion 1.x"
    assert settings.features.feature_layer == attention.format(block, 0)
    assert settings.perturbation.modulation_layer == attention.format(block, last)
    assert settings.inversion.processing_resolution == 8 * config.sample_size
    assert (settings.features.num_masks, settings.perturbation.modulation_timestep) == (30, 281)


@pytest.mark.parametrize(
    ("options", "million", "read", "pushed"),
    [
        (dict(num_layers=24, pos_embed_max_size=192), 2028, 12, 23),  # Stable Diffusion 3 medium
        (
            dict(
                num_layers=24,
                pos_embed_max_size=384,
                qk_norm="rms_norm",
                dual_attention_layers=tuple(range(13)),
            ),
            2243,
            12,
            23,
        ),  # 3.5 medium
        (
            dict(
                num_layers=38,
                num_attention_heads=38,
                caption_projection_dim=2432,
                pos_embed_max_size=192,
                qk_norm="rms_norm",
            ),
            8057,
            19,
            37,
        ),  # 3.5 large
    ],
)
def test_transformers_of_full_size_are_recognised(options, million, read, pushed):
    """As published, on the meta device: a grid of 64 × 64 for a megapixel, self-attention besides is no layer to choose."""
    usual = dict(
        sample_size=128,
        in_channels=16,
        out_channels=16,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
    )
    with torch.device("meta"):
        model = SD3Transformer2DModel(**(usual | options))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, rel=0.01)
    settings = resolve(model.config, 8, None)
    assert family_of(model.config).name == "Stable Diffusion 3"
    assert settings.features.feature_layer == f"transformer_blocks.{read}.attn"
    assert settings.perturbation.modulation_layer == f"transformer_blocks.{pushed}.attn"
    assert settings.inversion.processing_resolution == 1024
    layers = attention_layers(model, "attn2")
    assert layers == [f"transformer_blocks.{i}.attn" for i in range(model.config.num_layers)]
    dual = len(model.config.dual_attention_layers)
    assert len(attention_layers(model, "attn1")) == model.config.num_layers + dual
    assert layer_grid(model, layers[0], 128, 96) == (64, 48)


def test_the_small_transformer_carries_its_family_s_defaults():
    pipe = load_pipeline("toyscapes-transformer")
    family = family_of(pipe.unet.config)
    assert family.name == "Toyscapes, transformer"
    assert pipe.config.default_settings == family.defaults(pipe.unet.config, pipe.vae_scale_factor)


def test_an_unknown_unet_gets_the_block_whose_grid_is_nearest_to_the_paper_s(pipe):
    """Five levels with attention on 16 × 16 and 8 × 8 of a 64 × 64 grid: 16 × 16 is level 2, the third block upwards."""
    config = SD | dict(
        block_out_channels=(8, 8, 8, 8, 8),
        down_block_types=("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2,
        sample_size=64,
        in_channels=8,
        out_channels=8,
        cross_attention_dim=pipe.unet.config.cross_attention_dim,
    )
    unet = UNet2DConditionModel(**config)
    assert family_of(unet.config) is None and len({family.name for family in FAMILIES}) == len(FAMILIES)
    with pytest.warns(UserWarning) as said:
        found = EmerDiffPipeline(**(pipe.components | {"unet": unet}))
    settings = found.resolve()
    assert settings.features.feature_layer == "up_blocks.2.attentions.0.transformer_blocks.0.attn2"
    assert settings.perturbation.modulation_layer == "up_blocks.2.attentions.2.transformer_blocks.0.attn2"
    assert settings.features.num_masks == 30 and settings.inversion.processing_resolution == 4 * 64
    (message,) = [str(one.message) for one in said if "no family that is known" in str(one.message)]
    assert "level 3 (3 in up_blocks.1), level 2 (3 in up_blocks.2)" in message
    assert f"Queries are taken from {settings.features.feature_layer}, and" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(up_block_types=("UpBlock2D",) * 4),
            "has no cross-attention on its way up, .* pass num_masks, feature_layer, ",
        ),
        (dict(sample_size=None), "at which size it was trained, .* pass processing_resolution yourself"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(options, message):
    with pytest.raises(ValueError, match=message):
        resolve(config_of(**options), 8, None)


@pytest.mark.parametrize(
    ("options", "second", "message"),
    [
        (
            dict(addition_embed_type="text", addition_embed_type_num_heads=8),
            None,
            "conditioned on 'text', which",
        ),
        (
            dict(
                addition_embed_type="text_time",
                projection_class_embeddings_input_dim=8,
                addition_time_embed_dim=1,
            ),
            None,
            "one of them is missing",
        ),
        (dict(), "a text encoder", "one of them is missing"),
        (dict(num_class_embeds=10), None, "conditioned on classes"),
    ],
)
def test_conditions_that_cannot_be_met_are_named(options, second, message):
    with pytest.raises(ValueError, match=message):
        check_networks(UNet2DConditionModel(**(SD | options)), "a VAE", "a text encoder", second)


# -- reading --------------------------------------------------------------------------------------------------------


def test_missing_models_say_how_to_get_one(tmp_path):
    for name in (tmp_path / "nowhere", "nobody/no-such-model"):
        with pytest.raises(FileNotFoundError, match="hf download"):
            EmerDiffPipeline.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        EmerDiffPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name", ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
)
def test_weights_short_of_tensors_are_refused(folder, name):
    file = folder / f"{name}.safetensors"
    weights = load_file(file)
    for key in sorted(weights)[:3]:
        del weights[key]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"The {name.split('/')[0]} of .* is short of 3 tensors"):
        EmerDiffPipeline.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 4, 1000, 100_000])
def test_damaged_weights_are_named(folder, length):
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:length])
        part = name.split("/")[0]
        with pytest.raises(
            ValueError, match=f"The {part} of .* cannot be read .*download the folder {part}/ again"
        ):
            EmerDiffPipeline.from_pretrained(folder)
        (folder / name).write_bytes(whole)


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


@pytest.mark.parametrize(
    ("part", "message"), [("vae", "there is no VAE"), ("text_encoder", "A text encoder is missing")]
)
def test_a_network_that_is_missing_is_named(pipe, part, message):
    with pytest.raises(ValueError, match=message):
        EmerDiffPipeline(**(pipe.components | {part: None}))


def test_components_of_one_s_own_are_taken(pipe):
    parts = {name: getattr(pipe, name) for name in ("vae", "tokenizer", "text_encoder", "unet")}
    again = EmerDiffPipeline.from_pretrained("toyscapes", **parts)
    assert all(getattr(again, name) is part for name, part in parts.items())


def test_noise_of_another_kind_is_refused(pipe):
    with pytest.raises(ValueError, match="has neither a schedule of β .* nor a flow's shift"):
        EmerDiffPipeline(**(pipe.components | {"scheduler": EDMEulerScheduler()}))
    with pytest.raises(ValueError, match="is a flow's, and this U-Net learnt DDPM's noise"):
        EmerDiffPipeline(**(pipe.components | {"scheduler": FlowMatchEulerDiscreteScheduler()}))
    flow = load_pipeline("toyscapes-transformer")
    for scheduler, message in (
        (
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            "shifts its noise by the picture's size",
        ),
        (pipe.scheduler, "has no flow's shift, and this transformer learnt a flow"),
    ):
        with pytest.raises(ValueError, match=message):
            EmerDiffPipeline(**(flow.components | {"scheduler": scheduler}))


def test_text_encoders_of_a_transformer_are_checked(pipe):
    flow = load_pipeline("toyscapes-transformer")
    with pytest.raises(ValueError, match="two CLIP text encoders with projections"):
        EmerDiffPipeline(**(flow.components | {"text_encoder": pipe.text_encoder}))


def test_half_precision_stays_but_for_the_autoencoder_that_overflows(tmp_path):
    assert load_pipeline(dtype="float16").vae.dtype == torch.float16
    for layout, dtype in (("1.x", torch.float16), ("XL", torch.float32)):
        folder = tiny_stable_diffusion.save(tmp_path / layout, 16, layout=layout)
        pipe = load_pipeline(folder, "cpu", "float16")
        assert (pipe.vae.dtype, pipe.unet.dtype) == (dtype, torch.float16)


def test_latents_with_statistics_of_their_own_come_back(pipe, scene):
    """Mean and deviation by channel, as some relatives of Stable Diffusion XL have them: other numbers, the same picture."""
    plain = pipe.encode(scene.image)
    mean, deviation = [0.1 * c for c in range(8)], [1.0 + 0.1 * c for c in range(8)]
    vae = copy.deepcopy(pipe.vae)
    vae.register_to_config(latents_mean=mean, latents_std=deviation)
    other = EmerDiffPipeline(**(pipe.components | {"vae": vae}))
    mean, deviation = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, deviation))
    expected = (plain - mean * pipe.vae.config.scaling_factor) / deviation
    torch.testing.assert_close(other.encode(scene.image), expected)
    torch.testing.assert_close(other.decode(expected), pipe.decode(plain))


def test_a_layer_of_one_s_own_needs_no_warning(pipe):
    own = pipe.default_settings()
    layers = {name: own[name] for name in ("feature_layer", "modulation_layer")}
    config = SD | dict(in_channels=8, out_channels=8, cross_attention_dim=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        EmerDiffPipeline(
            **(pipe.components | {"unet": UNet2DConditionModel(**config)}), default_settings=layers
        )


def test_an_inpainting_unet_is_refused(pipe):
    unet = UNet2DConditionModel(**(SD | dict(in_channels=9, cross_attention_dim=8)))
    with pytest.raises(ValueError, match="takes 9 channels and gives 4 .*text-to-image checkpoint"):
        EmerDiffPipeline(**(pipe.components | {"unet": unet}))


def test_device_and_dtype_are_one_clear_sentence():
    with pytest.raises(
        ValueError, match="dtype='fp16' is unknown; choose one of 'float32', 'bfloat16', 'float16'"
    ):
        load_pipeline(dtype="fp16")
    for device in ("nonsense", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
            load_pipeline(device=device)


def test_what_the_user_turned_off_stays_off():
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()
        load_pipeline()
        assert not logging.is_progress_bar_enabled()
        logging.enable_progress_bar()
        load_pipeline()
        assert logging.is_progress_bar_enabled()
    finally:
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def test_diffusers_own_pipeline_loads_the_same_folder():
    assert StableDiffusionPipeline.from_pretrained(TOYSCAPES_FOLDER).unet.config.in_channels == 8
