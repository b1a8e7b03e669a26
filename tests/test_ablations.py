"""Sweeps: grids that the checkpoint has, results that are the pipeline's, resumable, shared; tables by hand."""

import re

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.evaluation.metrics import boundary_scores, contingency_table
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.studies import ablations, names
from emerdiff_lib.studies.ablations import CAPTION, evaluate, invert_scene, run_sweeps

from .conftest import run_cells, seeded
from .tiny_stable_diffusion import save

QUICK = {"num_masks": 3, "modulation_timestep": 21, "feature_timestep": 21, "noise_ensemble_size": 2}


def test_grids_stay_within_what_another_model_has(tmp_path):
    """One cell per mask is the most: 8 × 8 latents leave 2 × 2 cells in the paper's block."""
    pipe = EmerDiffPipeline.from_pretrained(save(tmp_path / "tiny", sample_size=8))
    settings = {"num_masks": 3, "num_inference_steps": 10}
    given, sweeps = {"pipe": pipe, "usual": pipe.resolve(**settings).to_dict()}, {}
    given |= {"np": np, "re": re}
    given["run"] = lambda name, *what, **more: sweeps.update({name: given["Sweep"](*what, **more)})
    texts = ("class Sweep", "def each", "near = ", "short_layer", "around_k", 'run("layer', "t_fs = ")
    run_cells("07_ablations", given, *texts)
    assert list(sweeps["num_masks"].points) == ["2", "3", "4"] and len(sweeps["layer"].points) == 9
    for name in ("feature_timestep", "modulation_timestep"):
        timesteps = {changes[name] for changes in sweeps[name].points.values()}
        assert timesteps <= set(range(1, 1000, 100)) and len(timesteps) == len(sweeps[name].points)
    assert sweeps["feature_timestep"].default == "1"  # a single draw is this family's own


def expected(output, scene, labels):
    return {
        "table": contingency_table(labels, scene.coarse_labels, len(output.coarse_masks), 10).tolist(),
        "boundary_f": boundary_scores(labels, scene.labels, 2)[2],
    }


def test_results_are_what_the_pipeline_says(pipe):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK).to_dict()
    inverted = invert_scene(pipe, scene, usual)
    output = pipe(scene.image, generator=seeded(3), **QUICK)
    result = evaluate(pipe, inverted, usual)
    assert result["EmerDiff"] == expected(output, scene, output.labels)
    assert result["bilinear"] == expected(output, scene, output.baseline_labels)
    assert np.allclose(result["embeddings"], output.mask_embeddings, atol=1e-5)
    # a later t_m than the usual one keeps masks and noises, and so does every other change of the modulation
    for changes in ({"modulation_timestep": 41}, {"modulation_strength": 50.0, "one_sided": True}):
        output = pipe(scene.image, coarse_masks=output.coarse_masks, generator=seeded(3), **QUICK | changes)
        result = evaluate(pipe, inverted, usual | changes)
        assert result["EmerDiff"] == expected(output, scene, output.labels), changes
    # settings of the queries make masks of their own, from the same noise
    output = pipe(scene.image, generator=seeded(3), **QUICK | {"num_masks": 5})
    result = evaluate(pipe, inverted, usual | {"num_masks": 5})
    assert result["EmerDiff"] == expected(output, scene, output.labels)
    with pytest.raises(ValueError, match="contradicts the trajectory"):
        evaluate(pipe, inverted, usual | {"processing_resolution": 64})


FEATURES = {"features": "smoothed"}, {"features": "with positions"}


@pytest.mark.parametrize("change", [*FEATURES, {"prompt": CAPTION}])
def test_what_the_pipeline_does_not_know_changes_the_masks(pipe, change):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK).to_dict()
    inverted = invert_scene(pipe, scene, usual)
    plain, other = (evaluate(pipe, inverted, settings) for settings in (usual, usual | change))
    assert len(other["embeddings"]) == 3 and other["bilinear"] != plain["bilinear"]
    if "prompt" in change:
        output = pipe(scene.image, generator=seeded(3), **QUICK | {"prompt": scene.caption})
        assert other["EmerDiff"] == expected(output, scene, output.labels)


def test_sweeps_share_results(pipe, tmp_path, monkeypatch):
    calls, original = [], ablations.evaluate

    def counted(pipe, inverted, settings):
        calls.append((inverted.scene.seed, settings["modulation_strength"], settings["attention_injection"]))
        return original(pipe, inverted, settings)

    monkeypatch.setattr(ablations, "evaluate", counted)
    usual = pipe.resolve(**QUICK).to_dict()
    strength = {"10": {"modulation_strength": 10.0}, "1": {"modulation_strength": 1.0}}
    injection = {"with": {}, "without": {"attention_injection": False}}
    results = run_sweeps(pipe, {"strength": strength, "injection": injection}, usual, range(2), tmp_path)
    assert calls == [(seed, *rest) for seed in (0, 1) for rest in ((10, True), (1, True), (10, False))]
    assert results["strength"]["10"] == results["injection"]["with"] != results["injection"]["without"]
    points = results["strength"]
    assert points["10"][0]["bilinear"] == points["1"][0]["bilinear"]
    assert points["10"][0]["EmerDiff"] != points["1"][0]["EmerDiff"]


def made_up(*accuracies, edges=0.5):
    """One result per scene: two segments, of which a share of ``accuracy`` of 100 pixels each is of its class."""
    rows = []
    for value in accuracies:
        right = int(100 * value)
        scores = {"table": [[right, 100 - right], [100 - right, right]], "boundary_f": edges}
        rows.append({"EmerDiff": scores, "bilinear": scores, "embeddings": [[0.0], [1.0]]})
    return rows


@pytest.fixture(scope="module")
def cells():
    """Functions of notebook 07's tables."""
    given = {"np": np, "pd": pd, "oracle": oracle, "EMERDIFF": names.EMERDIFF, "BILINEAR": names.BILINEAR}
    texts = ("class Sweep", "def scores", "def levels_of", "def paired", "def compare", "def agreement")
    return run_cells("07_ablations", given, *texts)


GOOD, BAD = made_up(*[0.8] * 8), made_up(*[0.6] * 8, edges=0.25)


def letters(cells, default="a", **others):
    cells["usual"] = {"x": default}
    return cells["Sweep"]("letters", {"b": {"x": "b"}, "a": {"x": "a"}}, **others)


MIXED = {"a": made_up(*[0.9, 0.6, 0.7, 0.7] * 2), "b": made_up(*[0.6, 0.9, 0.8, 0.7] * 2)}
CLOSE = {"a": made_up(*[0.7, 0.71] * 4), "b": made_up(*[0.71, 0.7] * 4)}
SLIGHT = {"a": made_up(*[0.7] * 8), "b": made_up(*[0.7, 0.72, 0.73, 0.75] * 2)}


@pytest.mark.parametrize(
    ("points", "best", "word"),
    [
        ({"a": GOOD, "b": BAD}, "a", "holds"),
        ({"a": GOOD, "b": BAD}, "b", "fails"),
        ({"a": GOOD, "b": BAD}, "ab", "fails"),
        (MIXED, "ab", "open"),  # a difference that is not significant may still be large
        (CLOSE, "ab", "holds"),
        (SLIGHT, "ab", "open"),  # b is ahead, and its lead may be below three points or above
        (SLIGHT, "b", "holds"),
        ({"a": GOOD[:7], "b": BAD[:7]}, "a", "open"),  # too few for a verdict
        (MIXED, "c", ""),
    ],
)
def test_whether_the_papers_finding_holds(cells, points, best, word):
    agreement, levels = cells["agreement"], cells["levels_of"](points)
    given, difference = agreement(points, levels, letters(cells, paper_best=tuple(best)))
    assert given == word
    if points.get("a") is GOOD:  # by hand: 80 of 120 pixels of each class, and 60 of 140
        assert difference == "a − b: +23.8 [+23.8, +23.8]"
