"""Relatives of Stable Diffusion 1.x: a folder of each layout is recognised, inverts exactly, segments as the brute force does."""

import tempfile

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from emerdiff_lib import EmerDiffPipeline, load_pipeline
from emerdiff_lib.baselines import diffcut, kmeans_activations
from emerdiff_lib.baselines.diffseg import aggregated_attention
from emerdiff_lib.benchmark import reference
from emerdiff_lib.loading import family_of
from emerdiff_lib.features import extract_activations
from emerdiff_lib.images import to_tensor
from emerdiff_lib.inversion import reverse_mean_and_std
from emerdiff_lib.latents import to_latents, to_pixels
from emerdiff_lib.modulation import modulated_latents, signed_offsets
from emerdiff_lib.runs.keys import model_key
from emerdiff_lib.words import Vocabulary, WordAttention, word_positions

from . import tiny_stable_diffusion
from .conftest import seeded

NAMES = {
    "2.x": "Stable Diffusion 2.x",
    "XL": "Stable Diffusion XL",
    "SSD-1B": "Stable Diffusion XL",
    "Kandinsky 2.2": "Kandinsky 2.2",
    "IF": "DeepFloyd IF",
    "3": "Stable Diffusion 3",
    "3.5": "Stable Diffusion 3",
}
JOINT = ("up_blocks.1.attentions.0", "up_blocks.1.attentions.2")
LAYERS = {
    "tiny-sd": (
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2",
    ),
    "XL": (
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.2.transformer_blocks.2.attn2",
    ),
    "Kandinsky 2.2": JOINT,
    "IF": JOINT,
    "3": ("transformer_blocks.2.attn", "transformer_blocks.3.attn"),
    "3.5": ("transformer_blocks.2.attn", "transformer_blocks.4.attn"),
    "SSD-1B": (
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.2.transformer_blocks.3.attn2",
    ),
}
USUAL = (
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn2",
)


@pytest.fixture(scope="module", params=tiny_stable_diffusion.LAYOUTS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "model"
    tiny_stable_diffusion.save(folder, sample_size=16, layout=request.param)
    pipe = load_pipeline(folder, "cpu", "float32")
    pipe.set_progress_bar_config(disable=True)
    return request.param, pipe


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


def test_the_layout_is_recognised(model):
    layout, pipe = model
    assert family_of(pipe.denoiser.config).name == NAMES.get(layout, "Stable Diffusion 1.x")
    settings = pipe.resolve()
    feature, modulation = LAYERS.get(layout, USUAL)
    assert settings.features.feature_layer == feature
    assert settings.perturbation.modulation_layer == modulation
    found = settings.features.num_masks, settings.perturbation.modulation_timestep
    assert found == (30, 201 if layout.startswith("3") else 281)
    assert settings.inversion.processing_resolution == 16 * pipe.vae_scale_factor


def test_it_segments_a_picture_without_a_further_argument(model, picture):
    _, pipe = model
    for settings in ({}, {"mode": "pixel"}):
        out = pipe(picture, 3, num_inference_steps=10, generator=seeded(), **settings)
        assert out.labels.shape == picture.shape[:2] and len(out.coarse_masks) == 3


@torch.no_grad()
def test_it_inverts_exactly(model, picture):
    _, pipe = model
    trajectory = pipe.invert(picture, num_inference_steps=10, start_timestep=501, generator=seeded())
    error = (pipe.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()
    assert error < 1e-4


def test_what_is_saved_is_read_again(model, picture, tmp_path):
    layout, pipe = model
    again = load_pipeline(pipe.save_pretrained(tmp_path) or tmp_path, "cpu", "float32")
    again.set_progress_bar_config(disable=True)
    assert model_key(again) == model_key(pipe)
    quick = dict(mode="fast", num_inference_steps=4)
    labels = [one(picture, 2, generator=seeded(), **quick).labels for one in (pipe, again)]
    assert np.array_equal(*labels)


@torch.no_grad()
def test_the_unet_is_told_what_the_family_s_own_pipeline_tells_it(model):
    """Against diffusers' own encoding of an empty prompt."""
    layout, pipe = model
    if layout == "Kandinsky 2.2":
        with pytest.raises(ValueError, match="told of images, not of words"):
            pipe.predictor(prompt="a tree")
        told = pipe.conditioning("")
        assert told.prompt_embeds is None and told.added["image_embeds"].shape == (1, 48)
        return
    if layout.startswith("3"):
        names = [f"{n}{i}" for n in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")] + [
            "vae",
            "scheduler",
        ]
        theirs = StableDiffusion3Pipeline(transformer=pipe.denoiser, **{n: getattr(pipe, n) for n in names})
        for prompt in ("", "A picture of a Tree"):
            embeds, _, pooled, _ = theirs.encode_prompt(
                prompt, None, None, do_classifier_free_guidance=False, device="cpu"
            )
            told = pipe.conditioning(prompt).keywords(torch.zeros(2, 16, 6, 10))
            torch.testing.assert_close(told["encoder_hidden_states"], embeds.expand(2, -1, -1))
            torch.testing.assert_close(told["pooled_projections"], pooled.expand(2, -1))
        return
    kind = {"XL": StableDiffusionXLPipeline, "SSD-1B": StableDiffusionXLPipeline, "IF": IFPipeline}.get(
        layout, StableDiffusionPipeline
    )
    names = [
        n
        for n in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "unet", "scheduler")
        if getattr(pipe, n, None) is not None
    ]
    parts = {name: getattr(pipe, name) for name in names}
    if kind is not StableDiffusionXLPipeline:
        parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if kind is IFPipeline:
        parts |= dict(watermarker=None)
    theirs = kind(**parts)
    for prompt in ("", "A picture of a Tree"):
        guided = dict(do_classifier_free_guidance=not prompt, device="cpu", num_images_per_prompt=1)
        found = (
            theirs.encode_prompt("a road", **guided) if not prompt else theirs.encode_prompt(prompt, **guided)
        )
        told = pipe.conditioning(prompt)
        torch.testing.assert_close(told.prompt_embeds, found[0 if prompt else 1])
        if "text_embeds" in told.added:
            torch.testing.assert_close(told.added["text_embeds"], found[2 if prompt else 3])
            ids = told.keywords(torch.zeros(2, 4, 6, 10))["added_cond_kwargs"]["time_ids"]
            assert ids.tolist() == [[48, 80, 0, 0, 48, 80]] * 2


@torch.no_grad()
def test_rivals_and_words_read_its_attention(model, picture):
    layout, pipe = model
    attention = aggregated_attention(pipe.predictor(), pipe.encode(picture))
    height, width = attention.shape[:2]
    assert attention.shape == (height, width, height, width)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(height, width))
    assert attention.flatten(2).std(2).min() > 0  # no layer was passed over
    assert kmeans_activations(picture, pipe, 3).labels.shape == picture.shape[:2]
    assert diffcut(picture, pipe, 3).labels.shape == picture.shape[:2]
    if pipe.text_encoder is None:
        with pytest.raises(ValueError, match="told of images, not of words"):
            WordAttention(pipe)
    else:
        image, vocabulary = Image.fromarray(picture), Vocabulary({"tree": ["tree"], "road": ["road"]})
        words = WordAttention(pipe, draws=1)
        found = words.features(image, vocabulary)
        assert found.shape[2] == 2 and found.min() > 0 and found.sum(2).max() < 1
        read = pipe.conditioning("tree").prompt_embeds
        if read is None:  # IF's states are among what is added
            read = pipe.conditioning("tree").added["text_embeds"]
        where = word_positions(pipe, "a Tree and a tree " * 50, "tree")  # no more of it than the model reads
        assert where and max(where) < read.shape[1]
        where = word_positions(pipe, "a tree", "tree")
        assert (max(where) >= 77) == (layout == "3.5")  # T5's tokens stand behind the CLIPs'


@pytest.mark.parametrize("placement", ["after_projection", "before_projection"])
@torch.no_grad()
def test_modulation_is_the_brute_force_s(model, picture, placement):
    _, pipe = model
    trajectory = pipe.invert(picture, num_inference_steps=10, start_timestep=301, generator=seeded())
    coarse = pipe.cluster(trajectory, 3, modulation_timestep=301)
    predictor, used = pipe.predictor(10), coarse.settings.replace(offset_placement=placement).perturbation
    compare_with_brute_force(predictor, trajectory, coarse.masks, used)


def compare_with_brute_force(predictor, trajectory, masks, used):
    rows = modulated_latents(predictor, [trajectory], signed_offsets(masks[:1], 10.0), used)
    maps = reference.stored_maps(predictor, trajectory, 301)
    for row, strength in ((1, 10.0), (2, -10.0)):
        alone = reference.modulated_latents(
            predictor, trajectory, maps, masks[0], strength, used.modulation_layer, 301, used.offset_placement
        )
        torch.testing.assert_close(rows[row : row + 1], alone, atol=1e-3, rtol=1e-3)


def test_a_flow_s_defaults_have_the_paper_s_noise():
    """Signal to noise at the paper's timesteps, in Stable Diffusion 1's schedule and in 3's with its shift."""
    found = {}
    for layout in ("1.x", "3"):
        pipe = tiny_pipeline(layout)
        own, predictor = pipe.resolve(), pipe.predictor(prompt=None)
        ratio = lambda t, d=predictor: (d.alpha_bar(t) / (1 - d.alpha_bar(t))).sqrt().item()
        found[layout] = ratio(own.perturbation.modulation_timestep), ratio(own.features.feature_timestep)
        visited = [t for t in predictor.timesteps if t <= 501]
        nearest = [min(visited, key=lambda t: abs(ratio(t) / wanted - 1)) for wanted in found["1.x"]]
    assert nearest[0] == 201 == own.perturbation.modulation_timestep
    assert found["3"][0] == pytest.approx(found["1.x"][0], rel=0.05)
    assert nearest[1] == 21 == own.features.feature_timestep


@torch.no_grad()
def test_a_flow_is_the_diffusion_that_it_stands_for():
    """Against diffusers' flow scheduler: what noise is mixed in, what the network is asked, and an Euler step."""
    pipe = tiny_pipeline("3")
    predictor, theirs = pipe.predictor(10), FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    clean, noise = (torch.randn(2, 16, 16, 16, generator=seeded(i)) for i in range(2))
    asked = []
    handle = pipe.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append((args, kwargs)), with_kwargs=True
    )
    for timestep, previous in ((601, 301), (101, 1)):
        sigmas = [theirs.sigmas[1000 - t] for t in (timestep, previous)]
        scales = [
            ((1 - sigma) ** 2 + sigma**2).sqrt() for sigma in sigmas
        ]  # of unit variance here, not there
        mixed = theirs.scale_noise(clean, (1000 * sigmas[0])[None], noise)
        noisy = predictor.add_noise(clean, noise, timestep)
        torch.testing.assert_close(noisy * scales[0], mixed, atol=1e-4, rtol=1e-4)

        found, epsilon = predictor.predict(noisy, timestep)
        (given,), told = asked[-1]
        torch.testing.assert_close(given, mixed, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(told["timestep"], (1000 * sigmas[0]).expand(2), atol=1e-2, rtol=1e-4)
        flow = pipe.denoiser(mixed, **told).sample
        torch.testing.assert_close(found, mixed - sigmas[0] * flow, atol=1e-3, rtol=1e-3)
        mean, std = reverse_mean_and_std(predictor, (found, epsilon), timestep, "ddim", previous)
        assert std == 0
        euler = mixed + (sigmas[1] - sigmas[0]) * flow
        torch.testing.assert_close(mean * scales[1], euler, atol=1e-3, rtol=1e-3)
    handle.remove()


@torch.no_grad()
def test_what_words_know_of_a_push_travels_on(picture):
    """A transformer's words attend to places, and the blocks behind the pushed one to words."""
    pipe = tiny_pipeline("3")
    trajectory = pipe.invert(picture, num_inference_steps=10, start_timestep=301, generator=seeded())
    coarse = pipe.cluster(trajectory, 2, modulation_timestep=301, modulation_layer="transformer_blocks.0.attn")
    seen = []
    last = pipe.denoiser.transformer_blocks[-1].attn
    handle = last.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    predictor, used = pipe.predictor(10), coarse.settings.perturbation
    modulated_latents(predictor, [trajectory], signed_offsets(coarse.masks[:1], 10.0), used)
    handle.remove()
    assert len(seen[0]) == 3 and (seen[0][1] - seen[0][0]).abs().max() > 1e-3
    compare_with_brute_force(predictor, trajectory, coarse.masks, used)


def tiny_pipeline(layout):
    with tempfile.TemporaryDirectory() as folder:
        pipe = load_pipeline(
            tiny_stable_diffusion.save(folder, sample_size=16, layout=layout), "cpu", "float32"
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def test_latents_are_shifted_and_scaled_as_the_autoencoder_says(picture):
    pipe = tiny_pipeline("3")
    pixels = to_tensor(Image.fromarray(picture), picture.shape[:2])
    mode = pipe.vae.encode(pixels).latent_dist.mode()
    latents = to_latents(pipe.vae, pixels)
    torch.testing.assert_close(latents, (mode - 0.0609) * 1.5305)
    torch.testing.assert_close(
        to_pixels(pipe.vae, latents), pipe.vae.decode(mode).sample, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_activations_are_of_places_and_not_of_words(picture):
    """At 64 pixels there are as many words as places; the last block gives no words."""
    pipe = load_pipeline("toyscapes-transformer")
    latents, predictor = pipe.encode(np.resize(picture, (64, 64, 3)), 64), pipe.predictor()
    seen = {}
    hooks = [
        pipe.denoiser.transformer_blocks[2].attn.register_forward_hook(
            lambda _, i, o: seen.update(attention=o[0])
        ),
        pipe.denoiser.transformer_blocks[4].register_forward_hook(lambda _, i, o: seen.update(block=o[1])),
    ]
    names = ["transformer_blocks.2.attn", "transformer_blocks.4", "pos_embed"]
    found = extract_activations(predictor, latents, 281, names)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found[names[0]].flatten(0, 1), seen["attention"][0])
    torch.testing.assert_close(found[names[1]].flatten(0, 1), seen["block"][0])
    assert found["pos_embed"].shape == (8, 8, 96)
    with pytest.raises(RuntimeError, match="unflatten"):
        extract_activations(predictor, pipe.encode(picture), 281, ["context_embedder"])


def test_how_many_tokens_a_transformer_is_told_is_part_of_what_it_is():
    pipe = load_pipeline("toyscapes-transformer")
    kept = {"default_settings": pipe.config.default_settings, "max_sequence_length": 256}
    other = EmerDiffPipeline(**pipe.components, **kept)
    before, now = model_key(pipe), model_key(other)
    assert {name for name in before if before[name] != now[name]} == {"pipeline"}
