"""Notebook 13 on where to take queries and where to modulate: against perfect features, and another notebook's numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.assignment import assign_bilinear
from emerdiff_lib.datasets.images import first_samples
from emerdiff_lib.evaluation.metrics import contingency_table, mean_iou
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.evaluation.regions import cell_labels, true_masks
from emerdiff_lib.pipeline import load_pipeline
from emerdiff_lib.studies import two_stages
from emerdiff_lib.studies.names import BILINEAR

from . import tiny_stable_diffusion
from .conftest import run_cells

LAYER = "up_blocks.2.attentions.0.transformer_blocks.0.attn2"


def cells_of_13(pipe, scenes, count, *texts, override=None, **given):
    """The notebook's cells on the layers of one model up to those that hold ``texts``."""
    namespace = {"pipes": {"one": pipe}, "looked_into": "one", "given": given, "scenes": scenes}
    namespace["layer_samples"] = first_samples(scenes, count)
    namespace |= {"np": np, "pd": pd, "torch": torch, "Toyscapes": Toyscapes, "two_stages": two_stages}
    namespace |= {"mean_iou": mean_iou, "assign_bilinear": assign_bilinear}
    namespace = run_cells("13_cross_model", namespace, "pipe, changes =") | (override or {})
    return run_cells("13_cross_model", namespace, *texts)


def test_perfect_features_read_to_the_upper_bound(pipe, validation):
    """Queries that say each cell's class: the probe knows all, and masks are what the grid can reach."""
    count = len(validation.class_names)

    def perfect(pipe, image, timestep, names, draws, seed, inversion):
        cells = cell_labels(Toyscapes.from_seed(seed).coarse_labels, (16, 16), count)
        return {name: torch.eye(count)[torch.from_numpy(cells)] for name in names}

    override = {"image_queries": perfect, "layers": [LAYER]}
    cells = cells_of_13(pipe, validation, 4, "by_sample = ", override=override, num_masks=count)
    row = cells["reading"].loc[(LAYER, 281)]
    assert row["probe accuracy"] > 95  # all but classes that one half of the scenes does not have
    total = 0
    for i in range(4):
        truth = validation[i].labels
        masks = torch.from_numpy(true_masks(truth, (16, 16), count))
        total += oracle(contingency_table(assign_bilinear(masks, truth.shape), truth, len(masks), count))
    assert row["oracle mIoU"] == pytest.approx(100 * mean_iou(total), abs=3)


def test_modulation_is_that_of_the_other_study(pipe, validation):
    """Notebook 09 modulates the layer that its settings name by the same true masks."""
    other = LAYER.replace("up_blocks.2", "up_blocks.1")
    cells = cells_of_13(pipe, validation, 1, "def modulate_true_masks", override={"layers": [LAYER, other]})
    cells["modulated_at"] = [481]  # of three timesteps, theirs
    scores = cells["modulate_true_masks"](0)
    for layer in (LAYER, other):
        settings = {"modulation_layer": layer, "denoising_steps": 6}
        theirs = two_stages.evaluate_scene(pipe, Toyscapes("validation")[0], settings)["boundary F"]
        assert scores[BILINEAR] == pytest.approx(theirs["bilinear"])
        assert scores[f"{layer} at 481"] == pytest.approx(theirs["modulated"], abs=1e-3)
    assert abs(scores[f"{LAYER} at 481"] - scores[f"{other} at 481"]) > 0.01


def test_joint_attention_is_shared_between_text_and_image_tokens(pipe, validation, tmp_path):
    attend = cells_of_13(pipe, validation, 1, "def attention_to_text", override={"layers": [LAYER]})
    assert attend["attention_to_text"](281).loc[LAYER].item() == pytest.approx(100, abs=1e-3)
    joint = load_pipeline(tiny_stable_diffusion.save(tmp_path / "model", 16, layout="3", num_masks=3))
    cells = cells_of_13(joint, validation, 2, "def attention_to_text", num_inference_steps=10)
    shares = cells["attention_to_text"](201)["% of attention to text"]
    assert list(shares.index) == joint.backbone.layers() and shares.between(1e-9, 100 - 1e-9).all()
