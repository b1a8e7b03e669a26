"""``python -m emerdiff_lib.evaluation``: goes on where it stopped, and refuses to mix results."""

import json

import pytest

from emerdiff_lib.evaluation import __main__ as command
from emerdiff_lib.evaluation import report, scenes

OPTIONS = [
    "--num-scenes",
    "3",
    "--fit-scenes",
    "1",
    "--num-masks",
    "4",
    "--settings",
    '{"modulation_timestep": 21}',
]


def test_interrupted_evaluation_goes_on_and_ends_alike(tmp_path, monkeypatch, capsys):
    calls, evaluate = [], scenes.evaluate_scene

    def interrupted(pipe, scene, **settings):
        calls.append(scene.seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(pipe, scene, **settings)

    monkeypatch.setattr(command, "evaluate_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main([*OPTIONS, "--output", str(tmp_path)])
    summary = command.main([*OPTIONS, "--output", str(tmp_path)])
    assert calls == [0, 1, 2, 2, 1000]  # nothing is computed twice
    again = command.main([*OPTIONS, "--output", str(tmp_path)])
    assert calls == [0, 1, 2, 2, 1000] and again == summary
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["worst_replay_error"] < 1e-5 and summary["num_scenes"] == 3

    scores = summary["scores"]
    assert scores[scenes.CEILING]["oracle"] > scores[scenes.POSITION]["oracle"]
    assert all(
        0 <= value <= 100 for score in scores.values() for key, value in score.items() if key != "seconds"
    )
    (oracle,) = [
        d
        for d in summary["differences"]
        if (d["first"], d["second"], d["measure"]) == (scenes.EMERDIFF, scenes.BILINEAR, "oracle")
    ]
    assert oracle["points"] == pytest.approx(
        scores[scenes.EMERDIFF]["oracle"] - scores[scenes.BILINEAR]["oracle"]
    )
    assert oracle["low"] <= oracle["points"] <= oracle["high"]
    assert scenes.EMERDIFF in capsys.readouterr().out and "95 %" in report.as_text(summary)

    with pytest.raises(ValueError, match="other settings"):
        command.main(["--num-scenes", "1", "--num-masks", "5", "--output", str(tmp_path)])
