"""Named masks in place of labels: what is drawn and named, the segmenter that learns from it, and its scores."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from emerdiff_lib.datasets import Sample, open_dataset
from emerdiff_lib.loading import TOYSCAPES_FOLDER
from emerdiff_lib.studies import segmenter as study
from emerdiff_lib.studies.naming import ERROR, text_aligned, vocabulary_of
from emerdiff_lib.words import name_pixels

QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1}


def test_images_of_captions_are_drawn_and_named(pipe, tmp_path):
    training = open_dataset("toyscapes", split="train")
    (caption,) = study.captions_of(training, [1])
    (made,) = study.name_pixels_of(pipe, training, {"made-000001": caption}, tmp_path, QUICK, ERROR)
    sampler = StableDiffusionPipeline.from_pretrained(TOYSCAPES_FOLDER)
    sampler.set_progress_bar_config(disable=True)
    seeded = lambda: torch.Generator().manual_seed(study.crc32(b"made-000001"))
    drawn = sampler(caption, generator=seeded(), **study.DRAWING).images[0]
    assert np.abs(np.asarray(made.image, int) - np.asarray(drawn, int)).max() <= 1  # another memory layout
    responses = pipe.probe(pipe.cluster(made.image, generator=seeded(), mode="fast", **QUICK))
    named = name_pixels(text_aligned(pipe)[ERROR], responses, vocabulary_of(training))
    assert (made.labels == named).mean() > 0.99  # other batches, other rounding


def test_what_cannot_be_named_is_refused(pipe, tmp_path, monkeypatch):
    data = open_dataset("toyscapes")
    with pytest.raises(ValueError, match='use "pixel" or "fast"'):
        study.name_pixels_of(pipe, data, {}, tmp_path, {"mode": "exact"}, ERROR)
    monkeypatch.setattr(type(pipe), "reads_text", False)
    with pytest.raises(ValueError, match="it draws no captions; pass num_pictures=0"):
        study.name_pixels_of(pipe, data, {}, tmp_path, {}, ERROR)


def test_a_segmenter_learns_what_can_be_learnt():
    """Red is one class, blue the other, grey is ignored."""
    rng, samples = np.random.default_rng(0), []
    for i in range(8):
        labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), int))
        pixels = np.where(labels[..., None] == 0, (200, 30, 30), (30, 30, 200)).astype(np.uint8)
        labels[:8], pixels[:8] = 255, 128
        samples.append(Sample(f"{i}", Image.fromarray(pixels), labels.astype(np.uint8), i))
    model = study.train_segmenter(samples[:6], 2, (64, 64), steps=60, batch_size=6)
    right = 0.0
    for sample in samples[6:]:  # never seen
        found, known = study.predict(model, sample.image, (64, 64)), sample.labels != 255
        assert found.shape == (64, 64)
        right += (found == sample.labels)[known].mean() / 2
    assert right > 0.85
    one, other = (study.train_segmenter(samples[:6], 2, (64, 64), steps=2, batch_size=6) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_captions_of_other_data_sets_are_made_of_their_classes(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    labels = np.zeros((8, 8), np.uint8)
    labels[:2], labels[7] = 1, 255
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert study.captions_of(open_dataset("folder", tmp_path), [0]) == ["road and sky"]
