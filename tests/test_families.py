"""Every family: a checkpoint of its published layout is recognised, called as its own pipeline calls it, inverts exactly, and
its modulation is the brute force's, which stores attention maps and knows no hook."""

from contextlib import nullcontext
from functools import wraps
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch.overrides import TorchFunctionMode

from emerdiff_lib import load_pipeline
from emerdiff_lib.backbones import find_backbone
from emerdiff_lib.backbones.flux import unpacked
from emerdiff_lib.baselines import diffcut, kmeans_activations
from emerdiff_lib.baselines.diffseg import aggregated_attention
from emerdiff_lib.benchmark import reference
from emerdiff_lib.features import extract_activations
from emerdiff_lib.images import to_tensor
from emerdiff_lib.interventions import hooked
from emerdiff_lib.inversion import reverse_mean_and_std
from emerdiff_lib.modulation import modulated_latents, signed_offsets
from emerdiff_lib.runs.keys import model_key
from emerdiff_lib.words import Vocabulary, WordAttention, word_attention, word_positions

from . import tiny_stable_diffusion, tiny_transformers
from .conftest import seeded

LAYOUTS = [*tiny_stable_diffusion.LAYOUTS, *tiny_transformers.LAYOUTS]
NAMES = {
    "2.x": "Stable Diffusion 2.x",
    "SSD-1B": "Stable Diffusion XL",
    "XL": "Stable Diffusion XL",
    "IF": "DeepFloyd IF",
    "3": "Stable Diffusion 3",
    "3.5": "Stable Diffusion 3",
    "FLUX.1 schnell": "FLUX.1",
    "PixArt-α": "PixArt",
} | {name: name for name in ("Kolors", "Kandinsky 2.2", *tiny_transformers.LAYOUTS) if name[-1] not in "αl"}
UP, BLOCK = "up_blocks.{}.attentions.{}.transformer_blocks.{}.attn2".format, "transformer_blocks.{}.{}".format
JOINT = ("up_blocks.1.attentions.0", "up_blocks.1.attentions.2")
LAYERS = {  # of layouts whose published sizes are not below
    "1.x": (UP(1, 0, 0), UP(1, 2, 0)),
    "tiny-sd": (UP(0, 0, 0), UP(0, 1, 0)),
    "SSD-1B": (UP(0, 0, 0), UP(0, 2, 3)),
    "Kandinsky 2.2": JOINT,
    "IF": JOINT,
}
# Their own size is a megapixel; here they work at 64 × 64
MEGAPIXEL = ("FLUX.1", "FLUX.1 schnell", "PixArt-α", "Qwen-Image", "Z-Image")
# Layer norms remove what is added to all channels behind the output projection
LOST = ("PixArt", "PixArt-α", "Sana", "HunyuanDiT")


def quick(layout):
    return {"num_inference_steps": 10} | ({"processing_resolution": 64} if layout in MEGAPIXEL else {})


def tiny(folder, layout):
    if layout in tiny_transformers.LAYOUTS:
        tiny_transformers.save(folder, layout)
    else:
        tiny_stable_diffusion.save(folder, sample_size=16, layout=layout)
    pipe = load_pipeline(folder, "cpu", "float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request, tmp_path_factory):
    return request.param, tiny(tmp_path_factory.mktemp("family") / "model", request.param)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


def test_the_layout_is_recognised(model):
    layout, pipe = model
    assert pipe.backbone.name == NAMES.get(layout, "Stable Diffusion 1.x")
    settings = pipe.resolve()
    layers = settings.feature_layer, settings.modulation_layer
    assert layers == LAYERS.get(layout, layers)
    t_m = settings.modulation_timestep
    assert settings.num_masks == 30
    of_flows = {"FLUX.1 schnell": 441, "AuraFlow": 301, "Lumina-Image 2": 121}  # shifted otherwise
    assert t_m == (of_flows.get(layout, 201) if pipe.backbone.is_flow else 281)  # of like noise
    side = 128 if layout in MEGAPIXEL else 16
    assert settings.processing_resolution == side * pipe.vae_scale_factor


def test_it_segments_an_image_that_is_not_square(model, image):
    layout, pipe = model
    for settings in ({}, {"mode": "pixel"}):
        out = pipe(image, 3, generator=seeded(), **quick(layout), **settings)
        assert out.labels.shape == image.shape[:2] and len(out.coarse_masks) == 3


@torch.no_grad()
def test_it_inverts_exactly(model, image):
    layout, pipe = model
    trajectory = pipe.invert(image, start_timestep=101, generator=seeded(), **quick(layout))
    error = (pipe.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()
    assert error < (1e-5 if layout in tiny_transformers.LAYOUTS else 3e-5)  # float32, through random U-Nets


def test_what_is_saved_is_read_again(model, image, tmp_path):
    _, pipe = model
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, "cpu", "float32")
    assert model_key(again) == model_key(pipe)


# What each pipeline is told so that it calls its network once, without guidance and at the size it is given
ONCE = {
    "FLUX.1": {"guidance_scale": 1.0},
    "FLUX.1 schnell": {"max_sequence_length": 256},
    "Sana": {"use_resolution_binning": False, "complex_human_instruction": None},
    "Qwen-Image": {"true_cfg_scale": 1.0},
    "Z-Image": {"guidance_scale": 0.0},
} | dict.fromkeys(("PixArt", "PixArt-α", "HunyuanDiT"), {"use_resolution_binning": False})


@torch.no_grad()
def test_the_network_is_called_as_its_own_pipeline_calls_it(model):
    """What the pipeline's scheduler is given, with the velocity's sign and the time that it has there."""
    layout, pipe = model
    if layout == "LCM":
        pytest.skip("a latent consistency model is told the strength of guidance besides; here is none")
    calls, side = [], 64 // pipe.vae_scale_factor * pipe.vae_scale_factor
    scheduler, step = pipe.pipe.scheduler, pipe.pipe.scheduler.step
    scheduler.step = wraps(step)(lambda *args, **kwargs: (calls.append(args[:3]), step(*args, **kwargs))[1])
    prompt = "" if layout == "Kandinsky 2.2" else "A picture of a Tree"
    told = {"prompt": prompt, "guidance_scale": 1.0} | ONCE.get(layout, {})
    if layout == "Kandinsky 2.2":
        nothing = torch.zeros(1, 48)
        told = {"image_embeds": nothing, "negative_image_embeds": nothing, "guidance_scale": 1.0}
    kind = {"output_type": "pt" if layout in ("IF", "Kandinsky 2.2") else "latent"}
    pipe.pipe(height=side, width=side, num_inference_steps=2, generator=seeded(), **told, **kind)
    del scheduler.step
    for theirs, timestep, latents in calls[layout == "Kolors" :]:  # Euler's first latents are scaled
        if latents.ndim == 3:
            h = w = side // pipe.vae_scale_factor
            latents, theirs = unpacked(latents, h, w), unpacked(theirs, h, w)
        ours = pipe.backbone.call(latents, torch.as_tensor(timestep).reshape(1), pipe.condition(prompt))
        torch.testing.assert_close(ours, theirs[:, : ours.shape[1]], atol=1e-4, rtol=1e-3)


class StoredLinearAttention(TorchFunctionMode):
    """Sana's linear attention is made of relu(q) and relu(k): kept, or put in place of the run's own."""

    def __init__(self, stored=None):
        super().__init__()
        self.stored, self.seen = stored, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function is F.relu:
            output = output if self.stored is None else self.stored[len(self.seen)]
            self.seen.append(output)
        return output


@pytest.mark.parametrize("placement", ["after_projection", "before_projection"])
@torch.no_grad()
def test_modulation_is_the_brute_force_s(model, image, placement):
    layout, pipe = model
    trajectory = pipe.invert(image, start_timestep=301, generator=seeded(), **quick(layout))
    # In the first block of Stable Diffusion 3, text tokens carry the modulation on into those behind
    layer = {"modulation_layer": BLOCK(0, "attn")} if layout == "3" else {}
    coarse = pipe.cluster(trajectory, 3, modulation_timestep=301, **layer)
    predictor = pipe.predictor(10, "", coarse.settings.processing_resolution)
    settings = coarse.settings.replace(offset_placement=placement)
    offsets, texts = signed_offsets(coarse.masks[:1], 10.0), []
    last = pipe.denoiser.transformer_blocks[-1].attn if layer else pipe.denoiser
    keep = lambda module, args, kwargs: texts.append(kwargs.get("encoder_hidden_states"))
    with hooked([last.register_forward_pre_hook(keep, with_kwargs=True)]):
        rows = modulated_latents(predictor, trajectory, offsets, settings)
    assert not layer or (texts[0][1] - texts[0][0]).abs().max() > 1e-3
    linear = layout == "Sana"
    with StoredLinearAttention() if linear else nullcontext() as kept:
        maps = reference.stored_maps(predictor, trajectory, 301)
    for row, strength in ((1, 10.0), (2, -10.0)):
        given = coarse.masks[0], strength, settings.modulation_layer, 301, placement
        with StoredLinearAttention(kept.seen) if linear else nullcontext():
            alone = reference.modulated_latents(predictor, trajectory, maps, *given)
        torch.testing.assert_close(rows[row : row + 1], alone, atol=1e-3, rtol=1e-3)
    lost = layout in LOST and placement == "after_projection"
    assert ((rows[1] - rows[0]).abs().max() < 1e-5) == lost
    assert lost == (layout in LOST and placement != pipe.resolve().offset_placement)


@torch.no_grad()
def test_baselines_and_words_see_its_attention(model, image):
    layout, pipe = model
    latents = pipe.encode(image, quick(layout).get("processing_resolution"))
    if layout == "Sana":
        with pytest.raises(ValueError, match="cannot be read: it has none, as linear attention"):
            aggregated_attention(pipe.predictor(), latents)
    else:
        attention = aggregated_attention(pipe.predictor(), latents)
        height, width = attention.shape[:2]
        assert attention.shape == (height, width, height, width)
        torch.testing.assert_close(attention.sum((2, 3)), torch.ones(height, width))
        assert attention.flatten(2).std(2).min() > 0  # no layer was passed over
    if layout in MEGAPIXEL:
        return
    assert kmeans_activations(image, pipe, 3).labels.shape == image.shape[:2]
    assert diffcut(image, pipe, 3).labels.shape == image.shape[:2]
    if layout == "Kandinsky 2.2":
        with pytest.raises(ValueError, match="conditioned on images, not on text"):
            WordAttention(pipe)
        return
    vocabulary = Vocabulary({"tree": ["tree"], "road": ["road"]})
    words = WordAttention(pipe, draws=1)
    features = words.features(Image.fromarray(image), vocabulary)
    torch.testing.assert_close(words.scores(features, vocabulary).sum(-1), torch.ones(features.shape[:2]))
    assert features.shape[2] == 2 and features.min() > 0 and features.sum(2).max() < 1


def test_words_stand_where_they_are_read(model, monkeypatch):
    """In the text that the pipeline gives its own tokenizers."""
    layout, pipe = model
    if layout == "Kandinsky 2.2":
        return
    given, kinds = [], {type(part.tokenizer) for part in pipe.backbone.text_tokens("")}
    for kind in kinds:
        tokens_of = lambda self, text, *args, call=kind.__call__, **kwargs: (
            given.extend(np.atleast_1d(text)),
            call(self, text, *args, **kwargs),
        )[1]
        monkeypatch.setattr(kind, "__call__", tokens_of)
    pipe.backbone.condition("a tree")
    assert {part.text for part in pipe.backbone.text_tokens("a tree")} <= set(given)
    read = [t for t in tensors(pipe.condition("a tree")) if t.ndim == 3][0].shape[1]
    cut = word_positions(pipe, "a tree and a tree " * 400, "tree")  # no more of it than the model reads
    assert cut and max(cut) < max(read, pipe.backbone.text_tokens("")[-1].limit + 77)
    if layout.startswith("3"):  # T5's stand behind the CLIPs'
        assert (max(word_positions(pipe, "a tree", "tree")) >= 77) == (layout == "3.5")


TEXT = {  # what is given text tokens, behind registers, padding or other text
    "AuraFlow": "joint_transformer_blocks.0.attn.add_k_proj",
    "HunyuanDiT": "blocks.0.attn2.to_k",
    "Kolors": "encoder_hid_proj",
    "Z-Image": "context_refiner.0.attention.to_k",
    "Lumina-Image 2": "context_refiner.0.attn.to_k",
}


@torch.no_grad()
@pytest.mark.parametrize("layout", TEXT)
def test_text_stands_where_another_prompt_changes_it(tmp_path, layout):
    pipe, seen = tiny(tmp_path, layout), []
    latents, timesteps = torch.zeros(1, pipe.denoiser.config.in_channels, 8, 8), torch.tensor([301.0])
    module = pipe.denoiser.get_submodule(TEXT[layout])
    with hooked([module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))]):
        for prompt in ("tree", "road"):
            pipe.backbone.call(latents, timesteps, pipe.condition(prompt))
    changed = (seen[0] - seen[1]).abs().amax((0, 2)) > 0
    places = word_positions(pipe, "tree", "tree")  # HunyuanDiT's first are CLIP's, of which all change
    start = [place for place in places if place > 9 or layout != "HunyuanDiT"][0]
    assert changed[start] and not changed[start - 1]


@torch.no_grad()
@pytest.mark.parametrize("layout", ["Z-Image", "Lumina-Image 2"])
def test_tokens_of_a_single_stream_are_told_apart(tmp_path, layout):
    """Text is what another prompt changes; behind the last block's attention, an image token is its own patch's alone."""
    pipe, seen = tiny(tmp_path, layout), []
    backbone, (first, *_, last) = pipe.backbone, pipe.backbone.layers()
    latents, timesteps = torch.zeros(1, 16, 8, 12), torch.tensor([301.0])
    call = lambda prompt: backbone.call(latents, timesteps, pipe.condition(prompt))
    keys, output = (pipe.denoiser.get_submodule(name) for name in (f"{first}.to_k", f"{last}.to_out.0"))
    with hooked([keys.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))]):
        plain, _ = call("tree"), call("road")
    negated = lambda module, args, tokens: (backbone.image_tokens(last, tokens, 24)[:, 8].neg_(), tokens)[1]
    with hooked([output.register_forward_hook(negated)]):
        patches = (call("tree") - plain).abs().amax((0, 1)).nonzero() // 2
    assert patches.unique(dim=0).tolist() == [[1, 2]]
    if layout == "Lumina-Image 2":  # before no prompt stands no system's prompt, either
        assert pipe.condition("")["encoder_attention_mask"].sum() == 1
    places = torch.arange(len(seen[0]))
    _, text = backbone.split_attention(first, places.expand(len(places), -1), 24)
    assert text[0].tolist() == (seen[0] - seen[1]).abs().amax(-1).nonzero()[:, 0].tolist()


def tensors(condition):
    for value in condition.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


@torch.no_grad()
@pytest.mark.parametrize("layout", ["3", "FLUX.1", "Qwen-Image", "AuraFlow"])
def test_attention_is_told_apart_by_its_tokens(tmp_path, image, layout):
    """Where the keys of text tokens are made to win or to lose, all of the attention goes to text, or none of it."""
    pipe = tiny(tmp_path, layout)
    latents, layer = pipe.encode(image, 64), pipe.backbone.layers()[0]
    attention, predictor = pipe.denoiser.get_submodule(layer), pipe.predictor(prompt="a tree")
    # tokens of mean 0, for norms that take the mean away
    tokens = lambda value, like: torch.tensor([value, -value]).repeat(like.shape[-1] // 2).expand_as(like)
    constant = lambda value: lambda module, args, output: tokens(value, output)
    shares = {}
    for name, module in (("text", attention.add_k_proj), ("image", attention.to_k)):
        others = attention.to_k if name == "text" else attention.add_k_proj
        values = {others: -1.0, attention.add_q_proj: 1.0, attention.to_q: 1.0, module: 50.0}
        with hooked([one.register_forward_hook(constant(value)) for one, value in values.items()]):
            shares[name] = word_attention(predictor, latents, 281, [layer])[layer].sum(-1)
    assert shares["text"].mean() > shares["image"].mean() + 0.3


def test_long_prompts_warn_and_say_what_is_read(tmp_path):
    pipe = tiny(tmp_path, "1.x")
    with pytest.warns(UserWarning, match="longer than what this model reads"):
        pipe.condition("road " * 200)
    assert pipe.prompt_read("road") == "road" and 30 < pipe.prompt_read("road " * 200).count("road") < 77


@torch.no_grad()
def test_a_flow_is_the_diffusion_that_it_stands_for(tmp_path):
    """Against diffusers' flow scheduler: what noise is mixed in, what the network is called with, and an Euler step."""
    pipe = tiny(tmp_path, "3")
    predictor, theirs = pipe.predictor(10), FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    clean, noise = (torch.randn(2, 16, 16, 16, generator=seeded(i)) for i in range(2))
    calls = []
    handle = pipe.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    for timestep, previous in ((601, 301), (101, 1)):
        sigmas = [theirs.sigmas[1000 - t] for t in (timestep, previous)]
        scales = [((1 - sigma) ** 2 + sigma**2).sqrt() for sigma in sigmas]  # here it is of unit variance
        mixed = theirs.scale_noise(clean, (1000 * sigmas[0])[None], noise)
        noisy = predictor.add_noise(clean, noise, timestep)
        torch.testing.assert_close(noisy * scales[0], mixed, atol=1e-4, rtol=1e-4)
        predicted, epsilon = predictor.predict(noisy, timestep)
        (given,), kwargs = calls[-1]
        torch.testing.assert_close(given, mixed, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kwargs["timestep"], (1000 * sigmas[0]).expand(2), atol=1e-2, rtol=1e-4)
        flow = pipe.denoiser(mixed, **kwargs).sample
        torch.testing.assert_close(predicted, mixed - sigmas[0] * flow, atol=1e-3, rtol=1e-3)
        mean, std = reverse_mean_and_std(predictor, (predicted, epsilon), timestep, "ddim", previous)
        assert std == 0
        euler = mixed + (sigmas[1] - sigmas[0]) * flow
        torch.testing.assert_close(mean * scales[1], euler, atol=1e-3, rtol=1e-3)
    handle.remove()


def test_dynamic_shifting_is_diffusers_own(tmp_path):
    """σ of FLUX at half of all timesteps, for images of two sizes, against the scheduler that is told their tokens."""
    pipe = tiny(tmp_path, "FLUX.1")
    for resolution, tokens in ((512, 1024), (1024, 4096)):
        theirs = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
        theirs.set_timesteps(sigmas=[0.5], mu=0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
        alpha_bar = pipe.predictor(50, None, resolution).alpha_bar(500)
        sigma = (1 - alpha_bar).sqrt() / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt())
        assert sigma.item() == pytest.approx(theirs.sigmas[0].item(), abs=1e-5)


@torch.no_grad()
def test_latents_are_shifted_and_scaled_as_the_autoencoder_says(tmp_path, image):
    pipe = tiny(tmp_path, "3")
    pixels = to_tensor(Image.fromarray(image), image.shape[:2])
    mode = pipe.vae.encode(pixels).latent_dist.mode()
    latents = pipe.backbone.encode(pixels)
    torch.testing.assert_close(latents, (mode - 0.0609) * 1.5305)
    decoded = pipe.backbone.decode(latents)
    torch.testing.assert_close(decoded, pipe.vae.decode(mode).sample, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_activations_are_of_image_tokens(image):
    """At 64 pixels there are as many text tokens as image tokens; the last block returns no text tokens."""
    pipe = load_pipeline("toyscapes-transformer")
    latents, predictor = pipe.encode(np.resize(image, (64, 64, 3)), 64), pipe.predictor()
    seen, blocks = {}, pipe.denoiser.transformer_blocks
    hooks = [
        blocks[2].attn.register_forward_hook(lambda _, i, o: seen.update(attention=o[0])),
        blocks[4].register_forward_hook(lambda _, i, o: seen.update(block=o[1])),
    ]
    names = ["transformer_blocks.2.attn", "transformer_blocks.4", "pos_embed"]
    with hooked(hooks):
        features = extract_activations(predictor, latents, 281, names)
    torch.testing.assert_close(features[names[0]].flatten(0, 1), seen["attention"][0])
    torch.testing.assert_close(features[names[1]].flatten(0, 1), seen["block"][0])
    assert features["pos_embed"].shape == (8, 8, 96)
    with pytest.raises(RuntimeError, match="unflatten"):
        extract_activations(predictor, pipe.encode(image), 281, ["context_embedder"])


SD3_5 = dict(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384)
SD3_5 |= dict(qk_norm="rms_norm", dual_attention_layers=tuple(range(13)))
SDXL = tiny_stable_diffusion.XL | dict(sample_size=128, block_out_channels=(320, 640, 1280))
SDXL |= dict(cross_attention_dim=2048, attention_head_dim=(5, 10, 20), addition_time_embed_dim=256)
SDXL |= dict(transformer_layers_per_block=(1, 2, 10), projection_class_embeddings_input_dim=2816)
PIXART = dict(sample_size=128, num_layers=28, caption_channels=4096, use_additional_conditions=False)
KOLORS = SDXL | dict(encoder_hid_dim=4096, encoder_hid_dim_type="text_proj")
KOLORS |= dict(projection_class_embeddings_input_dim=5632)
HUNYUAN = dict(sample_size=128, in_channels=4, patch_size=2, num_layers=40, hidden_size=1408)
HUNYUAN |= dict(mlp_ratio=4.3637, use_style_cond_and_image_meta_size=False)
# (class, config, family, millions of weights, layers, queries', modulated, grid for 128 × 96 latents)
PUBLISHED = {
    "SDXL": ("UNet2DConditionModel", SDXL, "Stable Diffusion XL", 2567, 70)
    + (UP(0, 0, 0), UP(0, 2, 9), (32, 24)),
    "SD 3.5 medium": ("SD3Transformer2DModel", SD3_5, "Stable Diffusion 3", 2243, 24)
    + (BLOCK(9, "attn"), BLOCK(23, "attn"), (64, 48)),
    "FLUX.1 dev": ("FluxTransformer2DModel", dict(guidance_embeds=True), "FLUX.1", 11901, 19)
    + (BLOCK(15, "attn"), BLOCK(18, "attn"), (64, 48)),
    "PixArt-Σ": ("PixArtTransformer2DModel", PIXART, "PixArt", 610, 28)
    + (BLOCK(14, "attn2"), BLOCK(27, "attn2"), (64, 48)),
    "Sana 1.6B": ("SanaTransformer2DModel", {}, "Sana", 1604, 20)
    + (BLOCK(10, "attn2"), BLOCK(19, "attn2"), (128, 96)),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}, "Qwen-Image", 20430, 60)
    + (BLOCK(30, "attn"), BLOCK(59, "attn"), (64, 48)),
    "AuraFlow": ("AuraFlowTransformer2DModel", {}, "AuraFlow", 6800, 4)
    + (f"joint_{BLOCK(2, 'attn')}", f"joint_{BLOCK(3, 'attn')}", (64, 48)),
    "Kolors": ("UNet2DConditionModel", KOLORS, "Kolors", 2579, 70) + (UP(0, 0, 0), UP(0, 2, 9), (32, 24)),
    "HunyuanDiT 1.2": ("HunyuanDiT2DModel", HUNYUAN, "HunyuanDiT", 1500, 40)
    + ("blocks.20.attn2", "blocks.39.attn2", (64, 48)),
    "Z-Image": ("ZImageTransformer2DModel", {}, "Z-Image", 6150, 30)
    + ("layers.15.attention", "layers.29.attention", (64, 48)),
    "Lumina-Image 2": ("Lumina2Transformer2DModel", dict(cap_feat_dim=2304), "Lumina-Image 2", 2600, 26)
    + ("layers.13.attn", "layers.25.attn", (64, 48)),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_sizes_are_recognised(model):
    kind, config, name, millions, count, feature, modulation, grid = PUBLISHED[model]
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(128, 256, 512, 512), latent_channels=16))
    scheduler = SimpleNamespace(config=FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    pipe = SimpleNamespace(vae=vae, vae_scale_factor=8, default_sample_size=128, scheduler=scheduler)
    setattr(pipe, "unet" if kind.startswith("UNet") else "transformer", network)
    backbone = find_backbone(pipe)
    assert backbone.name == name and len(backbone.layers()) == count
    assert backbone.default_layers() == (feature, modulation)
    assert backbone.grid(feature, 128, 96) == grid
    # Sana's autoencoder, which reduces 32 times, is not this one
    side = {"Sana 1.6B": 256, "AuraFlow": 512}.get(model, 1024)
    assert backbone.defaults()["processing_resolution"] == side
