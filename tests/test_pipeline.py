"""The pipeline as a user calls it: contract, determinism, odd inputs, clear refusals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from emerdiff_lib import EmerDiffOutput, EmerDiffPipeline, Toyscapes
from emerdiff_lib.images import load_image

from .conftest import seeded

QUICK = dict(num_masks=3, modulation_timestep=41, feature_timestep=1, noise_ensemble_size=1)


@pytest.fixture(scope="module")
def output(pipe, scene):
    return pipe(scene.image, output_difference_maps=True, generator=seeded(), **QUICK)


def test_output_has_the_promised_shapes(output):
    assert isinstance(output, EmerDiffOutput)
    assert output.labels.shape == output.baseline_labels.shape == (128, 128)
    assert np.issubdtype(output.labels.dtype, np.integer) and set(np.unique(output.labels)) <= {0, 1, 2}
    assert output.coarse_masks.shape == (3, 16, 16) and output.coarse_masks.dtype == bool
    assert (output.coarse_masks.sum(0) == 1).all()  # a partition
    assert output.mask_embeddings.shape[0] == 3 and output.mask_embeddings.dtype == np.float32
    assert output.difference_maps.shape == (3, 128, 128) and output.difference_maps.dtype == np.float32
    assert output.difference_maps.min() >= 0 and output.difference_maps.max() <= 3**0.5


def test_settings_are_complete_and_serialisable(output):
    settings = json.loads(json.dumps(output.settings))
    assert (
        settings["num_masks"] == 3
        and settings["modulation_timestep"] == 41
        and settings["modulation_strength"] == 10
    )
    assert {
        "feature_timestep",
        "feature_layer",
        "modulation_layer",
        "num_inference_steps",
        "attention_injection",
        "mode",
        "seed",
    } <= set(settings)
    assert settings["seed"] == 0 and settings["model"] == "toyscapes"


def test_same_seed_same_labels(pipe, scene, output):
    again = pipe(scene.image, generator=seeded(), **QUICK)
    assert np.array_equal(again.labels, output.labels) and again.difference_maps is None
    other = pipe(scene.image, generator=seeded(5), **QUICK)
    assert not np.array_equal(other.labels, output.labels)


def test_list_of_images(pipe, scene, output):
    first, second = pipe([scene.image, np.asarray(scene.image)[:, :96]], generator=seeded(), **QUICK)
    assert np.array_equal(first.labels, output.labels) and second.labels.shape == (128, 96)


def test_inversion_can_be_reused(pipe, scene, output):
    generator = seeded()
    trajectory = pipe.invert(scene.image, start_timestep=41, generator=generator)
    again = pipe(scene.image, trajectory=trajectory, generator=generator, **QUICK)
    assert np.array_equal(again.labels, output.labels)
    with pytest.raises(ValueError, match="start_timestep=281"):
        pipe(scene.image, trajectory=trajectory, modulation_timestep=281)
    for contradiction in (
        dict(inversion="ddim"),
        dict(num_inference_steps=25),
        dict(processing_resolution=64),
    ):
        with pytest.raises(ValueError, match="contradicts the trajectory"):
            pipe(scene.image, trajectory=trajectory, **contradiction)
    for other in (Toyscapes("test")[8].image, scene.image.crop((0, 0, 96, 128))):
        with pytest.raises(ValueError, match="belongs to another image"):
            pipe(other, trajectory=trajectory)
    default = pipe(
        scene.image, trajectory=trajectory, num_masks=2, noise_ensemble_size=1
    )  # as far as it goes
    assert default.settings["modulation_timestep"] == default.settings["feature_timestep"] == 41


def test_masks_of_ones_own(pipe, scene):
    halves = np.zeros((2, 5, 7), bool)
    halves[0, :, :3], halves[1, :, 3:] = True, True
    output = pipe(scene.image, coarse_masks=halves, modulation_timestep=41, generator=seeded())
    assert output.settings["num_masks"] == 2 and output.settings["own_masks"]
    left = output.baseline_labels[:, :50]
    assert (left == 0).all() and (
        output.labels[:, :32] == 0
    ).mean() > 0.9  # the response is where the mask is
    labels = np.arange(16).reshape(1, 4, 4)
    for bad, message in (
        (halves[0], "shape"),
        (np.zeros((2, 4, 4), bool), "without any cell"),
        (np.full((1, 4, 4), 0.4), "threshold soft masks"),
        (np.full((1, 4, 4), np.nan), "nan, where only 0 and 1"),
        (labels, "one mask per label"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(scene.image, coarse_masks=bad)


@pytest.mark.parametrize("size", [(1, 1), (7, 250), (33, 65), (600, 400)])
def test_any_size_comes_back_at_its_size(pipe, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    output = pipe(image, num_masks=2, modulation_timestep=21, processing_resolution=64, generator=seeded())
    assert output.labels.shape == output.baseline_labels.shape == size


def test_huge_image(pipe):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).resize(
        (6000, 4000)
    )
    output = pipe(image, num_masks=2, modulation_timestep=21, processing_resolution=64)
    assert output.labels.shape == (4000, 6000)


def test_a_single_mask_covers_everything(pipe, scene):
    output = pipe(scene.image, num_masks=1, modulation_timestep=21)
    assert (output.labels == 0).all() and output.coarse_masks.all()


def test_ddim_and_ensemble_and_prompt(pipe, scene):
    output = pipe(
        scene.image,
        inversion="ddim",
        prompt="a picture of a lake",
        generator=seeded(),
        **QUICK | {"noise_ensemble_size": 3},
    )
    assert output.settings["inversion"] == "ddim" and output.labels.shape == (128, 128)


def test_bfloat16_runs_and_agrees_roughly(scene, output):
    half = EmerDiffPipeline.from_pretrained("toyscapes", dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    masks = output.coarse_masks
    labels = half(scene.image, coarse_masks=masks, modulation_timestep=41, generator=seeded()).labels
    full = EmerDiffPipeline.from_pretrained("toyscapes")
    full.set_progress_bar_config(disable=True)
    reference = full(scene.image, coarse_masks=masks, modulation_timestep=41, generator=seeded()).labels
    assert (labels == reference).mean() > 0.8


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(num_masks=0), "num_masks=0"),
        (dict(num_masks=257), "choose 1 to 256"),
        (dict(feature_layer="nowhere"), "feature_layer='nowhere' .*down_blocks.1.attentions.0"),
        (
            dict(modulation_layer="up_blocks.2.attentions.1.transformer_blocks.0.attn1"),
            "no layer of this model that attends to words",
        ),
        (dict(feature_timestep=2), "feature_timestep=2 .* 1, 21, 41"),
        (dict(modulation_timestep=1001), "modulation_timestep=1001"),
        (dict(inversion="euler"), "'ddpm', 'ddim'"),
        (dict(offset_placement="inside"), "'after_projection', 'before_projection'"),
        (dict(mode="magic"), "choose one of 'exact'"),
        (dict(attention_injection="no"), "attention_injection='no' .* True or False"),
        (dict(num_mask=3), "no setting 'num_mask'; did you mean 'num_masks'"),
        (dict(num_masks="12"), "num_masks='12' .* whole number"),
        (dict(num_masks=True), "num_masks=True .* whole number"),
        (dict(num_inference_steps=50.0), "num_inference_steps=50.0 .* whole number"),
        (dict(num_parts=8.0), "num_parts=8.0 .* whole number"),
        (dict(prompt=["a", "b"]), "prompt=.* one string"),
        (dict(generator=5), r"torch.Generator\(\).manual_seed\(5\)"),
        (dict(filter_sigma=float("inf")), "filter_sigma=inf .* finite"),
        (dict(filter_sigma=1e6), "filter_sigma=1000000.0 .* at most 100"),
        (dict(modulation_strength=float("nan")), "modulation_strength=nan .* finite number above 0"),
        (dict(modulation_strength="ten"), "modulation_strength='ten' .* finite number above 0"),
        (dict(modulation_strength=0), "modulation_strength=0 .* above 0"),
        (dict(mask_batch_size=0), "mask_batch_size=0"),
        (dict(processing_resolution=-5), "processing_resolution=-5"),
        (dict(noise_ensemble_size=0), "noise_ensemble_size=0"),
        (dict(filter_sigma=-1), "filter_sigma=-1"),
        (dict(mask_batch_size=-2), "mask_batch_size=-2"),
        (dict(num_inference_steps=0), "num_inference_steps=0"),
    ],
)
def test_faulty_values_are_named(pipe, scene, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(scene.image, **options)


def test_save_pretrained_round_trip(pipe, scene, output, tmp_path):
    pipe.save_pretrained(tmp_path)
    reloaded = EmerDiffPipeline.from_pretrained(tmp_path)
    reloaded.set_progress_bar_config(disable=True)
    assert np.array_equal(reloaded(scene.image, generator=seeded(), **QUICK).labels, output.labels)
    assert load_image(scene.image) is not None


def test_fast_mode_is_its_shortcuts_and_they_can_be_overridden(pipe, scene):
    quick = dict(num_masks=3, modulation_timestep=81)
    fast = pipe(scene.image, mode="fast", generator=seeded(), **quick)
    spelt = pipe(
        scene.image,
        denoising_steps=2,
        one_sided=True,
        readout="latents",
        num_parts=16,
        modulation_strength=3.0,
        guide_radius=1.5,
        generator=seeded(),
        **quick,
    )
    assert np.array_equal(fast.labels, spelt.labels)
    assert fast.settings["denoising_steps"] == 2 and fast.settings["readout"] == "latents"
    exact = pipe(scene.image, generator=seeded(), **quick)
    assert exact.settings["denoising_steps"] is None and not np.array_equal(exact.labels, fast.labels)
    decoded = pipe(
        scene.image, mode="fast", readout="image", output_difference_maps=True, generator=seeded(), **quick
    )
    assert decoded.settings["readout"] == "image" and decoded.difference_maps.shape == (3, 128, 128)
    assert (
        pipe.resolve(num_masks=20, mode="fast").assignment.num_parts == 20
    )  # at least as many parts as segments


def test_images_of_a_list_share_batches_and_come_out_as_alone(pipe):
    scenes = [Toyscapes("test")[i].image for i in (0, 1)] + [Toyscapes("test")[2].image.crop((0, 0, 128, 96))]
    quick = dict(num_masks=9, modulation_timestep=41, mode="fast")
    together = pipe(scenes, generator=seeded(), **quick)
    generator = seeded()
    alone = [pipe(image, generator=generator, **quick) for image in scenes]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.coarse_masks, b.coarse_masks) and (a.labels == b.labels).mean() > 0.999
    assert together[2].labels.shape == (96, 128)


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (dict(readout="pixels"), "choose one of 'image', 'latents'"),
        (dict(denoising_steps=0), "at least 1"),
        (dict(guide_radius=float("nan")), "guide_radius=nan"),
        (dict(guide_radius=-1), "at least 0"),
        (dict(denoising_steps=2, inversion="ddim"), "inversion='ddpm'"),
        (dict(num_parts=1), "num_parts=1 .* at least 2"),
        (dict(mode="turbo"), "'exact', 'pixel', 'fast'"),
    ],
)
def test_impossible_shortcuts_are_named(pipe, scene, faulty, message):
    with pytest.raises(ValueError, match=message):
        pipe(scene.image, **(dict(num_masks=2, modulation_timestep=21) | faulty))


def test_stages_one_by_one_are_the_pipeline(pipe, scene, output):
    generator = seeded()
    coarse = pipe.coarse(scene.image, generator=generator, **QUICK)
    responses = pipe.respond(coarse)
    assert np.array_equal(pipe.assign(responses), output.labels)
    assert np.array_equal(coarse.masks.numpy(), output.coarse_masks) and coarse.size == (128, 128)
    assert np.array_equal(responses.difference_maps.numpy(), output.difference_maps)
    assert set(responses.seconds) == set(output.timings) and "modulate" not in coarse.seconds
    for text in map(repr, (coarse.trajectory, coarse, responses, output)):
        assert len(text) < 120, text


def test_a_stage_can_be_repeated_with_other_settings_of_its_own_only(pipe, scene):
    coarse = pipe.coarse(scene.image, generator=seeded(), **QUICK)
    exact, fast = pipe.respond(coarse), pipe.respond(coarse, mode="fast")
    whole = pipe(scene.image, mode="fast", generator=seeded(), **QUICK)
    assert np.array_equal(pipe.assign(fast), whole.labels) and fast.settings.mode == "fast"
    guided = pipe(scene.image, guide_radius=1.5, generator=seeded(), **QUICK)
    assert np.array_equal(pipe.assign(exact, guide_radius=1.5), guided.labels)
    assert not np.array_equal(guided.labels, pipe.assign(exact))
    with pytest.raises(ValueError, match="num_masks was settled at an earlier stage"):
        pipe.respond(coarse, num_masks=5)
    with pytest.raises(ValueError, match="modulation_layer was settled at an earlier stage"):
        pipe.assign(exact, modulation_layer="x")
    with pytest.raises(ValueError, match="invert with start_timestep=281"):
        pipe.respond(coarse, modulation_timestep=281)


def test_maps_without_decoding_are_filtered_in_pixels_of_the_picture(pipe, scene):
    """Comparing latents gives maps of 32 × 32; the Gaussian filter's unit is a pixel of the 128 × 128 picture all the same."""
    coarse = pipe.coarse(scene.image, generator=seeded(), **QUICK)
    maps = pipe.respond(coarse, readout="latents")
    assert maps.difference_maps.shape == (3, 32, 32)
    large = torch.nn.functional.interpolate(maps.difference_maps[:, None], size=(128, 128), mode="bilinear")[
        :, 0
    ]
    expected = np.stack([gaussian_filter(one.numpy(), 3.0) for one in large]).argmax(0)
    assert (pipe.assign(maps, filter_sigma=3.0) == expected).mean() > 0.999


def test_default_timesteps_move_to_those_that_are_visited(pipe, scene):
    output = pipe(scene.image, num_masks=2, num_inference_steps=10, generator=seeded(), noise_ensemble_size=1)
    assert output.settings["modulation_timestep"] == 501 and output.settings["feature_timestep"] in (201, 301)
    with pytest.raises(ValueError, match="modulation_timestep=481 .* 1, 101, 201"):
        pipe(scene.image, num_inference_steps=10, modulation_timestep=481)


def test_numbers_of_numpy_do_not_spoil_the_record(pipe, scene):
    output = pipe(
        scene.image,
        np.int64(2),
        modulation_strength=np.float32(5),
        modulation_timestep=np.int32(21),
        attention_injection=np.bool_(True),
    )
    record = json.loads(json.dumps(output.settings))
    assert record["modulation_strength"] == 5 and record["num_masks"] == 2


def test_more_steps_than_there_are_are_recorded_as_what_was_done(pipe, scene):
    output = pipe(scene.image, generator=seeded(), denoising_steps=99, **QUICK)
    assert output.settings["denoising_steps"] == 3  # 41, 21, 1


def test_images_modulated_together_share_shape_and_settings(pipe, scene):
    first = pipe.coarse(scene.image, generator=seeded(), **QUICK)
    second = pipe.coarse(scene.image, generator=seeded(), **QUICK | {"modulation_timestep": 21})
    with pytest.raises(ValueError, match="share their shape and settings"):
        pipe.respond([first, second])


def test_a_network_that_breaks_is_an_error_not_a_segmentation(scene):
    broken = EmerDiffPipeline.from_pretrained("toyscapes")
    broken.set_progress_bar_config(disable=True)
    with torch.no_grad():
        broken.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        broken(scene.image, generator=seeded(), **QUICK)
