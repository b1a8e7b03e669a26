"""How defaults are chosen: one setting at a time, by a score of both kinds, and words that follow from it."""

import json

import numpy as np
import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.experiments import ablations, defaults
from emerdiff_lib.experiments.ablations import Bench
from emerdiff_lib.experiments.manifest import read_manifest
from emerdiff_lib.settings import Refinement

from .test_ablations import QUICK, made_up


def test_every_tuned_default_is_walked_around(pipe):
    walks, usual = defaults.walks(pipe), pipe.default_settings()
    tuned = {"filter_sigma", "modulation_strength", "modulation_timestep", "modulation_layer"}
    assert set(walks) == tuned | {"noise_ensemble_size", "feature_timestep"}
    for name, walk in walks.items():
        assert walk.points[walk.default] == {name: usual[name]} and len(walk.points) > 1
        assert all(set(changes) == {name} for changes in walk.points.values())
    assert list(defaults.walks(pipe, filter_sigma=0.7)["filter_sigma"].points) == [
        "0",
        "0.5",
        "0.7",
        "1",
        "2",
    ]


def test_scores_and_advice_by_hand():
    good, bad = made_up(0.8, 0.8, edges=0.7), made_up(0.6, 0.6, edges=0.5)
    assert defaults.mean_score(good) == pytest.approx((100 * 80 / 120 + 70) / 2)
    expected = (100 * (80 / 120 - 60 / 140) + 20) / 2
    assert defaults.mean_score_difference(good, bad, 20) == pytest.approx((expected,) * 3)
    mixed = [made_up(0.9, 0.6, 0.7), made_up(0.6, 0.9, 0.75)]
    found = {"a": {"1": bad, "2": good}, "b": {"1": good, "2": bad}, "c": {"1": mixed[0], "2": mixed[1]}}
    table = defaults.compare(found, dict.fromkeys(found, "1"), 50)
    assert (
        table.loc[("a", "2"), "is"] == "best, better, measurably" and table.loc[("a", "1"), "is"] == "default"
    )
    assert table.loc[("b", "1"), "is"] == "default, best" and table.loc[("c", "2"), "is"] == "best"
    first, second, third = defaults.advice(table)
    assert first.startswith("a: 2 is better than the default 1: +") and first.endswith("Move it.")
    assert second == "b: 1 is best and stays." and "cannot be told from the default 1" in third


def test_filters_in_their_usual_order_are_the_pipelines(pipe):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK, guide_radius=1.5).to_dict()
    bench = Bench(pipe, scene, usual)
    responses, refinement = pipe.respond(bench.coarse(usual)), Refinement(0.5, 1.5)
    labels = {
        order: defaults.refined(responses, order, pipe.vae_scale_factor, refinement)
        for order in defaults.ORDERS
    }
    assert np.array_equal(
        labels["Gaussian", "guided"], pipe.assign(responses, filter_sigma=0.5, guide_radius=1.5)
    )
    assert np.array_equal(labels["Gaussian",], pipe.assign(responses, filter_sigma=0.5, guide_radius=0.0))
    assert np.array_equal(labels[()], responses.difference_maps.argmax(0))
    assert not np.array_equal(labels["Gaussian", "guided"], labels["guided", "Gaussian"])
    assert torch.equal(responses.difference_maps, pipe.respond(bench.coarse(usual)).difference_maps)


@pytest.mark.parametrize("question", defaults.QUESTIONS)
def test_the_command_writes_what_it_found(pipe, tmp_path, monkeypatch, question):
    monkeypatch.setattr(ablations, "load_pipeline", lambda *names: pipe)
    walks = defaults.walks
    monkeypatch.setattr(
        defaults, "walks", lambda pipe, **k: {"filter_sigma": walks(pipe, **k)["filter_sigma"]}
    )
    arguments = ["--num-scenes", "1", "--settings", json.dumps(QUICK), "--output", str(tmp_path)]
    table = defaults.main([*arguments, "--question", question])
    manifest = read_manifest(tmp_path / f"{question}.json")
    assert manifest["seeds"] == {"tuning": "1000"} and manifest["settings"]["num_masks"] == 3
    assert f"--question {question} --first-scene 1000 --num-scenes 1" in manifest["command"]
    (kept,) = manifest["tables"].values()
    assert np.allclose(kept["mean"], table["mean"]) and len(manifest["notes"]) == 1
    assert (table["is"].str.contains("best").sum(), table["is"].str.contains("default").sum()) == (1, 1)
    with pytest.raises(ValueError, match="did you mean 'defaults'"):
        defaults.main([*arguments, "--question", "default"])
