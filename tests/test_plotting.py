"""Figures are measured: what overlaps what, how far colours are apart, what a file embeds."""

import re
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from emerdiff_lib import plotting
from emerdiff_lib.plotting.style import LOST
from emerdiff_lib.plotting.text import text_width, wrap

from .conftest import run_cells

# Machado et al. 2009, severity 1, on linear RGB: no dyschromatopsia, no L, no M, no S cones
VISIONS = [
    np.eye(3),
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
]
LAYERS = [
    f"{block}.attentions.{i}.transformer_blocks.0.attn2"
    for block in ("down_blocks.1", "mid_block", "up_blocks.2")
    for i in range(2)
]
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def least_difference(colours):
    """The least CIEDE2000 of two sRGB colours in [0, 1], in any vision."""
    srgb, differences = np.asarray(colours, float), []
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    for matrix in VISIONS:
        seen = (linear @ np.transpose(matrix)).clip(0, 1)
        lab = rgb2lab(np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, seen * 12.92))
        differences += [deltaE_ciede2000(lab[i], lab[j]) for i, j in combinations(range(len(lab)), 2)]
    return min(differences)


def boxes_of(artists, figure):
    figure.canvas.draw()
    return [artist.get_window_extent(figure.canvas.get_renderer()) for artist in artists]


def collide(boxes):
    """Pairs of boxes that share more than a sliver."""
    return [
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(boxes), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


def texts_of(artists):
    return [artist.get_text().replace("\n", "") for artist in artists]


@pytest.mark.parametrize("count, bound", [(3, 30), (6, 20), (8, 15), (12, 14), (30, 7), (40, 6)])
def test_segments_are_told_apart_by_everyone(count, bound):
    assert least_difference(plotting.segment_palette(count) / 255) >= bound


def test_curves_and_fates_are_told_apart_by_everyone_and_without_colours():
    looks = plotting.looks(7)  # the eighth colour is as many as there are
    assert least_difference([to_rgb(look["color"]) for look in looks]) >= 10
    assert len({(str(look["linestyle"]), look["marker"]) for look in plotting.looks(32)}) == 32
    pair = [to_rgb(plotting.FOUND), to_rgb(LOST)]
    assert least_difference(pair) >= 40 and abs(np.subtract(*rgb2lab(pair)[:, 0])) >= 20


@pytest.mark.parametrize("width", [0.6, 1.0, 1.5])
def test_lines_fit_and_names_are_broken_and_never_cut(width):
    for name in LAYERS:
        lines = wrap(name, width, 7).split("\n")
        assert "".join(lines) == name and len(lines) > 1
        assert all(text_width(line, 7) <= width or not re.search("[._]", line[:-1]) for line in lines)
    text = "one two three $x_0 + y$ four\nfive, 5 % six"
    wrapped = wrap(text, width)
    assert wrapped.replace("\N{NO-BREAK SPACE}", " ").split() == text.split()
    assert "$x_0 + y$" in wrapped and "four\nfive" in wrapped and "\n%" not in wrapped


@pytest.mark.parametrize("count, columns", [(12, 6), (5, None), (26, 13), (7, 3)])
def test_titles_of_a_gallery_collide_with_nothing_and_images_stay_whole_and_close(count, columns):
    titles = ["a title of several words", "short", LAYERS[0], "two\nlines", "$\\hat x_0$ from $x_{981}$"]
    figure = plotting.gallery([IMAGE] * count, [titles[i % 5] for i in range(count)], columns)
    shown = [ax for ax in figure.axes if ax.images]
    boxes = boxes_of([*shown, *(ax.title for ax in shown)], figure)
    assert len(shown) == count and all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)
    assert not collide(boxes)
    assert all(box.width / box.height == pytest.approx(40 / 32, rel=0.02) for box in boxes[:count])
    bare = plotting.gallery([IMAGE] * 6, columns=3)
    covered = sum(box.width * box.height for box in boxes_of(bare.axes, bare))
    assert covered / (bare.bbox.width * bare.bbox.height) > 0.85


@pytest.mark.parametrize("width", [1, 2])
def test_images_of_any_shape_are_equally_high_and_no_text_runs_into_another(width):
    shapes = (24, 60), (60, 30), (40, 40)  # landscape, portrait, square
    one, two, three = (IMAGE[:1, :1].repeat(h, 0).repeat(w, 1) for h, w in shapes)
    rows = [[one, two, three, one], [two, three, one, one], [one, one, two]]
    names = ["bilinear upsampling of the masks", "EmerDiff-Pixel (ours), filtered", "true classes"]
    titles = ["the photograph itself", "correspondence", "K", "two words"]
    grid = plotting.grid_of_maps(rows, names, titles, width)
    for figure in (grid, plotting.gallery(rows[0], titles, width=width)):
        shown = [ax for ax in figure.axes if ax.images]
        texts = [text for ax in shown for text in (ax.title, ax.yaxis.label) if text.get_text()]
        boxes = boxes_of([*shown, *texts], figure)
        heights = [box.height for box in boxes[: len(shown)]]
        assert max(heights) < 1.03 * min(heights) and not collide(boxes)
        assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.width
    labels = [ax.yaxis.label.get_text().split() for ax in grid.axes[::4]]
    assert ["".join(label) for label in labels] == [name.replace(" ", "") for name in names]


def test_segments_that_match_share_a_colour():
    first = np.repeat([3, 3, 5, 8], 25)[None].repeat(4, 0)
    other = np.select([first == 3, first == 5], [9, 0], 2)
    other[0, :25] = 4  # a part of the largest that is a segment of its own here
    matched, renamed = plotting.match_segments([first, other])
    assert (renamed[1:] == matched[1:]).all() and (renamed[0, 25:] == matched[0, 25:]).all()
    assert len(np.unique(matched)) == 3 and (renamed[0, :25] == 3).all()


def test_a_class_legend_names_what_is_there_and_covers_nothing():
    figure = plotting.gallery([IMAGE] * 4)
    palette = plotting.segment_palette(30)
    before = figure.get_figheight()
    names, present = [f"class number {i}" for i in range(30)], np.array([[3, 7], [29, 255]])
    legend = plotting.class_legend(figure.axes[0], names, palette, present)
    assert texts_of(legend.get_texts()) == ["class number 3", "class number 7", "class number 29"]
    assert np.allclose(legend.get_patches()[0].get_facecolor()[:3], palette[3] / 255)
    boxes = boxes_of([legend, *figure.axes], figure)
    assert figure.get_figheight() > before and not collide(boxes) and boxes[0].y0 >= 0


def test_labels_without_a_colour_are_errors_and_void_is_grey():
    labels = np.array([[0, 1], [2, 255]])
    palette = plotting.segment_palette(3)
    with pytest.raises(ValueError, match=r"Label 255 has no colour: .* 0 to 2"):
        plotting.colourise(labels, palette)
    coloured = plotting.colourise(labels, palette, ignore_index=255)
    assert (coloured.reshape(-1, 3)[:3] == palette).all() and len(set(coloured[1, 1])) == 1
    assert (plotting.colourise(labels, ignore_index=255) == coloured).all()


COLUMNS = ("setting", "value", "low", "high", "kind")


def sweep(settings, kinds=("EmerDiff", "bilinear")):
    rows = [
        (setting, 10.0 * i + j, 10.0 * i + j - 2, 10.0 * i + j + 1, kind)
        for j, kind in enumerate(kinds)
        for i, setting in enumerate(settings)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_numbers_get_curves_with_bands_in_order():
    _, ax = plt.subplots()
    plotting.line_with_bands(ax, sweep(["16", "4", "8"]), *COLUMNS, colours={"bilinear": plotting.NEUTRAL})
    first, second = ax.lines
    assert first.get_xdata().tolist() == [4, 8, 16] and first.get_ydata().tolist() == [10, 20, 0]
    assert first.get_color() == plotting.CHART_COLOURS[0] and second.get_color() == plotting.NEUTRAL
    assert (first.get_linestyle(), first.get_marker()) != (second.get_linestyle(), second.get_marker())
    assert {(4.0, 8.0), (4.0, 11.0)} <= set(map(tuple, ax.collections[0].get_paths()[0].vertices))
    assert texts_of(ax.get_xticklabels()) == ["4", "8", "16"]


def test_legends_cover_no_data():
    figure, axes = plt.subplots(1, 3, figsize=plotting.figsize(2, height=1.9))
    for ax in axes:
        table = sweep([1, 2, 3], [f"a rather long name {i}" for i in range(5)])
        plotting.line_with_bands(ax, table, *COLUMNS)
    legend = plotting.shared_legend(figure, "five curves")
    box, *panels = boxes_of([legend, *axes], figure)
    assert len(legend.get_texts()) == 5 and not collide([box, *panels])
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert plotting.shared_legend(plt.figure()) is None


def test_intervals_run_from_top_to_bottom():
    _, ax = plt.subplots()
    plotting.intervals(ax, sweep(["first", LAYERS[0], "third"]).iloc[::-1], *COLUMNS)
    assert texts_of(ax.get_yticklabels()) == ["third", LAYERS[0], "first"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    upper, lower = ax.lines
    assert upper.get_label() == "bilinear" and (upper.get_ydata() < lower.get_ydata()).all()
    assert ax.collections[0].get_segments()[0][:, 0].tolist() == [19, 22]


def test_a_heat_map_writes_every_number_and_whole_names():
    figure, ax = plt.subplots(figsize=plotting.figsize(2, height=2))
    wide = pd.DataFrame(np.arange(18.0).reshape(6, 3), pd.Index(LAYERS, name="layer"), [1, 281, 481])
    wide.iloc[2, 1] = np.nan
    plotting.heatmap(ax, wide)
    assert sorted(float(text.get_text()) for text in ax.texts) == [i for i in range(18) if i != 7]
    assert texts_of(ax.get_yticklabels()) == LAYERS
    assert not collide(boxes_of([*ax.texts, *ax.get_yticklabels()], figure))
    assert ax.texts[0].get_color() == "w" != ax.texts[-1].get_color()  # viridis begins dark and ends light


def test_the_line_of_a_front_is_of_points_that_none_beats():
    seconds, scores = [6.41, 6.37, 3.28, 1.15, 1.15, 0.13], [82.7, 83.3, 81.4, 79.1, 81.4, 53.3]
    table = pd.DataFrame({"s": seconds, "F": scores, "kind": ["guided", "plain"] * 3})
    given = {"plotting": plotting, "np": np, "few_ticks": dict}
    cells = run_cells("11_efficiency", given, "def draw_front")
    cells["draw_front"](ax := plt.subplots()[1], table, "s", "F")
    assert ax.lines[0].get_xydata().tolist() == [[0.13, 53.3], [1.15, 81.4], [6.37, 83.3]]
