"""Where to take queries and where to modulate: against perfect features, and against another study's numbers."""

import numpy as np
import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.assignment import assign_bilinear
from emerdiff_lib.attention import attention_layers
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.datasets.images import first_samples
from emerdiff_lib.evaluation.metrics import contingency_table, mean_iou
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.evaluation.regions import cell_labels, true_masks
from emerdiff_lib.pipeline import load_pipeline
from emerdiff_lib.studies import domain_shift, layers
from emerdiff_lib.studies.names import BILINEAR

from . import tiny_stable_diffusion

LAYER = "up_blocks.2.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture
def scenes():
    return open_dataset("toyscapes", split="validation")


def test_perfect_features_read_to_the_ceiling(pipe, scenes, monkeypatch):
    """Queries that say each cell's class: the probe knows all, and masks are what the grid can reach."""
    count = len(scenes.class_names)

    def perfect(pipe, image, timestep, names, draws, seed, inversion):
        labels = next(s.labels for s in map(scenes.__getitem__, range(4)) if s.seed == seed)
        return {
            name: torch.eye(count)[torch.from_numpy(cell_labels(labels, (16, 16), count))] for name in names
        }

    monkeypatch.setattr(layers, "image_queries", perfect)
    found = layers.reading(pipe, scenes, range(4), [LAYER], [281], num_masks=count).loc[(LAYER, 281)]
    assert found["probe accuracy"] > 95  # all but classes that one half of the scenes does not have
    total = 0
    for i in range(4):
        truth = scenes[i].labels
        masks = torch.from_numpy(true_masks(truth, (16, 16), count))
        total += oracle(contingency_table(assign_bilinear(masks, truth.shape), truth, len(masks), count))
    assert found["oracle mIoU"] == pytest.approx(100 * mean_iou(total), abs=3)


def test_cells_of_no_known_class_are_left_out(scenes):
    labels = np.zeros((32, 32), np.uint8)
    labels[:16], labels[16:, 16:] = 255, 3
    scenes.ignore_index = 255
    queries, classes = layers.known_cells(torch.arange(4.0).reshape(2, 2, 1), labels, scenes)
    assert queries.ravel().tolist() == [2, 3] and classes.ravel().tolist() == [0, 3]


def test_a_push_is_that_of_the_other_study(pipe, scenes):
    """Domain shift pushes the same true masks at the default layer with the paper's steps."""
    other = LAYER.replace("up_blocks.2", "up_blocks.1")
    found = layers.push_true_masks(pipe, scenes, [LAYER, other], [481], {}, 0)
    for layer in (LAYER, other):
        settings = {"modulation_layer": layer}
        theirs = domain_shift.evaluate_scene(pipe, Toyscapes("validation")[0], settings)["boundary F"]
        assert found[BILINEAR] == pytest.approx(theirs["bilinear"])
        assert found[f"{layer} at 481"] == pytest.approx(theirs["modulated"], abs=1e-3)
    assert abs(found[f"{LAYER} at 481"] - found[f"{other} at 481"]) > 0.01


def test_reading_is_of_the_settings(pipe, scenes):
    """A picture at half the size has a quarter of the cells, too few for as many masks."""
    small = pipe.resolve(processing_resolution=64).inversion
    for inversion, rows in ((None, 1), (small, 0)):
        found = layers.reading(pipe, scenes, range(2), [LAYER], [281], 100, 1, inversion=inversion)
        assert len(found) == rows
    with pytest.raises(ValueError, match="num_pictures=1"):
        layers.reading(pipe, scenes, range(1), [LAYER], [281], 4)


def test_the_table_is_of_paired_means():
    results = [
        {BILINEAR: 0.5, "a at 1": 0.7, "b.c at 281": 0.4},
        {BILINEAR: 0.7, "a at 1": 0.9, "b.c at 281": 0.8},
    ]
    table = layers.pushing_table(results)
    assert table.loc[("a", 1)].tolist() == pytest.approx([80, 20, 20, 20])
    assert table.loc[("b.c", 281)].tolist() == pytest.approx([60, 0, -10, 10])


def test_joint_attention_is_shared_between_text_and_image_tokens(pipe, scenes, tmp_path):
    share = layers.attention_to_text(pipe, scenes, range(1), [LAYER], 281, pipe.resolve().inversion)
    assert share[LAYER] == pytest.approx(100, abs=1e-3)
    joint = load_pipeline(tiny_stable_diffusion.save(tmp_path / "model", 16, layout="3", num_masks=3))
    settings, names = {"num_inference_steps": 10}, joint.backbone.layers()
    tables = layers.study(joint, scenes, first_samples(scenes, 2), tmp_path / "out", settings)
    assert set(tables["Reading"].index.unique("layer")) == set(names) == set(tables["Attention"].index)
    shares = tables["Attention"]["% of attention to words"]
    assert ((shares > 0) & (shares < 100)).all() and len(tables["Pushing"]) == 3 * len(names)
