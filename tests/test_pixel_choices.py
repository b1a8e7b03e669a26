"""How pixel mode was chosen: every walk starts at what is used, and the commands end with a manifest."""

from dataclasses import asdict

import numpy as np
import pytest

from emerdiff_lib.experiments import pixel_choices, tangents
from emerdiff_lib.experiments.ablations import Study
from emerdiff_lib.experiments.manifest import read_manifest
from emerdiff_lib.experiments.names import EMERDIFF
from emerdiff_lib.experiments.published import published
from emerdiff_lib.pixels import RECIPE
from emerdiff_lib.settings import MODES

QUICK = {
    "mode": "pixel",
    "num_parts": 12,
    "num_masks": 4,
    "modulation_timestep": 41,
    "noise_ensemble_size": 1,
}


@pytest.fixture
def study(pipe, tmp_path):
    return Study(pipe, [1240], tmp_path, QUICK)


@pytest.mark.parametrize("question", ["responses", "recipe", "fast"])
def test_every_walk_starts_at_what_is_used(pipe, study, question):
    for name, sweep in pixel_choices.walks(pipe, study.usual, question).items():
        usual = sweep.points[sweep.default]
        if "recipe" in usual:
            assert usual["recipe"][name] == asdict(RECIPE)[name]
        elif question == "fast":
            assert usual == MODES["fast"] and sweep.points[EMERDIFF]["modulation_strength"] == 10.0
        else:
            assert all(study.usual[key] == value for key, value in usual.items())
        for changes in sweep.points.values():
            assert set(changes) <= {*study.usual, "recipe"}
            assert set(changes.get("recipe", {})) <= set(asdict(RECIPE))


def test_a_recipe_changes_the_segments_and_not_the_responses(study):
    bench = study.trials.bench(1240)
    usual = bench.evaluate(study.usual)
    same = bench.evaluate(study.usual | {"recipe": {"clusters": RECIPE.clusters}})
    other = bench.evaluate(study.usual | {"recipe": {"clusters": 5, "adaptive": 0}})
    assert same[EMERDIFF] == usual[EMERDIFF] != other[EMERDIFF]
    assert same["seconds"] == usual["seconds"]  # of the responses that all three share
    assert np.array(usual[EMERDIFF]["table"]).sum() == 128 * 128


def test_rivals_are_walked_around_their_own_defaults(study, monkeypatch):
    few = {name: (f, {k: v[:1] for k, v in o.items()}) for name, (f, o) in pixel_choices.UPSAMPLERS.items()}
    monkeypatch.setattr(pixel_choices, "UPSAMPLERS", few)
    found, defaults = pixel_choices.rivals(study, iter)
    assert set(found) == set(defaults)
    assert all(defaults[name] in points for name, points in found.items())
    assert defaults["guided filter: radius_in_cells"] == "1.5"
    assert {len(results) for points in found.values() for results in points.values()} == {1}


def test_tangents_are_compared_with_every_push(study):
    found, rows = tangents.compare(study, iter)
    assert set(found) == {tangents.TANGENT, *tangents.PUSHES} == set(rows["way"])
    by_way = rows.set_index("way")["unlike"]
    assert by_way[tangents.TANGENT] == pytest.approx(0, abs=1e-5)
    assert 0 <= by_way["λ = 1"] < by_way["λ = 3"] < by_way["λ = 10"] < 2


@pytest.mark.slow
def test_the_commands_write_manifests(tmp_path):
    settings = ["--settings", '{"num_parts": 12, "modulation_timestep": 41}', "--num-masks", "4"]
    for question in pixel_choices.QUESTIONS:
        given = ["--question", question, "--num-scenes", "1", "--output", str(tmp_path)]
        pixel_choices.main(settings + given)
        assert read_manifest(tmp_path / f"pixel_{question}.json")["notes"]
    pixel_choices.main([*settings, *given, "--question", "recipe", "--numbers", "reach", "floor"])
    manifest = read_manifest(tmp_path / "pixel_recipe_reach_floor.json")
    assert manifest["command"].endswith("--numbers reach floor") and len(manifest["notes"]) == 2
    tangents.main([*settings, "--num-scenes", "1", "--output", str(tmp_path)])
    assert read_manifest(tmp_path / "tangents.json")["notes"]


def test_published_numbers_name_their_protocol_and_source():
    table = published()
    protocols = {"traditional", "modified", "per-image matching", "supervised"}
    assert set(table.index.get_level_values("protocol")) == protocols
    assert table["source"].str.match(r"arXiv \d{4}\.\d{5}, Table \d").all()
