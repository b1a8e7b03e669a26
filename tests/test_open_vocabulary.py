"""Naming a data set: counts against a confusion by hand, the table against its definition."""

import numpy as np
import pytest
import torch

from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.experiments import open_vocabulary as study
from emerdiff_lib.words import DenseFeatures, Vocabulary, name_places

SETTINGS = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1, "num_parts": 12}


@pytest.fixture(scope="module")
def data():
    return open_dataset("toyscapes", split="validation")


@pytest.fixture
def words():
    """Brightness: light places are the first word's, dark ones the second's."""

    def of_image(image):
        grid = np.asarray(image.convert("L").resize((16, 16))) / 255.0
        return torch.from_numpy(np.stack([grid, 1 - grid], -1))

    return DenseFeatures(
        of_image, lambda texts: torch.tensor([[float("clouds" in t), float("car" in t)] for t in texts])
    )


def test_every_way_is_counted_pixel_by_pixel(pipe, data, words, tmp_path):
    vocabulary = study.vocabulary_of(data)
    task = study.Naming(pipe, data, {"light": words}, {}, vocabulary, tmp_path, SETTINGS)
    items = study.sample_items(data, range(2))
    results = study.results_of(task, items)
    assert [list(r["counts"]["light"]) for r in results] == [list(study.WAYS)] * 2
    sample = data[0]
    found = name_places(words, sample.image, vocabulary)
    for index in range(len(data.class_names)):
        right = ((sample.labels == index) & (found == index)).sum()
        expected = [right, (sample.labels == index).sum(), (found == index).sum()]
        assert results[0]["counts"]["light"][study.ALONE][index] == expected
    again = study.results_of(task, items)
    assert again.report.states == {"kept": 2}
    table = study.table(results, draws=50)
    counts = study.stacked(results, "light", study.PIXELS).sum(0)
    right, true, seen = counts.T
    iou = right[true > 0] / (true + seen - right)[true > 0]
    assert table.loc[("light", study.PIXELS), "mIoU"] == pytest.approx(100 * iou.mean())
    assert table.loc[("light", study.ALONE), ["gain", "low", "high"]].tolist() == [0, 0, 0]
    gain = table.loc[("light", study.PIXELS), "mIoU"] - table.loc[("light", study.ALONE), "mIoU"]
    assert table.loc[("light", study.PIXELS), "gain"] == pytest.approx(gain)
    classes = study.by_class(results, data.class_names)
    assert classes.shape == (5, 10)


def test_none_of_these_is_right_nowhere(pipe, data, words, tmp_path):
    vocabulary = Vocabulary(study.TOYSCAPES_NAMES, threshold=1.0)
    task = study.Naming(pipe, data, {"light": words}, {}, vocabulary, tmp_path, SETTINGS)
    counts = np.array(task._counts(data[0].labels, np.full((128, 128), 10)))
    assert counts[:, 0].sum() == 0 and counts[:, 2].sum() == 0 and counts[:, 1].sum() == 128 * 128


def test_the_vocabulary_is_the_data_set_s_in_the_words_of_captions(pipe, data):
    vocabulary = study.vocabulary_of(data)
    assert vocabulary.names == tuple(data.class_names)
    known = pipe.tokenizer.get_vocab()
    assert all(word in known for word in vocabulary.words)


@pytest.mark.slow
def test_the_command_prints_the_table(tmp_path, capsys):
    study.main(["--limit", "2", "--num-masks", "4", "--output", str(tmp_path)])
    assert study.OWN in capsys.readouterr().out
