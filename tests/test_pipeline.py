"""The pipeline as a user calls it: contract, determinism, odd inputs, clear refusals."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from emerdiff_lib import EmerDiffOutput, EmerDiffPipeline, Toyscapes

from .conftest import refusal, seeded

QUICK = dict(num_masks=3, modulation_timestep=41, feature_timestep=1, noise_ensemble_size=1)


@pytest.fixture(scope="module")
def output(pipe, scene):
    return pipe(scene.image, output_difference_maps=True, generator=seeded(), **QUICK)


def test_output_has_the_promised_shapes_and_settings(pipe, output):
    assert isinstance(output, EmerDiffOutput)
    assert output.labels.shape == output.baseline_labels.shape == (128, 128)
    assert np.issubdtype(output.labels.dtype, np.integer) and set(np.unique(output.labels)) <= {0, 1, 2}
    assert output.coarse_masks.shape == (3, 16, 16) and output.coarse_masks.dtype == bool
    assert (output.coarse_masks.sum(0) == 1).all()  # a partition
    assert output.mask_embeddings.shape[0] == 3 and output.mask_embeddings.dtype == np.float32
    assert output.difference_maps.shape == (3, 128, 128) and output.difference_maps.dtype == np.float32
    assert output.difference_maps.min() >= 0 and output.difference_maps.max() <= 3**0.5
    settings = json.loads(json.dumps(output.settings))
    assert (pipe.default_settings() | QUICK).items() <= settings.items()
    assert settings["seed"] == 0 and settings["model"] == "toyscapes" and settings["mode"] == "exact"


def test_same_seed_same_labels_and_exact_mode_is_a_plain_call(pipe, scene, output):
    again = pipe(scene.image, mode="exact", generator=seeded(), **QUICK)
    assert np.array_equal(again.labels, output.labels) and again.difference_maps is None
    assert again.settings == output.settings
    other = pipe(scene.image, generator=seeded(5), **QUICK)
    assert not np.array_equal(other.labels, output.labels)


def test_images_of_a_list_come_out_as_alone(pipe):
    images = [Toyscapes("test")[i].image for i in (0, 1, 2)]
    images[2] = images[2].crop((0, 0, 128, 96))
    quick = dict(num_masks=9, modulation_timestep=41, mode="fast")
    together, generator = pipe(images, generator=seeded(), **quick), seeded()
    alone = [pipe(image, generator=generator, **quick) for image in images]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.coarse_masks, b.coarse_masks) and (a.labels == b.labels).mean() > 0.999
    assert together[2].labels.shape == (96, 128) and [a.settings["seed"] for a in together] == [0, None, None]
    assert [a.settings["seed"] for a in alone] == [0, None, None]
    tall = np.ones((1, 128, 96), bool)
    assert "turn or transpose them" in refusal(lambda: pipe(images[2], coarse_masks=tall))
    assert "belong to one image" in refusal(lambda: pipe(images, coarse_masks=together[0].coarse_masks))


def test_inversion_can_be_reused(pipe, scene, output):
    generator = seeded()
    trajectory = pipe.invert(scene.image, start_timestep=41, generator=generator)
    again = pipe(scene.image, trajectory=trajectory, generator=generator, **QUICK)
    assert np.array_equal(again.labels, output.labels)
    for contradiction, message in (
        (dict(modulation_timestep=281), "start_timestep=281"),
        (dict(inversion="ddim"), "contradicts the trajectory"),
        (dict(processing_resolution=64), "contradicts the trajectory"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(scene.image, trajectory=trajectory, **contradiction)
    with pytest.raises(ValueError, match="belongs to another image"):
        pipe(Toyscapes("test")[8].image, trajectory=trajectory)
    default = pipe(scene.image, 2, trajectory=trajectory, noise_ensemble_size=1)  # as far as it goes
    assert default.settings["modulation_timestep"] == default.settings["feature_timestep"] == 41


def test_masks_of_ones_own(pipe, scene, monkeypatch):
    halves = np.zeros((2, 5, 7), bool)
    halves[0, :, :3], halves[1, :, 3:] = True, True
    output = pipe(scene.image, coarse_masks=halves, modulation_timestep=41, generator=seeded())
    assert output.settings["num_masks"] == 2 and output.settings["own_masks"]
    assert (output.baseline_labels[:, :50] == 0).all()
    assert (output.labels[:, :32] == 0).mean() > 0.9  # the response is where the mask is
    monkeypatch.setattr(type(pipe), "encode", None)  # masks are refused before any work
    for bad, message in (
        (halves[0], "shape"),
        (np.zeros((2, 4, 4), bool), "without any cell"),
        (np.full((1, 4, 4), np.nan), "nan, where only 0 and 1"),
        (np.arange(16).reshape(1, 4, 4), "one mask per label"),
        ("masks.png", "not str"),
        ([[[1, 0], [1]]], "not list"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(scene.image, coarse_masks=bad)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (7, 250), (2000, 3000)])
def test_any_size_comes_back_at_its_size(pipe, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    output = pipe(image, num_masks=1, modulation_timestep=21, processing_resolution=64, generator=seeded())
    assert output.labels.shape == output.baseline_labels.shape == size
    assert (output.labels == 0).all() and output.coarse_masks.all()
    height, width = output.settings["processing_size"]
    assert output.coarse_masks.shape[1:] == (height // 8, width // 8) and height * width <= 4 * 64**2


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(num_masks=0), "num_masks=0"),
        (dict(num_masks=257), "choose 1 to 256"),
        (dict(num_masks=True), "num_masks=True .* whole number"),
        (dict(num_parts=1), "num_parts=1 .* at least 2"),
        (dict(feature_layer="nowhere"), "feature_layer='nowhere' .*down_blocks.1.attentions.0"),
        (dict(feature_timestep=2), "feature_timestep=2 .* 1, 21, 41"),
        (dict(inversion="euler"), "'ddpm', 'ddim'"),
        (dict(attention_injection="no"), "attention_injection='no' .* True or False"),
        (dict(num_inference_steps=50.0), "num_inference_steps=50.0 .* whole number"),
        (dict(prompt=["a", "b"]), "prompt=.* one string"),
        (dict(generator=5), r"torch.Generator\(\).manual_seed\(5\)"),
        (dict(filter_sigma=1e6), "filter_sigma=1000000.0 .* at most 100"),
        (dict(mask_batch_size=0), "mask_batch_size=0"),
        (dict(mode="fast", modulation_strength=1e-12), "No pixel responds"),
        (dict(denoising_steps=2, inversion="ddim"), "inversion='ddpm'"),
    ],
)
def test_faulty_values_are_named(pipe, scene, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(scene.image, **options)


def test_fast_mode_is_its_shortcuts_and_they_can_be_overridden(pipe, scene):
    quick = dict(num_masks=3, modulation_timestep=81)
    fast = pipe(scene.image, mode="fast", generator=seeded(), **quick)
    shortcuts = dict(denoising_steps=2, one_sided=True, readout="latents", num_parts=16)
    shortcuts |= dict(modulation_strength=3.0, guide_radius=1.5)
    spelt = pipe(scene.image, generator=seeded(), **shortcuts, **quick)
    assert np.array_equal(fast.labels, spelt.labels) and shortcuts.items() <= fast.settings.items()
    exact = pipe(scene.image, generator=seeded(), **quick)
    assert exact.settings["denoising_steps"] is None and not np.array_equal(exact.labels, fast.labels)
    options = dict(mode="fast", readout="image", output_difference_maps=True)
    decoded = pipe(scene.image, generator=seeded(), **options, **quick)
    assert decoded.settings["readout"] == "image" and decoded.difference_maps.shape == (3, 128, 128)
    assert pipe.resolve(num_masks=20, mode="fast").num_parts == 20  # at least as many as segments


def test_stages_one_by_one_are_the_pipeline(pipe, scene, output):
    generator = seeded()
    coarse = pipe.cluster(scene.image, generator=generator, **QUICK)
    responses = pipe.modulate(coarse)
    assert np.array_equal(pipe.assign(responses), output.labels)
    assert np.array_equal(coarse.masks.numpy(), output.coarse_masks) and coarse.size == (128, 128)
    assert np.array_equal(responses.difference_maps.numpy(), output.difference_maps)
    assert set(responses.seconds) == set(output.timings) and "modulate" not in coarse.seconds
    for text in map(repr, (coarse.trajectory, coarse, responses, output)):
        assert len(text) < 120, text


def test_a_stage_can_be_repeated_with_other_settings_of_its_own_only(pipe, scene):
    coarse = pipe.cluster(scene.image, generator=seeded(), **QUICK)
    exact, fast = pipe.modulate(coarse), pipe.probe(pipe.modulate(coarse), mode="fast")
    alone = pipe(scene.image, mode="fast", generator=seeded(), **QUICK)
    assert np.array_equal(pipe.assign(fast), alone.labels) and fast.settings.mode == "fast"
    guided = pipe(scene.image, guide_radius=1.5, generator=seeded(), **QUICK)
    assert np.array_equal(pipe.assign(exact, guide_radius=1.5), guided.labels)
    assert not np.array_equal(guided.labels, pipe.assign(exact))
    for stage, options, message in (
        (lambda **o: pipe.modulate(coarse, **o), dict(num_masks=5), "num_masks was settled at an earlier"),
        (lambda **o: pipe.assign(exact, **o), dict(modulation_layer="x"), "modulation_layer was settled"),
        (lambda **o: pipe.modulate(coarse, **o), dict(modulation_timestep=281), "start_timestep=281"),
    ):
        assert message in refusal(lambda stage=stage, options=options: stage(**options))


def test_settings_are_recorded_as_what_was_done(pipe, scene):
    output = pipe(scene.image, num_masks=2, num_inference_steps=10, generator=seeded(), noise_ensemble_size=1)
    assert output.settings["modulation_timestep"] == 501 and output.settings["feature_timestep"] in (201, 301)
    with pytest.raises(ValueError, match="modulation_timestep=481 .* 1, 101, 201"):
        pipe(scene.image, num_inference_steps=10, modulation_timestep=481)
    numbers = dict(modulation_strength=np.float32(5), attention_injection=np.bool_(True), denoising_steps=99)
    output = pipe(scene.image, np.int64(2), modulation_timestep=np.int32(41), **numbers)
    record = json.loads(json.dumps(output.settings))
    assert record["modulation_strength"] == 5 and record["num_masks"] == 2
    assert record["denoising_steps"] == 3  # 41, 21, 1


def test_an_output_says_what_was_computed_and_not_what_is_now(scene):
    pipe = EmerDiffPipeline.from_pretrained("toyscapes")
    responses = pipe.modulate(pipe.cluster(scene.image, generator=seeded(), **QUICK))
    with torch.autocast("cpu", torch.bfloat16):
        settings = pipe.output(responses, filter_sigma=3.0).settings
    assert settings["filter_sigma"] == 3.0 and settings["autocast"] is None
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, beta_end=0.02)  # as in diffusers
    assert pipe.pipe.scheduler.config.beta_end == 0.02
    pipe.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert "is a flow's, and this network needs DDPM's" in refusal(lambda: pipe.cluster(scene.image))


def test_probe_masks_and_coarse_masks_are_stages_of_their_own(pipe, scene):
    coarse = pipe.cluster(scene.image, generator=seeded(), **QUICK)
    for stage, mode, message in (
        (pipe.modulate, "fast", r"modulates probe masks \(num_parts=16\); call pipe.probe"),
        (pipe.probe, "exact", "mode='exact' has no probe masks"),
    ):
        with pytest.raises(ValueError, match=message):
            stage(coarse, mode=mode)
    assert len(pipe.respond(coarse, mode="fast").parts) == 16
    assert len(pipe.respond(coarse).difference_maps) == 3


def test_a_network_that_breaks_is_an_error_not_a_segmentation(scene):
    broken = EmerDiffPipeline.from_pretrained("toyscapes")
    with torch.no_grad():
        broken.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    assert "not finite" in refusal(lambda: broken(scene.image, generator=seeded(), **QUICK))


def test_a_name_that_is_nowhere_is_answered_with_what_there_is(pipe):
    assert "did you mean 'cluster'" in refusal(lambda: pipe.clusters(), AttributeError)
