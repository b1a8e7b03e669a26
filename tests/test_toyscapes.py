"""The world is the same everywhere and exact; the bundled model is what it claims to be."""

import hashlib

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from emerdiff_lib import Toyscapes
from emerdiff_lib.checkpoints import TOYSCAPES_FOLDER
from emerdiff_lib.toyscapes import drawing, world
from emerdiff_lib.train import architecture
from emerdiff_lib.train.sources import ToyscapesScenes

DIGEST = "bf0b07bcb451a188"  # of the first 20 test scenes; changes only when the world is changed on purpose


def digest(seeds) -> str:
    total = hashlib.sha256()
    for seed in seeds:
        image, labels, caption = world.draw_scene(seed)
        total.update(image.tobytes() + labels.tobytes() + caption.encode())
    return total.hexdigest()[:16]


def test_the_same_bytes_on_every_machine():
    assert digest(range(20)) == DIGEST


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    alone = Toyscapes("test")[5]
    again = [Toyscapes("test")[i] for i in (3, 9, 5)][-1]
    assert np.array_equal(alone.labels, again.labels) and alone.image.tobytes() == again.image.tobytes()


def test_splits_are_disjoint_and_refuse_what_they_do_not_have():
    test, validation, training = (Toyscapes(s) for s in ("test", "validation", "train"))
    assert (
        (len(test), len(validation)) == (1000, 1000)
        and training[0].seed == 2000
        and validation[0].seed == 1000
    )
    assert training.seeds[-1] < 900_000 and Toyscapes("test")[-1].seed == 999
    with pytest.raises(IndexError, match="scenes 0 to 999"):
        test[1000]
    with pytest.raises(ValueError, match="'test', 'validation', 'train'"):
        Toyscapes("tset")


def test_labels_classes_and_palette_fit_together():
    scene = Toyscapes("test")[0]
    assert scene.image.size == (128, 128) and scene.labels.shape == scene.coarse_labels.shape == (128, 128)
    assert scene.labels.dtype == np.uint8 and len(Toyscapes.palette) == len(Toyscapes.class_names) == 18
    assert len(Toyscapes.coarse_class_names) == 10
    fine, coarse = Toyscapes.class_names, Toyscapes.coarse_class_names
    pairs = {
        (fine[f], coarse[c])
        for s in map(Toyscapes("test").__getitem__, range(40))
        for f, c in np.unique(np.stack([s.labels.ravel(), s.coarse_labels.ravel()]), axis=1).T
    }
    assert {
        ("wheel", "car"),
        ("crown", "tree"),
        ("sail", "boat"),
        ("roof", "building"),
        ("sun", "sky"),
    } <= pairs
    assert len(pairs) == 18  # every class occurs, each in one group


@pytest.mark.parametrize(
    "word,classes",
    [
        ("lake", ["water"]),
        ("sea", ["water"]),
        ("house", ["wall", "roof", "door", "window"]),
        ("car", ["car"]),
        ("boat", ["hull", "sail"]),
        ("person", ["person"]),
    ],
)
def test_captions_tell_the_truth(word, classes):
    ids, told = [Toyscapes.class_names.index(c) for c in classes], 0
    for scene in map(Toyscapes("test").__getitem__, range(60)):
        if f" {word}" in scene.caption:
            told += 1
            assert np.isin(scene.labels, ids).mean() > 0.001, (scene.seed, scene.caption)
    assert told > 3


def test_every_word_is_in_the_vocabulary():
    tokenizer = architecture.build_tokenizer(ToyscapesScenes.words)
    ids = architecture.tokenize(tokenizer, [Toyscapes("train")[i].caption for i in range(200)])
    assert ids.shape == (200, 64) and (ids != tokenizer.unk_token_id).all()


def test_shapes_against_their_definitions():
    y, x = np.mgrid[:40, :40] / 40
    x, y = x[:1].astype(np.float32), y[:, :1].astype(np.float32)
    grid_x, grid_y = np.broadcast_arrays(x, y)
    triangle = drawing.convex((0.1, 0.9), (0.5, 0.1), (0.9, 0.9)).inside(x, y)
    expected = (grid_y <= 0.9) & (grid_y >= 0.9 - 2 * (grid_x - 0.1)) & (grid_y >= 0.9 - 2 * (0.9 - grid_x))
    assert (triangle == expected).mean() > 0.99
    assert drawing.ellipse(0.5, 0.5, 0.3, 0.2).inside(x, y).mean() == pytest.approx(np.pi * 0.06, abs=0.01)
    ridge = drawing.below([0, 1], [0.2, 0.6], 0.9).inside(x, y)
    assert np.array_equal(
        ridge, (grid_y >= np.float32(0.2) + (np.float32(0.6) - np.float32(0.2)) * grid_x) & (grid_y < 0.9)
    )


def test_labels_are_the_majority_of_their_samples():
    canvas = drawing.Canvas(4, 0, 0, 1)
    canvas.labels[:] = [[1, 1, 5, 2], [1, 9, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert canvas.develop(lambda x, y: 1 + 0 * (x + y))[1].tolist() == [[1, 2], [3, 4]]


# -- the bundled model


def test_stable_diffusion_pipeline_loads_the_bundled_model_and_draws():
    pipeline = StableDiffusionPipeline.from_pretrained(TOYSCAPES_FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a picture of the sea at day", num_inference_steps=5, output_type="np").images
    assert images.shape == (1, 128, 128, 3) and images.std() > 0.02


@torch.no_grad()
def test_the_model_listens_to_captions(pipe):
    """On held-out scenes the right caption predicts the noise better than another scene's caption does."""
    scenes = [Toyscapes("validation")[i] for i in range(24)]
    clean = torch.cat([pipe.encode(scene.image, 128) for scene in scenes])
    noise, alpha_bar = (
        torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)),
        pipe.denoiser().alpha_bar(500),
    )
    noisy = alpha_bar.sqrt().item() * clean + (1 - alpha_bar).sqrt().item() * noise

    def errors(captions):
        text = pipe.text_encoder(architecture.tokenize(pipe.tokenizer, captions))[0]
        return (pipe.unet(noisy, 500, text).sample - noise).square().mean((1, 2, 3))

    captions = [scene.caption for scene in scenes]
    assert (errors(captions) < errors(captions[7:] + captions[:7])).float().mean() > 0.75


def test_the_autoencoder_reconstructs(pipe):
    errors = [
        torch.tensor(np.asarray(s.image) / 255).permute(2, 0, 1) - pipe.decode(pipe.encode(s.image, 128))[0]
        for s in map(Toyscapes("test").__getitem__, range(4))
    ]
    psnr = torch.stack([-10 * e.square().mean().log10() for e in errors]).mean()
    assert psnr > 29


def test_size_and_card():
    assert sum(f.stat().st_size for f in TOYSCAPES_FOLDER.rglob("*.safetensors")) <= 20e6
    assert not list(TOYSCAPES_FOLDER.rglob("*.bin")) + list(TOYSCAPES_FOLDER.rglob("*.ckpt"))
    assert "## Limits" in (TOYSCAPES_FOLDER / "README.md").read_text()
