"""Figures as files: size, fonts and pictures inside the PDF, the numbers beside it, and tables as LaTeX has them."""

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emerdiff_lib import plotting
from emerdiff_lib.experiments.paper_figures import result_tables, segment
from emerdiff_lib.plotting import paper
from emerdiff_lib.plotting.folder import data_of

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _style():
    plotting.use_style()
    yield
    plt.close("all")


def test_a_figure_is_kept_in_its_size_with_its_fonts_and_whole_pictures(tmp_path):
    figures = plotting.FigureFolder(tmp_path / "new" / "folder", "07")
    assert (tmp_path / "new" / "folder").is_dir()  # before any work
    picture = RNG.integers(0, 255, (600, 500, 3), np.uint8)
    figure = plotting.gallery([picture, picture[::-1]], ["a title", "another"], width=1)
    figures.show("two")
    pdf = figures.path("two", ".pdf").read_bytes()
    width, height = (float(v) for v in re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf).groups())
    assert (width, height) == pytest.approx(tuple(72 * figure.get_size_inches()), abs=0.5)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded
    sizes = re.findall(rb"/Height (\d+).*?/Width (\d+)", pdf, re.DOTALL)
    sizes += [(h, w) for w, h in re.findall(rb"/Width (\d+).*?/Height (\d+)", pdf, re.DOTALL)]
    assert (b"600", b"500") in sizes  # every pixel, though an inch and a half has 450
    png = Image.open(figures.path("two", ".png"))
    assert png.info["dpi"][0] == pytest.approx(300, abs=1)
    arrays = np.load(figures.path("two", ".npz"))
    assert any(np.array_equal(arrays[name], picture) for name in arrays)
    assert figures.path("two", ".pdf").name == "07-two.pdf" and not figures.path("two", ".csv").exists()
    assert zlib.crc32(pdf)


def test_the_numbers_behind_a_chart_are_those_that_were_drawn():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2, 3], [4.0, 5.0, 6.5], label="curve")
    left.fill_between([1, 2, 3], [3, 4, 5], [5, 6, 7], label="band")
    left.set_title("left")
    rows = pd.DataFrame({"way": ["one", "two"], "value": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]})
    plotting.intervals(right, rows, "way", "value", "low", "high")
    right.set_title("right")
    figure.canvas.draw()
    numbers, arrays = data_of(figure)
    curve = numbers[(numbers["series"] == "curve") & (numbers["kind"] == "point")]
    assert curve[["x", "y"]].to_numpy().tolist() == [[1, 4], [2, 5], [3, 6.5]] and not arrays
    assert {"point", "band", "interval"} <= set(numbers["kind"])
    points = numbers[(numbers["panel"] == "right") & numbers["x"].isin([1.0, 2.0])]
    assert set(points["y name"]) == {"one", "two"}


def test_without_a_folder_nothing_is_written_and_a_bad_one_is_said_at_once(tmp_path):
    plt.plot([1, 2])
    plotting.FigureFolder("").show("anything")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="figures_dir=.*cannot be written to"):
        plotting.FigureFolder(tmp_path / "file")
    with pytest.raises(ValueError, match="is no name of a figure"):
        plotting.FigureFolder(tmp_path).show("../up")


def test_tables_are_latex_s(tmp_path):
    figures = plotting.FigureFolder(tmp_path)
    table = pd.DataFrame({"mIoU, %": [68.66, np.nan], "a_b": [1.0, 2.0]}, index=["EmerDiff", "R&D −1"])
    figures.table("some", table, "Scores of 5 % & more")
    text = (tmp_path / "some.tex").read_text("utf-8")
    for part in (
        r"\toprule",
        r"\bottomrule",
        r"mIoU, \%",
        r"a\_b",
        r"R\&D $-$1",
        "68.7",
        "--",
        r"5 \% \& more",
    ):
        assert part in text, part
    assert r"\label{tab:some}" in text and "{table*}" not in text
    assert pd.read_csv(tmp_path / "some.csv", index_col=0).loc["EmerDiff", "mIoU, %"] == 68.66
    figures.table("wide", pd.DataFrame(np.ones((2, 12))))
    text = (tmp_path / "wide.tex").read_text("utf-8")
    assert (
        text.count("{table*}") == 2
        and text.count("{") == text.count("}")
        and r"\resizebox{\ifdim\width>\linewidth" in text
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_takes_every_table_of_the_manifests(tmp_path):
    """All of them in one document, by LaTeX itself, with booktabs and graphicx alone (texlive-latex-recommended)."""
    figures, folder = plotting.FigureFolder(tmp_path), Path(__file__).parents[1] / "notebooks" / "results"
    tables = result_tables(
        folder, sorted(path.stem for path in folder.glob("*.json") if path.stem != "seeds")
    )
    assert len(tables) > 30
    for name, (caption, table) in tables.items():
        figures.table(name, table, caption)
    lines = [r"\documentclass[twocolumn]{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    lines += [rf"\input{{{name}.tex}}\clearpage" for name in tables]
    (tmp_path / "all.tex").write_text("\n".join([*lines, r"\end{document}"]), "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert "Missing character" not in log and "Overfull \\hbox" not in log


def test_the_paper_s_figures_are_of_what_the_pipeline_found(pipe, scene, tmp_path):
    settings = {"num_masks": 5, "modulation_timestep": 41, "noise_ensemble_size": 1, "num_parts": None}
    settings.pop("num_parts")
    one = paper.Shown(**segment(pipe, scene.image, **settings), truth=scene.coarse_labels)
    assert np.array_equal(one.largest(1), [one.masks.sum((1, 2)).argmax()])
    placed = segment(pipe, scene.image, placements=True, **settings)
    np.testing.assert_array_equal(placed["after_projection"], one.maps)
    assert not np.allclose(placed["before_projection"], one.maps)
    figures = plotting.FigureFolder(tmp_path)
    made = {
        "teaser": paper.teaser([one, one]),
        "examples": paper.examples([one]),
        "overview": paper.overview(one),
        "maps": paper.difference_maps(one, 3),
        "comparison": paper.comparison([one, one]),
        "numbers": paper.numbers_of_masks({5: one, 6: one}),
        "placements": paper.placements(one, placed, 3),
    }
    for name, figure in made.items():
        figures.show(name, figure)
        assert figure.get_size_inches()[0] == plotting.COLUMN_WIDE
    arrays = np.load(tmp_path / "maps.npz")
    largest = one.maps[one.largest(1)[0]]
    assert any(
        arrays[name].shape == largest.shape and np.array_equal(arrays[name], largest) for name in arrays
    )


def test_tables_come_from_manifests(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no manifest"):
        result_tables(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the notebook that writes it"):
        result_tables(tmp_path, ["none"])
