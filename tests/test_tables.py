"""Tables of an evaluation from label maps alone: each number against another library or the sentence that describes it."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import wilcoxon
from sklearn.metrics import jaccard_score

from emerdiff_lib.evaluation import metrics, protocols, tables
from emerdiff_lib.evaluation.label_maps import LabelMap

EVALUATION = Path(tables.__file__).parent
METHODS = ["the one", "the other"]
CLASSES, VOID = 4, 255


def picture(seed, void=True):
    """(truth, {method: segments of six}): blocks of classes; the first method is nearer to them than the second."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, (8, 8)).repeat(6, 0).repeat(6, 1)
    wrong = lambda share: np.where(rng.random(truth.shape) < share, rng.integers(0, 6, truth.shape), truth)
    found = dict(zip(METHODS, (wrong(0.1), wrong(0.4)), strict=True))
    if void:
        truth[:9, 10:20] = VOID
    return truth, found


def scored(seeds, void=True):
    results = []
    for seed in seeds:
        truth, found = picture(seed, void)
        embeddings = np.arange(6.0)[:, None] + [[0.0, seed / 100]]
        score = lambda labels, embeddings=embeddings, truth=truth: tables.score(
            labels, truth, embeddings, 1.5, CLASSES, VOID
        )
        results.append({"name": f"{seed}", "methods": {m: score(labels) for m, labels in found.items()}})
    return results


RESULTS = scored(range(7))
FIT = scored(range(50, 54))


def test_evaluation_knows_no_models():
    """What its files name, anywhere in them, and what is loaded with it; the package's own front door aside."""
    for file in sorted(EVALUATION.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2 or (node.level, node.module) == (2, "files"), ast.unparse(node)
                names += [] if node.level else [node.module]
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"emerdiff_lib", "torch", "diffusers", "transformers"}, file.name
    alone = f"""
import sys, types
package = sys.modules["emerdiff_lib"] = types.ModuleType("emerdiff_lib")
package.__path__ = [{str(EVALUATION.parent)!r}]
import emerdiff_lib.evaluation.tables
print(*[m for m in sys.modules if m.split(".")[0] in ("emerdiff_lib", "torch", "diffusers", "transformers")])"""
    run = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    own = {f"emerdiff_lib.evaluation.{file.stem}" for file in EVALUATION.glob("[a-z]*.py")}
    assert set(run.stdout.split()) == own | {"emerdiff_lib", "emerdiff_lib.evaluation", "emerdiff_lib.files"}


def test_a_picture_is_scored_at_the_size_of_its_truth():
    truth, found = picture(3)
    segments = found["the one"].astype(np.int32)
    small = segments[1::2, ::2]
    enlarged = np.asarray(Image.fromarray(small).resize(truth.shape[::-1], Image.Resampling.NEAREST))
    embeddings = np.eye(6)
    whole = tables.score(enlarged, truth, embeddings, 2.0, CLASSES, VOID)
    assert tables.score(small, truth, embeddings, 2.0, CLASSES, VOID) == whole
    once = LabelMap(truth, VOID)
    assert tables.score(small, once, embeddings, 2.0, CLASSES) == whole
    assert np.sum(whole["table"]) == (truth != VOID).sum() and json.loads(json.dumps(whole)) == whole


def test_scores_follow_from_the_pixels_of_all_pictures():
    scores = tables.summarise(RESULTS, FIT, draws=20)["scores"]
    assert list(scores.index) == METHODS
    for method in METHODS:
        true, predicted, edges = [], [], []
        for seed in range(7):
            truth, found = picture(seed)
            known, segments = truth != VOID, found[method]
            classes = np.array([np.bincount(truth[known & (segments == k)]).argmax() for k in range(6)])
            true.append(truth[known])
            predicted.append(classes[segments][known])
            edges.append(metrics.boundary_scores(segments, truth, 2, VOID)[2])
        true, predicted = np.concatenate(true), np.concatenate(predicted)
        row = scores.loc[method]
        assert row["oracle mIoU"] == pytest.approx(100 * jaccard_score(true, predicted, average="macro"))
        assert row["oracle accuracy"] == pytest.approx(100 * (true == predicted).mean())
        assert row["boundary F"] == pytest.approx(100 * np.mean(edges)) and row["s / image"] == 1.5
        assert row["modified mIoU (same images)"] <= row["oracle mIoU"] + 1e-9
    matched = sum(
        protocols.per_image_matching(found["the one"], truth, CLASSES, VOID)
        for truth, found in map(picture, range(7))
    )
    right, true, predicted = matched.T
    expected = 100 * np.mean(right / (true + predicted - right))
    assert scores.loc["the one", "per-image matched mIoU"] == pytest.approx(expected)


def test_differences_are_paired_and_the_reference_is_the_first_method():
    found = tables.summarise(RESULTS, FIT, draws=50)
    scores, paired = found["scores"], found["paired"]
    assert set(paired["minus"]) == {"the other"} and list(paired.measure) == [
        "oracle",
        "modified",
        "boundary_f",
    ]
    columns = {"oracle": "oracle mIoU", "modified": "modified mIoU (other split)", "boundary_f": "boundary F"}
    for row in paired.to_dict("records"):
        values = scores[columns[row["measure"]]]
        assert row["points"] == pytest.approx(values["the one"] - values["the other"])
        assert row["low"] <= row["points"] <= row["high"]
    rows = tables.per_image_rows(RESULTS)
    edges = [rows[rows.method == m].boundary_f.to_numpy() for m in METHODS]
    assert paired["p (Wilcoxon)"].iloc[2] == pytest.approx(wilcoxon(*edges).pvalue)
    turned = tables.summarise(RESULTS, FIT, reference="the other", draws=50)["paired"]
    np.testing.assert_allclose(turned["points"], -paired["points"])
    with pytest.raises(ValueError, match="'EmerDiff' was not evaluated; choose one of the one, the other"):
        tables.summarise(RESULTS, FIT, reference="EmerDiff")
    with pytest.raises(ValueError, match="no results"):
        tables.summarise([], FIT)


def test_without_another_split_no_number_is_called_that():
    """Concepts of the same pictures must not stand under "other split"."""
    found = tables.summarise(RESULTS, [], draws=20)
    assert "modified mIoU (same images)" in found["scores"]
    assert "modified mIoU (other split)" not in found["scores"] and "… by cosine" not in found["scores"]
    assert set(found["intervals"].measure) == set(found["paired"].measure) == {"oracle", "boundary_f"}


def test_sizes_are_sorted_from_small_to_large():
    areas = [0.3, 0.001, 0.1, 0.02]
    sizes = pd.Series([metrics.area_bin(a) for a in areas]).astype(tables.AREA_TYPE)
    assert sizes.sort_values().tolist() == ["< 1 %", "1–5 %", "5–20 %", "> 20 %"]
    assert sizes.cat.codes.tolist() == [3, 0, 2, 1]
    by_size = pd.DataFrame({"size": sizes, "area": areas}).groupby("size", observed=True)["area"].mean()
    assert by_size.tolist() == sorted(areas)


def test_objects_are_averaged_by_size():
    table = tables.summarise(RESULTS, FIT, draws=20)["objects"]
    rows = [o for r in RESULTS for o in r["methods"]["the other"]["objects"]]
    small = [100 * o["recall"] for o in rows if 0.01 <= o["area"] < 0.05]
    assert table.loc["the other", ("recall", "1–5 %")] == pytest.approx(np.mean(small))
    columns = [area for _, area in table.columns]
    assert columns == sorted(columns[: len(columns) // 2], key=metrics.AREA_NAMES.index) * 2


@pytest.mark.filterwarnings("error")
def test_a_picture_without_known_pixels_is_left_out_of_every_mean():
    truth, found = picture(0)
    blank = {
        m: tables.score(f, truth * 0 + VOID, np.eye(6)[:, :2], 1.5, CLASSES, VOID) for m, f in found.items()
    }
    more = tables.summarise([*RESULTS, {"name": "blank", "methods": blank}], FIT, draws=50)
    kept = tables.summarise(RESULTS, FIT, draws=50)
    same = [column for column in kept["scores"] if column not in ("segments", "s / image")]
    pd.testing.assert_frame_equal(more["scores"][same], kept["scores"][same])
    assert not more["intervals"].isna().any().any() and not more["paired"].isna().any().any()
    alone = tables.summarise([{"name": "blank", "methods": blank}], FIT, draws=50)
    assert alone["scores"].drop(columns=["segments", "s / image"]).isna().all().all()


def test_files_hold_the_tables(tmp_path):
    found, rows = tables.summarise(RESULTS, FIT, draws=20), tables.per_image_rows(RESULTS)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        tables.write_tables(found, rows, {"num_masks": 6}, folder)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path / part).iterdir()} for part in "ab")
    assert a == b and set(a) == {"results.parquet", "summary.json"}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a/results.parquet"), rows, check_dtype=False)
    tables.write_tables(found, tables.batches_of_rows(iter(RESULTS), 3), {}, tmp_path)
    batches = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(batches, rows, check_dtype=False)
    with pytest.raises(ValueError, match="no results to write"):
        tables.write_tables(found, tables.batches_of_rows([]), {}, tmp_path)
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == len(rows)  # what was there stays
    summary = json.loads(a["summary.json"])
    assert "drawn with replacement" in summary["intervals"]["bootstrap"]
    assert set(summary) == {"settings", "scores", "intervals", "paired", "objects", "classes"}
    assert summary["settings"] == {"num_masks": 6}
    written = pd.DataFrame(summary["scores"]["data"], columns=summary["scores"]["columns"]).set_index(
        "method"
    )
    pd.testing.assert_frame_equal(written, found["scores"], check_names=False)
