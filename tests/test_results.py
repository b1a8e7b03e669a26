"""Results on disk: files written whole, manifests that read back, RESULTS.md as the manifests have it."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib.files import write_atomically
from emerdiff_lib.runs.manifest import read_manifest, write_manifest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks" / "results"


spec = importlib.util.spec_from_file_location("results", ROOT / ".ci" / "results.py")
script = importlib.util.module_from_spec(spec)  # no module of a package
spec.loader.exec_module(script)


@pytest.fixture
def study():
    """A study's keywords: shares and counts, a hole, a labelled index, numpy's numbers."""
    table = pd.DataFrame(
        {"oracle mIoU": [64.123456, 54.9, np.nan], "segments": [12, 8, 3], "s / image": [6.44, 0.012, 0.2]},
        index=pd.Index(["EmerDiff", "bilinear", "a|b"], name="method"),
    )
    return dict(
        title="Against rivals",
        question="Who is ahead?",
        command="papermill notebooks/06_evaluation.ipynb out.ipynb",
        settings={"model": "toyscapes", "num_masks": np.int64(12), "filter_sigma": np.float32(0.25)},
        seeds={"test": range(100), "concepts": [3, 7, 8]},
        tables={"All methods": table, "Pairs": pd.DataFrame({"gain": [-0.04, 9.2], "real": [False, True]})},
        notes=["EmerDiff is 9.2 points ahead."],
    )


def test_files_are_replaced_whole_or_left_alone(tmp_path, monkeypatch):
    path, moved = tmp_path / "a.json", []
    write_atomically(path, "λ")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.json"]
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(old), 1 / 0))
    for _ in range(2):  # two writers at once do not meet
        with pytest.raises(ZeroDivisionError):
            write_atomically(path, "half")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.json"]
    assert len(set(moved)) == 2 and all(one.parent == path.parent for one in moved)
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # as readable as any


def test_a_manifest_reads_back_and_writes_the_same_bytes(tmp_path, study):
    path = write_manifest(tmp_path / "deeper" / "06_evaluation.json", **study)
    back = read_manifest(path)
    for name, table in study["tables"].items():
        pd.testing.assert_frame_equal(back["tables"][name], table, check_dtype=False, rtol=1e-5)
    assert back["seeds"] == {"test": "0-99", "concepts": "3, 7-8"}
    back["seeds"] = {name: script.parse_seeds(text) for name, text in back["seeds"].items()}
    assert back["settings"] == {"model": "toyscapes", "num_masks": 12, "filter_sigma": 0.25}
    assert write_manifest(tmp_path / "again.json", **back).read_bytes() == path.read_bytes()
    assert '    ["EmerDiff", 64.1235, 12, 6.44],\n' in path.read_text()  # a line for a row


def test_what_is_no_manifest_is_neither_written_nor_read(tmp_path, study):
    for settings in ({"model": object()}, {"share": float("inf")}):
        with pytest.raises((TypeError, ValueError), match="JSON"):
            write_manifest(tmp_path / "m.json", **(study | {"settings": settings}))
        assert not (tmp_path / "m.json").exists()
    for content in ({"title": ""}, dict.fromkeys(study, 1)):
        (tmp_path / "m.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="no manifest, which holds title, question"):
            read_manifest(tmp_path / "m.json")


def test_pictures_have_to_be_in_the_ledger(tmp_path, study):
    ledger = [{"seeds": "0-131", "state": "looked at"}, {"seeds": "500-699", "state": script.CONFIRMATION}]
    write_manifest(tmp_path / "late.json", **(study | {"seeds": {"claim": range(500, 600)}}))
    (tmp_path / "seeds.json").write_text(json.dumps(ledger))
    (fault,) = script.unlisted_seeds(*script.read_folder(tmp_path))
    assert fault == "late looked at scene 500 (claim); add 500-599 to seeds.json."
    with pytest.raises(FileNotFoundError, match=r"has no seeds\.json"):
        script.read_folder(tmp_path / "elsewhere")


@pytest.mark.parametrize("number", ["64.2", "−9.2", "9", "6.5", "1 000"])
def test_numbers_that_are_not_there_are_named(number):
    results = "## 06_evaluation: Who is ahead\n\n| EmerDiff | 64.1 | 9.2 | 100 |\n"
    found = script.missing_numbers(f"<!-- results: 06_evaluation -->{number}<!-- /results -->", results)
    assert found == [f"{number} (06_evaluation)"]


def test_committed_results_are_what_their_manifests_say(pipe):
    manifests, ledger = script.read_folder(FOLDER)
    assert script.unlisted_seeds(manifests, ledger) == []
    text = script.render(manifests, ledger, pipe.default_settings())
    assert text == (ROOT / "RESULTS.md").read_text(encoding="utf-8"), "renew it (CONTRIBUTING.md, Results)"


def test_no_number_of_the_readme_is_stale():
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md"))
    assert "<!-- results:" in readme and script.missing_numbers(readme, results) == []
