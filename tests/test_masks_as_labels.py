"""Masks in place of labels: the data set that is made, the segmenter that learns from it, and its scores, against the truth."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sklearn.metrics import confusion_matrix

from emerdiff_lib.checkpoints import TOYSCAPES_FOLDER
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.evaluation.metrics import label_counts
from emerdiff_lib.experiments import masks_as_labels as study
from emerdiff_lib.experiments.open_vocabulary import ERROR, text_aligned, vocabulary_of
from emerdiff_lib.words import name_pixels

QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1}


@pytest.fixture(scope="module")
def compared(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    training, reported = (open_dataset("toyscapes", split=split) for split in ("train", "validation"))
    run = lambda: study.compare(
        pipe, training, reported, 2, range(2), folder, QUICK, steps=2, generation={"num_inference_steps": 2}
    )
    return run(), run, folder


def test_pictures_of_captions_and_their_names_become_a_data_set(pipe, compared):
    (_, made), _, _ = compared
    data = made[study.MADE]
    assert len(data) == 2 and data.class_names == open_dataset("toyscapes").class_names
    sampler = StableDiffusionPipeline.from_pretrained(TOYSCAPES_FOLDER)
    sampler.set_progress_bar_config(disable=True)
    caption = study.captions_of(open_dataset("toyscapes", split="train"), [1])[0]
    generator = torch.Generator().manual_seed(study.crc32(b"made-000001"))
    drawn = sampler(caption, num_inference_steps=2, guidance_scale=3.0, generator=generator).images[0]
    assert np.abs(np.asarray(data[1].image, int) - np.asarray(drawn, int)).max() <= 1  # another memory layout
    generator = torch.Generator().manual_seed(study.crc32(b"made-000001"))
    responses = pipe.respond(pipe.coarse(data[1].image, generator=generator, mode="fast", **QUICK))
    named = name_pixels(text_aligned(pipe, kinds=(ERROR,))[ERROR], responses, vocabulary_of(data))
    assert (data[1].labels == named).mean() > 0.99  # other batches, other rounding


def test_real_pictures_stay_what_they_are_and_nothing_is_made_twice(compared):
    (scores, made), run, folder = compared
    training = open_dataset("toyscapes", split="train")
    assert np.array_equal(np.asarray(made[study.REAL][0].image), np.asarray(training[0].image))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("request.json")}
    assert len(times) == 6
    again, _ = run()
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("request.json")}
    for source, counts in scores.items():
        np.testing.assert_array_equal(again[source], counts)
    table = study.table(scores, draws=50)
    assert list(table.index) == list(study.SOURCES) and table.loc[study.TRUE, "− true labels"] == 0


def test_a_model_without_words_draws_no_captions(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(type(pipe), "tokenizer", None, raising=False)
    monkeypatch.delitem(pipe.__dict__, "tokenizer", raising=False)
    with pytest.raises(ValueError, match="it draws no captions; pass num_pictures=0"):
        study.compare(pipe, None, None, 2, range(2), tmp_path)


def test_scores_are_sklearn_s_and_refused_pixels_are_of_no_class():
    data = open_dataset("toyscapes", split="validation")
    found = np.random.default_rng(0).integers(0, 10, (128, 128))
    (counts,) = study.counts_of(data, [3], [found])
    wanted = label_counts(confusion_matrix(found.ravel(), data[3].labels.ravel(), labels=range(10)))
    np.testing.assert_array_equal(counts, wanted)
    (refused,) = study.counts_of(data, [3], [np.full((128, 128), 255)])
    assert refused[:, 0].sum() == refused[:, 2].sum() == 0 and refused[:, 1].sum() == 128 * 128


def test_a_segmenter_learns_what_can_be_learnt(tmp_path):
    """Red is one class, blue the other, grey is ignored."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for i in range(8):
        labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), int))
        pixels = np.where(labels[..., None] == 0, (200, 30, 30), (30, 30, 200)).astype(np.uint8)
        labels[:8], pixels[:8] = 255, 128
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    data = open_dataset("folder", tmp_path)
    model = study.train_segmenter(data, range(6), (64, 64), steps=60, batch_size=6)
    again = study.train_segmenter(data, range(6), (64, 64), steps=2, batch_size=6)
    right = 0.0
    for i in (6, 7):  # never seen
        found, known = study.predict(model, data[i].image, (64, 64)), data[i].labels != 255
        assert found.shape == (64, 64)
        right += (found == data[i].labels)[known].mean() / 2
    assert right > 0.85
    first, second = (study.train_segmenter(data, range(6), (64, 64), steps=2, batch_size=6), again)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_captions_of_other_data_sets_are_made_of_their_classes(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    labels = np.zeros((8, 8), np.uint8)
    labels[:2] = 1
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert study.captions_of(open_dataset("folder", tmp_path), [0]) == ["road and sky"]


def test_a_mode_without_responses_of_small_masks_is_refused(pipe, tmp_path):
    vocabulary = vocabulary_of(open_dataset("toyscapes"))
    with pytest.raises(ValueError, match='use "pixel" or "fast"'):
        study.NamedMasks(pipe, None, text_aligned, {}, vocabulary, tmp_path, {"mode": "exact"})
