"""Figures as files: size, fonts and images inside the PDF, what was plotted beside it, and tables as LaTeX has them."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emerdiff_lib import plotting
from emerdiff_lib.runs.manifest import KEYS, read_manifest, write_manifest

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _style():
    plotting.use_style()
    yield
    plt.close("all")


def test_a_figure_is_kept_in_its_size_with_its_fonts_and_whole_images(tmp_path):
    figures = plotting.FigureFolder(tmp_path / "new" / "folder", "07")
    assert (tmp_path / "new" / "folder").is_dir()  # before any work
    image = RNG.integers(0, 255, (600, 500, 3), np.uint8)
    figure = plotting.gallery([image, image[::-1]], ["a title", "another"], width=1)
    path = tmp_path / "new" / "folder" / "07-two.pdf"
    path.symlink_to(tmp_path / "mine.pdf")
    path.with_suffix(".csv").write_text("of an earlier run")
    figures.show("two")
    pdf = path.read_bytes()
    width, height = (float(v) for v in re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf).groups())
    assert (width, height) == pytest.approx(tuple(72 * figure.get_size_inches()), abs=0.5)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded
    assert pdf == plotting.save_figure(figure, tmp_path / "again.pdf").read_bytes()
    # whole, though an inch and a half has 450 pixels
    assert re.search(rb"/Height 600\b.*?/Width 500\b", pdf, re.DOTALL)
    assert Image.open(path.with_suffix(".png")).info["dpi"][0] == pytest.approx(300, abs=1)
    arrays = np.load(path.with_suffix(".npz"))
    assert np.array_equal(arrays["panel_0_0"], image) and np.array_equal(arrays["panel_1_0"], image[::-1])
    assert not path.with_suffix(".csv").exists() and not (tmp_path / "mine.pdf").exists()


def test_the_numbers_behind_a_chart_are_the_tables_that_were_plotted(tmp_path):
    figures = plotting.FigureFolder(tmp_path)
    _, (left, right) = plt.subplots(1, 2)
    curve = pd.DataFrame({"K": [2, 4, 8], "score": [4.0, 5.0, 6.5], "unseen": 0})
    rows = pd.DataFrame({"way": ["one", "two"], "value": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]})
    plotting.line_with_bands(left, curve, "K", "score").set_title("left")
    plotting.intervals(right, rows, "way", "value", "low", "high").set_title("right")
    figures.show("both")
    kept = pd.read_csv(tmp_path / "both.csv")
    part = {panel: table.dropna(axis=1, how="all") for panel, table in kept.groupby("panel")}
    assert part["left"][["K", "score"]].to_numpy().tolist() == curve[["K", "score"]].to_numpy().tolist()
    assert part["right"].reset_index(drop=True)[list(rows)].equals(rows) and "unseen" not in kept
    plt.subplots()[1].plot([1, 2])  # by others' functions
    figures.show("both", data=curve)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "both.csv"), curve)


def test_without_a_folder_nothing_is_written_and_a_bad_one_is_said_at_once(tmp_path):
    plt.plot([1, 2])
    plotting.FigureFolder("").show("anything")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="figures_dir=.*cannot be written to"):
        plotting.FigureFolder(tmp_path / "file")


def test_tables_are_latex_s(tmp_path):
    figures = plotting.FigureFolder(tmp_path)
    (tmp_path / "some.tex").symlink_to(tmp_path / "nowhere" / "mine.tex")
    index = pd.Index(["EmerDiff", "R&D −1 x̂₀"], name="method")
    table = pd.DataFrame({"score, %": [68.66, np.nan], "a_b": ["-6.1 [-8.7, -3.3]", "1-2"]}, index)
    shown = figures.table("some", table, "Scores of 5 % & more")
    text = (tmp_path / "some.tex").read_text("utf-8")
    parts = (r"\toprule", r"score,~\%", r"a\_b", r"R\&D $-$1 $\hat{x}$$_0$", "68.7", "–", r"5 \% \& more")
    assert not [part for part in (*parts, "$-$6.1 [$-$8.7, $-$3.3]", "1-2") if part not in text]
    assert r"\label{tab:some}" in text and text.count("{") == text.count("}") and "68.7" in shown.to_html()
    assert pd.read_csv(tmp_path / "some.csv", index_col=0).loc["EmerDiff", "score, %"] == 68.66


def test_a_table_has_chosen_columns_or_those_that_fit_and_marks_the_best(tmp_path):
    figures = plotting.FigureFolder(tmp_path)
    scores = {"oracle mIoU": [70.0, 80.04, 76.0, 80.0], "VI (bits)": [2.5, 1.26, 2.0, 3.0]}
    scores |= {"s / image": [3, 4, 5, 6]} | {f"number {i}": 1.0 for i in range(14)}
    table = pd.DataFrame(scores, pd.Index(list("abcd"), name="method"))
    table.attrs["intervals"] = {"oracle mIoU": {"b": [75.5, 83.0]}, "VI (bits)": {"b": [1.0, 2.1]}}
    kept = list(figures.table("wide", table).data)
    assert kept == ["method", *table][: len(kept)] and 4 < len(kept) < 12
    manifest = dict.fromkeys(KEYS, "") | {"settings": {}, "seeds": {}, "notes": [], "tables": {"": table}}
    path = write_manifest(tmp_path / "manifest.json", **manifest)
    (again,) = read_manifest(path.parent)["tables"].values()
    figures.table("chosen", again, "Scores", ["s / image", "VI (bits)", "oracle mIoU"])
    lines = (tmp_path / "chosen.tex").read_text("utf-8").splitlines()
    assert [line.removesuffix(r" \\") for line in lines if line[:3] in ("a &", "b &", "c &", "d &")] == [
        r"a & \textbf{3} & 2.50 & 70.0",
        r"b & 4 & \textbf{1.26} & \textbf{80.0}",
        r"c & 5 & \underline{2.00} & \underline{76.0}",
        r"d & 6 & 3.00 & \textbf{80.0}",
    ]
    assert any(line.endswith(r"underlined: within the 95 \% interval of the best.}") for line in lines)
    with pytest.raises(ValueError, match="'miou' is unknown.*choose one of 'oracle mIoU'"):
        figures.table("wrong", table, columns=["miou"])
