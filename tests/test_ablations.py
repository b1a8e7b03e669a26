"""Sweeps: grids that the checkpoint has, results that are the pipeline's, resumable, shared; tables and words by hand."""

import json

import numpy as np
import pytest
import torch

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.evaluation.metrics import boundary_scores, contingency_table
from emerdiff_lib.experiments import ablation_tables, ablations
from emerdiff_lib.experiments.ablation_sweeps import CAPTION, Sweep, choose, short_layer_names, sweeps
from emerdiff_lib.experiments.ablations import Bench, Study, scene_seeds, transformed

from .conftest import seeded
from .tiny_stable_diffusion import save

QUICK = {"num_masks": 3, "modulation_timestep": 21, "feature_timestep": 21, "noise_ensemble_size": 2}


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return EmerDiffPipeline.from_pretrained(save(tmp_path_factory.mktemp("sd") / "tiny", sample_size=8))


# -- what is swept --------------------------------------------------------------------------------------------------


def test_every_setting_of_the_paper_is_swept_around_the_defaults(pipe):
    found = sweeps(pipe)
    assert {sweep.source for sweep in found.values()} >= {f"Table {n}" for n in range(4, 10)} | {"Fig. 14"}
    assert list(found["num_masks"].points) == ["8", "12", "16", "24"]
    assert list(found["modulation_timestep"].points) == ["81", "281", "381", "481", "681"]
    assert list(found["modulation_strength"].points) == ["1", "3", "10", "30", "100"]
    assert len(found["layer"].points) == 2 * 2 and len(found["placement"].points) == 2 * 2 * 3
    usual = pipe.default_settings()
    for name, sweep in found.items():
        unchanged = [label for label, changes in sweep.points.items() if changes.items() <= usual.items()]
        assert unchanged[:1] == [sweep.default] if sweep.default else unchanged == [], name
    assert [name for name, sweep in found.items() if sweep.default is None] == [
        "feature_timestep",
        "num_parts",
    ]
    assert not set(found["layer"].paper_best) - set(found["layer"].points)


def test_grids_stay_within_what_another_model_has(stable_diffusion):
    """One cell per mask is the most: 8 × 8 latents leave 2 × 2 cells in the paper's block."""
    found = sweeps(stable_diffusion, num_masks=3, num_inference_steps=10)
    assert list(found["num_masks"].points) == ["2", "3", "4"] and len(found["layer"].points) == 9
    for name in ("feature_timestep", "modulation_timestep"):
        timesteps = {changes[name] for changes in found[name].points.values()}
        assert timesteps <= set(range(1, 1000, 100)) and len(timesteps) == len(found[name].points)
    assert found["feature_timestep"].default == "1"  # a single draw is this family's own


def test_layers_are_named_apart():
    layers = [f"up_blocks.1.attentions.{i}.transformer_blocks.{j}.attn2" for i in (0, 2) for j in (0, 1)]
    assert list(short_layer_names(layers[::2]).values()) == ["up 1.0", "up 1.2"]
    assert list(short_layer_names(layers).values()) == ["up 1.0.0", "up 1.0.1", "up 1.2.0", "up 1.2.1"]
    assert short_layer_names(["mid_block.attentions.0.transformer_blocks.0.attn2"]).popitem()[1] == "mid.0"


def test_unknown_sweeps_and_scenes_are_one_sentence(pipe):
    available = sweeps(pipe)
    with pytest.raises(ValueError, match="did you mean 'num_masks'.*'placement'"):
        choose(available, ["num_mask"])
    assert list(choose(available, ["prompt", "num_masks"])) == ["num_masks", "prompt"]
    assert choose(available, []) == available
    for first, count, name in ((-5, 1, "first_scene"), (0, 0, "num_scenes"), (1999, 2, "num_scenes")):
        with pytest.raises(ValueError, match=f"^{name}="):
            scene_seeds(first, count)
    with pytest.raises(ValueError, match="'smoothed', 'with positions'"):
        transformed(None, "sharpened")


# -- running them ---------------------------------------------------------------------------------------------------


def expected(output, scene, labels):
    return {
        "table": contingency_table(labels, scene.coarse_labels, len(output.coarse_masks), 10).tolist(),
        "boundary_f": boundary_scores(labels, scene.labels, 2)[2],
    }


def test_results_are_what_the_pipeline_says(pipe):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK).to_dict()
    bench = Bench(pipe, scene, usual)
    output = pipe(scene.image, generator=seeded(3), output_difference_maps=True, **QUICK)
    result = bench.evaluate(usual)
    assert result["EmerDiff"] == expected(output, scene, output.labels)
    assert result["bilinear"] == expected(output, scene, output.baseline_labels)
    assert np.allclose(result["embeddings"], output.mask_embeddings, atol=1e-5)
    assert result["hints"]["response"] == pytest.approx(output.difference_maps.max(0).mean(), rel=1e-5)
    # a later t_m than the usual one keeps masks and noises, and so does every other change of the modulation
    for changes in ({"modulation_timestep": 41}, {"modulation_strength": 50.0, "one_sided": True}):
        output = pipe(scene.image, coarse_masks=output.coarse_masks, generator=seeded(3), **QUICK | changes)
        assert bench.evaluate(usual | changes)["EmerDiff"] == expected(output, scene, output.labels), changes


@pytest.mark.parametrize(
    "change", [{"features": "smoothed"}, {"features": "with positions"}, {"prompt": CAPTION}]
)
def test_what_the_pipeline_does_not_know_changes_the_masks(pipe, change):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK).to_dict()
    bench = Bench(pipe, scene, usual)
    plain, other = (bench.evaluate(settings) for settings in (usual, usual | change))
    assert len(other["embeddings"]) == 3 and other["bilinear"] != plain["bilinear"]
    if "prompt" in change:
        assert bench.trajectory.prompt == "" and other["layer_rms"] != plain["layer_rms"]


def test_positions_weigh_twice_what_the_queries_do():
    queries = torch.randn(8, 6, 5, generator=seeded())
    found = transformed(queries, "with positions")
    assert found.shape == (8, 6, 7) and found[..., :5].equal(queries)
    total = lambda part: part.flatten(0, 1).var(0).sum().sqrt().item()
    assert total(found[..., 5:]) == pytest.approx(2 * total(queries), rel=1e-4)


def test_sweeps_share_results_and_go_on(pipe, tmp_path, monkeypatch):
    calls = {"evaluate": [], "coarse": 0, "respond": 0}
    evaluate, coarse, respond = Bench.evaluate, type(pipe).coarse, type(pipe).respond

    def counted(name, function):
        def wrapped(self, *args, **kwargs):
            calls[name] += 1
            return function(self, *args, **kwargs)

        return wrapped

    def noted(self, settings):
        calls["evaluate"].append((self.scene.seed, settings["modulation_strength"], settings["num_masks"]))
        return evaluate(self, settings)

    monkeypatch.setattr(Bench, "evaluate", noted)
    monkeypatch.setattr(type(pipe), "coarse", counted("coarse", coarse))
    monkeypatch.setattr(type(pipe), "respond", counted("respond", respond))
    study = Study(pipe, range(2), tmp_path, QUICK)
    study.sweeps["filter"] = Sweep("filter", {"0": {"filter_sigma": 0.0}, "2": {"filter_sigma": 2.0}})
    strength = Sweep("λ", {"10": {"modulation_strength": 10.0}, "1": {"modulation_strength": 1.0}}, "10")
    study.sweeps["strength"] = strength
    study.compute(["strength", "attention_injection", "filter"])
    found, injection = study.run(strength), study.run("attention_injection")
    assert found["10"] == injection["with"] != injection["without"]
    scene = [(0, 10.0, 3), (0, 1.0, 3), (0, 10.0, 3), (0, 10.0, 3), (0, 10.0, 3)]
    assert calls["evaluate"] == scene + [(1, *settings) for _, *settings in scene]
    assert calls["coarse"] == 2 and calls["respond"] == 8  # masks once a scene; filters share responses

    # another process, with one scene more, goes on from what is on disk
    again = Study(pipe, range(3), tmp_path, QUICK).run(strength)
    assert again["1"][:2] == found["1"] and len(calls["evaluate"]) == 10 + 2
    assert found["10"][0]["bilinear"] == found["1"][0]["bilinear"]
    assert found["10"][0]["EmerDiff"] != found["1"][0]["EmerDiff"]
    assert found["1"][0]["changes"] == {"modulation_strength": 1.0}
    # other settings around it get results of their own
    calls["evaluate"].clear()
    Study(pipe, range(1), tmp_path, QUICK | {"num_masks": 4}).run(strength)
    assert calls["evaluate"] == [(0, 10.0, 4), (0, 1.0, 4)]


def test_two_processes_make_what_one_makes(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "load_pipeline", lambda *names: pipe)
    arguments = ["--num-scenes", "2", "--first-scene", "5", "--sweeps", "attention_injection"]
    arguments += ["--settings", json.dumps(QUICK), "--output"]
    for shard in ("0/2", "1/2"):
        ablations.main([*arguments, str(tmp_path / "two"), "--shard", shard])
    ablations.main([*arguments, str(tmp_path / "one")])
    files = [sorted(p.name for p in (tmp_path / name).rglob("*.json")) for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 1 + 2 * 2
    assert "with (default)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="did you mean 'placement'"):
        ablations.main([*arguments, str(tmp_path / "one"), "--sweeps", "placements"])


# -- numbers and words ----------------------------------------------------------------------------------------------


def made_up(*accuracies, edges=0.5):
    """One result per picture: two segments, of which a share of ``accuracy`` of 100 pixels each is of its class."""
    rows = []
    for value in accuracies:
        right = int(100 * value)
        scores = {"table": [[right, 100 - right], [100 - right, right]], "boundary_f": edges}
        rows.append({"EmerDiff": scores, "bilinear": scores, "embeddings": [[0.0], [1.0]]})
    return rows


def test_levels_and_differences_by_hand():
    """80 of 100 right in both classes is an IoU of 80 / 120."""
    good, bad = made_up(0.8, 0.8, 0.8), made_up(0.6, 0.6, 0.6, edges=0.25)
    assert ablation_tables.level(good, "oracle mIoU") == pytest.approx(100 * 80 / 120)
    assert ablation_tables.level(good, "modified mIoU") == pytest.approx(100 * 80 / 120)
    assert ablation_tables.paired(good, bad, "oracle mIoU", 20) == pytest.approx(
        (100 * (80 / 120 - 60 / 140),) * 3
    )
    assert ablation_tables.paired(good, bad, "boundary F", 20) == pytest.approx((25,) * 3)
    with pytest.raises(ValueError, match="'boundary F'"):
        ablation_tables.paired(good, bad, "colour")
    table = ablation_tables.table({"a": good, "b": bad}, 20)
    assert len(table) == 2 * 2 * 3 and (table.low <= table.high).all()
    shown = ablation_tables.overview(table, Sweep("letters", {"b": {}, "a": {"x": 1}}, "a"))
    assert list(shown.index) == ["b", "a (default)"] and shown.index.name == "letters"
    assert shown.loc["b", "boundary F, EmerDiff"] == 25 and shown.shape == (2, 6)


def test_words_follow_from_the_numbers():
    sweep = lambda **k: Sweep("x", {"1": {}, "2": {}}, "1", "Table 0", **k)
    points = {"1": made_up(0.6, 0.6, 0.6), "2": made_up(0.8, 0.8, 0.8)}
    (oracle, modified, edges) = ablation_tables.describe(points, sweep(), 20)
    assert "best − the default: +23.8 [+23.8, +23.8]." in oracle and "50.0 (1) to 50.0 (1)" in edges
    assert "best − the worst" in ablation_tables.describe(points, Sweep("x", {}), 20)[0]
    alone = {label: results[:1] for label, results in points.items()}
    assert ablation_tables.describe(alone, sweep(), 20)[0].endswith(
        "best − the default: +23.8, not told apart."
    )
    upside = {"1": points["2"], "2": points["1"]}
    assert "best − the worst" in ablation_tables.describe(upside, sweep(), 20)[0]
    assert "; the default is the best." in ablation_tables.describe(upside, sweep(), 20)[0]

    agreement = lambda points, *best: ablation_tables.agreement(
        points, sweep(paper="so", paper_best=best), 50
    )
    word, sentence = agreement(points, "2")
    assert word == "holds" and sentence.endswith("so it is: 2 − 1 is +23.8 [+23.8, +23.8].")
    for best in (["1"], ["1", "2"]):
        assert (
            agreement(points, *best)[0] == "fails" and "not so: 2 − 1 is +23.8" in agreement(points, *best)[1]
        )
    mixed = {"1": made_up(0.9, 0.6, 0.7, 0.7), "2": made_up(0.6, 0.9, 0.8, 0.7)}
    assert agreement(mixed, "1")[0] == agreement(mixed, "2")[0] == "open"
    assert agreement(mixed, "1", "2")[0] == "open"  # a difference that is not told apart may still be large
    close = {"1": made_up(0.7, 0.71, 0.7, 0.71), "2": made_up(0.71, 0.7, 0.71, 0.7)}
    assert agreement(close, "1", "2")[0] == "holds" and "by less than 3" in agreement(close, "1", "2")[1]
    assert agreement(alone, "2")[0] == agreement(alone, "1", "2")[0] == "open"  # one scene tells nothing
    assert agreement(points) == agreement(points, "3") == ("", "")


def test_conclusions_name_what_beats_the_default():
    good, bad = made_up(0.8, 0.8, 0.8), made_up(0.6, 0.6, 0.6)
    kinds = {
        "a": Sweep("A", {"1": {}, "2": {}}, "1", "Table 0", "1 is better", ("1",)),
        "b": Sweep("B", {"1": {}, "2": {}}, "2", "Table 0", "2 is better", ("2",)),
        "c": Sweep("C", {"1": {}, "2": {}}),
    }
    found = {name: {"1": bad, "2": good} for name in kinds}
    table = ablation_tables.summary(found, kinds, 20)
    assert table["the paper's finding"].tolist() == ["fails", "holds", ""]
    against = ["default", "worst", "worst"]
    assert table["mIoU: better by"].tolist() == [f"+23.8 [+23.8, +23.8] than the {name}" for name in against]
    assert table["mIoU: range"].tolist() == ["42.9 – 66.7"] * 3 and table["mIoU: best"].tolist() == ["2"] * 3
    holds, fails, better = ablation_tables.conclusions(found, kinds, 20)
    assert holds.endswith("hold for: B (2 is better).") and fails.endswith("A (1 is better).")
    assert better == "Measurably better than the default: A: 2 (oracle mIoU +23.8 [+23.8, +23.8])."
    nothing = ablation_tables.conclusions({"b": found["b"]}, kinds, 20)
    assert len(nothing) == 2 and nothing[1].startswith("Nothing is measurably better")
