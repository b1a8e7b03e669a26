"""Naming a data set: counts against a confusion by hand, the table against its definition."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix

from emerdiff_lib.baselines.upsamplers import guided_adaptive
from emerdiff_lib.datasets.images import named as positions
from emerdiff_lib.studies import naming as study
from emerdiff_lib.words import DenseFeatures, Vocabulary, name_places

from .conftest import run_cells

SETTINGS = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1, "num_parts": 12}


def brightness():
    """Light places are the first word's, dark ones the second's."""

    def of_image(image):
        grid = np.asarray(image.convert("L").resize((16, 16))) / 255.0
        return torch.from_numpy(np.stack([grid, 1 - grid], -1))

    of_texts = lambda texts: torch.tensor([[float("clouds" in t), float("car" in t)] for t in texts])
    return {"light": DenseFeatures(of_image, of_texts)}


def named_by_light(pipe, validation, folder, vocabularies=None, ways=study.WAYS):
    two = positions(validation, range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "text_aligned", lambda *_: brightness())
        return study.name_images(pipe, validation, two, folder, SETTINGS, "", vocabularies, ways)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("named")


@pytest.fixture(scope="module")
def named(pipe, validation, folder):
    return named_by_light(pipe, validation, folder)[study.CLASSES]


def test_every_way_is_counted_pixel_by_pixel(pipe, validation, named, folder):
    assert named.kinds == ["light"] and named.ways == list(study.WAYS)
    sample = validation[0]
    words, vocabulary = brightness()["light"], study.vocabulary_of(validation)
    found = name_places(words, words.features(sample.image, vocabulary), vocabulary, (128, 128))
    counts, classes = named.counts("light", study.ALONE)[0], range(len(validation.class_names))
    for index in classes:
        right = ((sample.labels == index) & (found == index)).sum()
        assert counts[index].tolist() == [right, (sample.labels == index).sum(), (found == index).sum()]
    model, vocabulary = brightness()["light"], study.vocabulary_of(validation)
    filtered = guided_adaptive(model.of_image(sample.image), np.asarray(sample.image))
    of_filters = vocabulary.labels(model.scores(filtered, vocabulary))
    for way, labels in ((study.ALONE, found), (study.FILTERED, of_filters)):
        expected = confusion_matrix(sample.labels.ravel(), labels.ravel(), labels=classes)
        np.testing.assert_array_equal(named.confusions("light", way)[0][:, :-1], expected)
    assert (found != of_filters).any()
    again = named_by_light(pipe, validation, folder)
    assert again[study.CLASSES].results.computed == 0


def test_the_tables_are_those_of_the_counts(named):
    table = study.table(named)
    right, true, seen = named.counts("light", study.PIXELS).sum(0).T
    iou = right[true > 0] / (true + seen - right)[true > 0]
    assert table.loc[("light", study.PIXELS), "mIoU"] == pytest.approx(100 * iou.mean())
    alone = table.loc[("light", study.ALONE)]
    assert alone["gain"] == 0 and np.isnan([alone["low"], alone["high"]]).all()  # two images have no interval
    gain = table.loc[("light", study.PIXELS), "mIoU"] - table.loc[("light", study.ALONE), "mIoU"]
    assert table.loc[("light", study.PIXELS), "gain"] == pytest.approx(gain)
    assert study.by_class(named).shape == (6, 10)


def test_one_pass_serves_many_vocabularies_and_a_threshold_refuses(pipe, validation, tmp_path, named):
    words = {name: study.TOYSCAPES_NAMES[name] for name in ("sky", "car")}
    said = {f"{t:g}": Vocabulary(words, threshold=t) for t in (0.0, 0.9, 1.0)}
    found = named_by_light(pipe, validation, tmp_path, said, [study.ALONE])
    others = [name for name in validation.class_names if name not in words]
    given = {"left_out": others, "best": "light", "pd": pd, "np": np}
    nothing_curve = run_cells("14_open_vocabulary", given, "def nothing_curve")["nothing_curve"]
    curve = nothing_curve(found, study.ALONE).set_index("threshold")
    assert curve.loc[0.0, "named"] == 100 and curve.loc[0.0, "refused"] == 0
    assert curve["refused"].is_monotonic_increasing and curve["named"].is_monotonic_decreasing
    light, first = brightness()["light"], [validation[i] for i in range(2)]
    seen = [light.features(sample.image, said["0"]) for sample in first]
    places = np.stack([name_places(light, one, said["0"], (128, 128)) for one in seen])
    labels = np.stack([sample.labels for sample in first])
    sky, car = labels == validation.class_names.index("sky"), labels == validation.class_names.index("car")
    right = (sky & (places == 0)).sum() + (car & (places == 1)).sum()
    assert curve.loc[0.0, "right"] == pytest.approx(100 * right / (sky | car).sum())


def test_the_vocabulary_is_the_data_set_s_in_the_words_of_captions(pipe, validation):
    vocabulary = study.vocabulary_of(validation)
    assert vocabulary.names == tuple(validation.class_names)
    known = pipe.tokenizer.get_vocab()
    assert all(word in known for word in vocabulary.words)


def test_features_that_are_not_there_are_refused(pipe, monkeypatch):
    study.text_aligned.cache_clear()
    monkeypatch.setattr(type(pipe), "reads_text", False)
    with pytest.raises(ValueError, match="reads no words, .* name a CLIP"):
        study.text_aligned(pipe)
