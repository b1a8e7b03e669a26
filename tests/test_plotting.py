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
from emerdiff_lib.plotting.placement import place
from emerdiff_lib.plotting.text import text_width

# Machado et al. 2009, severity 1, on linear RGB; written out again so that a slip in the library shows
SIGHT = {
    "normal": np.eye(3),
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
LAYERS = [
    f"{block}.attentions.{i}.transformer_blocks.0.attn2"
    for block in ("down_blocks.1", "mid_block", "up_blocks.2")
    for i in range(2)
]


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def seen(colours, sight):
    """sRGB in [0, 1] → Lab under one sight."""
    srgb = np.asarray(colours, float)
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    linear = np.einsum("ij,nj->ni", np.asarray(SIGHT[sight]), linear).clip(0, 1)
    return rgb2lab(np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92))


def least(colours):
    labs = [seen(colours, sight) for sight in SIGHT]
    return min(
        float(deltaE_ciede2000(lab[i], lab[j]))
        for lab in labs
        for i, j in combinations(range(len(colours)), 2)
    )


def drawn(figure):
    figure.canvas.draw()
    return figure.canvas.get_renderer()


def boxes_of(artists, renderer):
    return [artist.get_window_extent(renderer) for artist in artists]


def collide(boxes):
    """Pairs of boxes that share more than a sliver."""
    return [
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(boxes), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


# -- colours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, bound",
    [(2, 40), (3, 30), (4, 25), (5, 20), (6, 20), (8, 15), (10, 14), (12, 14), (30, 7), (40, 6)],
)
def test_segments_are_told_apart_by_everyone(count, bound):
    assert least(plotting.segment_palette(count) / 255) >= bound


def test_a_dozen_segments_differ_in_grey_too():
    lightness = np.sort(rgb2lab(plotting.segment_palette(12) / 255)[:, 0])
    assert np.diff(lightness).min() >= 2 and np.ptp(lightness) >= 50


def test_segments_stand_out_from_white_outlines_and_are_no_greys():
    lab = rgb2lab(plotting.segment_palette(40) / 255)
    assert lab[:, 0].max() < 92 and np.hypot(lab[:, 1], lab[:, 2]).min() > 15


def test_a_palette_begins_with_the_shorter_ones_and_never_ends():
    long = plotting.segment_palette(300)
    assert long.shape == (300, 3) and long.dtype == np.uint8
    assert (long[:12] == plotting.segment_palette(12)).all()
    assert len(np.unique(long[:256], axis=0)) == 256
    with pytest.raises(ValueError, match="count=0"):
        plotting.segment_palette(0)


def test_found_and_lost_are_two_colours_to_everyone_and_in_grey():
    pair = [to_rgb(plotting.FOUND), to_rgb(plotting.LOST)]
    assert least(pair) >= 40
    assert abs(np.subtract(*rgb2lab(pair)[:, 0])) >= 20


def test_simulated_sight_matches_the_matrices():
    colours = plotting.segment_palette(12)
    for name, mine in (
        ("normal", "normal"),
        ("deuteranopia", "deutan"),
        ("protanopia", "protan"),
        ("tritanopia", "tritan"),
    ):
        assert np.abs(rgb2lab(plotting.simulate(colours, name)) - seen(colours / 255, mine)).max() < 1e-6
    with pytest.raises(ValueError, match="'deutan' is unknown"):
        plotting.simulate(colours, "deutan")


def test_curves_are_told_apart_by_everyone_and_without_colours():
    looks = plotting.looks(7)  # the eighth colour is as many as there are
    assert least([to_rgb(look["color"]) for look in looks]) >= 10
    without = {(str(look["linestyle"]), look["marker"]) for look in plotting.looks(32)}
    assert len(without) == 32


# -- style --------------------------------------------------------------------------------------------------------------


def test_text_is_seven_to_eight_points():
    figure, ax = plt.subplots(figsize=plotting.figsize(1))
    ax.plot([1, 2], [1, 2], label="a")
    ax.set(title="t", xlabel="x", ylabel="y")
    plotting.shared_legend(figure)
    drawn(figure)
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert len(texts) > 6 and {text.get_fontsize() for text in texts} <= {7.0, 8.0}


def test_figures_are_as_wide_as_columns_of_a_paper():
    assert plotting.figsize(1)[0] == 3.25 and plotting.figsize(2)[0] == 6.75
    assert plotting.figsize(2, height=1.5) == (6.75, 1.5) and plotting.figsize(1, 0.5) == (3.25, 1.625)
    with pytest.raises(ValueError, match=r"columns=3 .* 1, 1.5, 2"):
        plotting.figsize(3)
    for count in (1, 3, 5, 9):
        assert plotting.gallery([np.zeros((8, 8, 3))] * count).get_figwidth() in {3.25, 5.0, 6.75}


def test_a_pdf_embeds_its_fonts_as_truetype(tmp_path):
    mpl.rcParams.update(mpl.rcParamsDefault)  # even where the style was not set
    figure, ax = plt.subplots()
    ax.set_title("text with λ and $x_0$")
    content = plotting.save_figure(figure, tmp_path / "made" / "a.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content
    assert content == plotting.save_figure(figure, tmp_path / "b.pdf").read_bytes()


def test_a_png_has_the_size_of_its_figure_and_can_show_what_others_see(tmp_path):
    figure, ax = plt.subplots(figsize=plotting.figsize(1))
    ax.set_facecolor("#ff0000")
    normal = plt.imread(plotting.save_figure(figure, tmp_path / "a.png"))
    assert normal.shape[:2] == (round(0.62 * 3.25 * 300), 975)
    blind = plt.imread(plotting.save_figure(figure, tmp_path / "b.png", "deuteranopia"))
    middle = normal.shape[0] // 2, normal.shape[1] // 2
    assert np.allclose(normal[middle][:3], (1, 0, 0))
    assert np.allclose(rgb2lab(blind[middle][:3]), seen([(1, 0, 0)], "deutan")[0], atol=0.5)


@pytest.mark.parametrize(
    "name, vision, message",
    [
        ("a.jpg", "normal", "not .jpg"),
        ("a", "normal", "without a suffix"),
        ("a.png", "x", "'x' is unknown"),
        ("a.pdf", "tritanopia", ".png"),
    ],
)
def test_figures_that_cannot_be_written_say_why(tmp_path, name, vision, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plotting.save_figure(plt.figure(), tmp_path / name, vision)
    assert not list(tmp_path.iterdir())


# -- text ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.6, 1.0, 1.5])
def test_layer_names_are_broken_and_never_cut(width):
    for name in LAYERS:
        lines = plotting.layer_name(name, width).split("\n")
        assert "".join(lines) == name and len(lines) > 1
        assert all(text_width(line, 7) <= width or not re.search("[._]", line[:-1]) for line in lines)


def test_wrapped_text_fits_and_keeps_mathematics_and_breaks():
    text = "one two three $x_0 + y$ four\nfive, 5 % six"
    wrapped = plotting.wrap(text, 0.7)
    assert wrapped.replace("\N{NO-BREAK SPACE}", " ").split() == text.split()
    assert "$x_0 + y$" in wrapped and "four\nfive" in wrapped and "\n%" not in wrapped
    assert all(text_width(line) <= 0.7 for line in wrapped.split("\n"))


def test_tables_show_whole_strings():
    frame = pd.DataFrame({"layer": ["very." * 60 + "long"] * 80, "value": [1 / 3, np.nan] * 40})
    assert "..." in repr(frame)  # what pandas does by itself
    for text in (repr(plotting.full_text(frame)), plotting.full_text(frame)._repr_html_()):
        assert text.count(frame.layer[0]) == 80 and "..." not in text and "…" not in text
        assert "0.33" in text and "0.333" not in text and "NaN" not in text


# -- pictures -----------------------------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)


@pytest.mark.parametrize("count, columns", [(12, 6), (5, None), (2, None), (26, 13), (7, 3)])
def test_titles_of_a_gallery_collide_with_nothing(count, columns):
    titles = ["a title of several words", "short", LAYERS[0], "two\nlines", "$\\hat x_0$ from $x_{981}$"]
    figure = plotting.gallery([PICTURE] * count, [titles[i % 5] for i in range(count)], columns)
    renderer = drawn(figure)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == count
    boxes = boxes_of([ax.title for ax in shown if ax.get_title()] + shown, renderer)
    if columns != 13:  # there a title's longest word is wider than its picture
        assert not collide(boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)


def test_a_gallery_keeps_pictures_whole_and_close():
    figure = plotting.gallery([PICTURE] * 6, columns=3)
    renderer = drawn(figure)
    boxes = boxes_of(figure.axes, renderer)
    assert all(box.width / box.height == pytest.approx(40 / 32, rel=0.02) for box in boxes)
    covered = sum(box.width * box.height for box in boxes) / (figure.bbox.width * figure.bbox.height)
    assert covered > 0.85
    with pytest.raises(ValueError, match="at least one picture"):
        plotting.gallery([])


def test_a_class_legend_names_what_is_there_under_the_pictures():
    figure = plotting.gallery([PICTURE] * 5, ["a"] * 5)
    before = figure.get_figheight()
    palette = plotting.segment_palette(30)
    names = [f"class number {i}" for i in range(30)]
    legend = plotting.class_legend(figure.axes[-1], names, palette, np.array([[3, 7], [29, 255]]))
    renderer = drawn(figure)
    assert [text.get_text() for text in legend.get_texts()] == [
        "class number 3",
        "class number 7",
        "class number 29",
    ]
    assert np.allclose(legend.get_patches()[0].get_facecolor()[:3], palette[3] / 255)
    assert figure.get_figheight() > before
    assert not collide(boxes_of([legend, *figure.axes], renderer)) and legend.get_window_extent().y0 >= 0


def test_maps_by_two_parameters():
    maps = np.random.default_rng(0).random((3, 4, 8, 8))
    figure = plotting.grid_of_maps(maps, ["λ = 1", "λ = 3", "λ = 10"], [f"t = {t}" for t in range(4)])
    axes = np.array(figure.axes).reshape(3, 4)
    assert np.array_equal(axes[2, 1].images[0].get_array(), maps[2, 1])
    assert (
        axes[0, 3].get_title() == "t = 3"
        and axes[1, 0].get_ylabel() == "λ = 3"
        and not axes[1, 1].get_title()
    )


def test_labels_without_a_colour_are_errors_and_void_is_grey():
    labels = np.array([[0, 1], [2, 255]])
    palette = plotting.segment_palette(3)
    with pytest.raises(ValueError, match=r"Label 255 has no colour: .* 0 to 2"):
        plotting.colourise(labels, palette)
    with pytest.raises(ValueError, match="Label -1 has no colour"):
        plotting.colourise(labels - 1, palette)
    coloured = plotting.colourise(labels, palette, ignore_index=255)
    assert (coloured.reshape(-1, 3)[:3] == palette).all() and len(set(coloured[1, 1])) == 1
    assert (plotting.colourise(labels, ignore_index=255) == coloured).all()
    assert (plotting.colourise(np.full((2, 2), 255), ignore_index=255) == coloured[1, 1]).all()


def test_an_overlay_mixes_and_outlines():
    labels = np.zeros((32, 40), int)
    labels[:, 20:] = 1
    palette = np.array([[0, 0, 0], [200, 100, 50]], np.uint8)
    mixed = plotting.overlay(PICTURE, labels, palette, opacity=0.25)
    assert (mixed[:, 20] == 255).all()
    assert np.abs(mixed[:, :20] - 0.75 * PICTURE[:, :20]).max() < 1
    assert np.abs(mixed[:, 21:] - (0.75 * PICTURE[:, 21:] + 0.25 * palette[1])).max() < 1
    with pytest.raises(ValueError, match=r"\(31, 40\).*\(32, 40\)"):
        plotting.overlay(PICTURE, labels[1:])


def test_pca_image_of_flat_and_of_few_features():
    assert np.isfinite(plotting.pca_image(np.ones((4, 4, 5)))).all()
    assert plotting.pca_image(np.arange(4.0).reshape(1, 2, 2)).shape == (1, 2, 3)
    plane = np.random.default_rng(0).normal(size=(6, 6, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
    image = plotting.pca_image(plane)
    assert image.min() >= 0 and image.max() <= 1 and np.ptp(image[..., 1]) > 0.5


def test_attention_colours_the_cells_that_are_attended_to():
    attention = np.zeros((4, 4))
    attention[1, 2] = 0.03
    picture = np.full((32, 32, 3), 90, np.uint8)
    picture[:, :16] = 200
    over = plotting.attention_overlay(picture, attention).astype(int)
    hot = np.ptp(over, axis=-1) > 60
    assert hot[8:16, 16:24].all() and hot.sum() == 64
    assert (
        np.ptp(over[~hot], axis=-1).max() <= 1 and over[0, 0, 0] > over[0, 31, 0]
    )  # the picture stays, in grey
    figure, ax = plt.subplots()
    assert plotting.attention_on_picture(ax, picture, attention, "“house”").get_title() == "“house”"


def test_steps_of_kmeans_say_how_many_cells_moved():
    steps = [np.zeros((4, 4), int), np.eye(4, dtype=int), np.eye(4, dtype=int)]
    figure = plotting.kmeans_steps(steps, PICTURE)
    assert [ax.get_title() for ax in figure.axes] == [
        "image",
        "start",
        "step 1:\n25.0% moved",
        "step 2:\n0.0% moved",
    ]
    palette = plotting.segment_palette(2)
    assert (np.asarray(figure.axes[2].images[0].get_array()) == palette[steps[1]]).all()


# -- charts -------------------------------------------------------------------------------------------------------------


def sweep(settings, kinds=("EmerDiff", "bilinear")):
    rows = [
        {
            "setting": setting,
            "kind": kind,
            "value": 10.0 * i + j,
            "low": 10.0 * i + j - 2,
            "high": 10.0 * i + j + 1,
        }
        for j, kind in enumerate(kinds)
        for i, setting in enumerate(settings)
    ]
    return pd.DataFrame(rows)


COLUMNS = ("setting", "value", "low", "high", "kind")


def test_numbers_get_curves_with_bands_in_order():
    figure, ax = plt.subplots()
    plotting.line_with_bands(ax, sweep(["16", "4", "8"]), *COLUMNS, colours={"bilinear": plotting.NEUTRAL})
    first, second = ax.lines
    assert first.get_xdata().tolist() == [4, 8, 16] and first.get_ydata().tolist() == [10, 20, 0]
    assert first.get_color() == plotting.CHART_COLOURS[0] and second.get_color() == plotting.NEUTRAL
    assert (first.get_linestyle(), first.get_marker()) != (second.get_linestyle(), second.get_marker())
    band = ax.collections[0].get_paths()[0].vertices
    assert {(4.0, 8.0), (4.0, 11.0)} <= set(map(tuple, band))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["4", "8", "16"]


def test_a_logarithmic_axis_reads_plainly():
    figure, ax = plt.subplots()
    plotting.line_with_bands(ax, sweep([1, 10, 100, 1000]), *COLUMNS, log=True)
    drawn(figure)
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "10", "100", "1000"]
    figure, ax = plt.subplots()
    plotting.line_with_bands(ax, sweep(range(1, 60)), *COLUMNS, log=True)  # too many for a tick each
    renderer = drawn(figure)
    labels = [tick for tick in ax.get_xticklabels() if tick.get_text()]
    assert {"1", "10", "50"} <= {tick.get_text() for tick in labels} and not collide(
        boxes_of(labels, renderer)
    )


def test_categories_keep_their_order_and_stand_side_by_side():
    figure, ax = plt.subplots()
    plotting.line_with_bands(ax, sweep(["with", "without", "4"]), *COLUMNS)
    first, second = ax.lines
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["with", "without", "4"]
    assert first.get_linestyle() == "None" and (second.get_xdata() - first.get_xdata() > 0.1).all()


def test_legends_cover_no_data():
    figure, axes = plt.subplots(1, 3, figsize=plotting.figsize(2, height=1.9))
    for ax in axes:
        plotting.line_with_bands(
            ax, sweep([1, 2, 3], [f"a rather long name {i}" for i in range(5)]), *COLUMNS
        ).legend()
    legend = plotting.shared_legend(figure, "five curves")
    renderer = drawn(figure)
    assert len(legend.get_texts()) == 5 and all(ax.get_legend() is None for ax in axes)
    assert not collide(boxes_of([legend, *axes], renderer))
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert plotting.shared_legend(plt.figure()) is None


def test_intervals_run_from_top_to_bottom():
    figure, ax = plt.subplots()
    table = sweep(["first", LAYERS[0], "third"]).iloc[::-1]
    plotting.intervals(ax, table, "setting", "value", "low", "high", "kind")
    assert [label.get_text().replace("\n", "") for label in ax.get_yticklabels()] == [
        "third",
        LAYERS[0],
        "first",
    ]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    upper, lower = ax.lines
    assert upper.get_label() == "bilinear" and (upper.get_ydata() < lower.get_ydata()).all()
    ends = ax.collections[0].get_segments()[0]
    assert ends[:, 0].tolist() == [19, 22]


def test_series_that_share_no_row_stand_in_the_middle():
    figure, ax = plt.subplots()
    table = pd.DataFrame(
        {"m": ["a", "b"], "v": [1.0, 2.0], "low": [0.0, 1.0], "high": [2.0, 3.0], "kind": ["x", "y"]}
    )
    plotting.intervals(ax, table, "m", "v", "low", "high", "kind", names=False)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0], [1]]
    assert not any(label.get_text() for label in ax.get_yticklabels())


def test_a_heat_map_writes_every_number_and_whole_names():
    figure, ax = plt.subplots(figsize=plotting.figsize(2, height=2))
    wide = pd.DataFrame(np.arange(18.0).reshape(6, 3), pd.Index(LAYERS, name="layer"), [1, 281, 481])
    wide.iloc[2, 1] = np.nan
    plotting.heatmap(ax, wide)
    assert sorted(float(text.get_text()) for text in ax.texts) == [i for i in range(18) if i != 7]
    assert [label.get_text().replace("\n", "") for label in ax.get_yticklabels()] == LAYERS
    renderer = drawn(figure)
    assert not collide(boxes_of([*ax.texts, *ax.get_yticklabels()], renderer))
    shades = {text.get_color() for text in ax.texts}
    assert shades == {"black", "white"} and ax.texts[0].get_color() == "white"  # viridis begins dark


def test_fates_add_up_and_found_has_its_colour():
    table = pd.DataFrame([[40, 3, 57], [0, 30, 70]], ["small", "large"], ["grid", "argmax", "found"])
    figure, ax = plt.subplots()
    plotting.fate_bars(ax, table)
    bars = {container.get_label(): container.patches for container in ax.containers}
    assert list(bars) == ["grid", "argmax", "found"]
    assert np.allclose(bars["found"][0].get_facecolor()[:3], to_rgb(plotting.FOUND))
    assert [patch.get_x() for patch in bars["found"]] == [43, 30]
    assert sorted(text.get_text() for text in ax.texts if text.get_text()) == ["30", "40", "57", "70"]
    with pytest.raises(ValueError, match="'won' is no column; the table has grid, argmax, found"):
        plotting.fate_bars(ax, table, "won")


def test_missing_columns_are_named():
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"'valeu' is no column; .*'value'"):
        plotting.line_with_bands(ax, sweep([1, 2]), "setting", "valeu")


# -- quality against cost -----------------------------------------------------------------------------------------------

FRONT = pd.DataFrame(
    {
        "s / image": [
            6.41,
            6.37,
            3.28,
            1.80,
            1.15,
            1.15,
            1.09,
            0.77,
            0.61,
            0.58,
            0.46,
            0.40,
            0.35,
            0.24,
            0.17,
            0.13,
        ],
        "boundary F": [
            82.7,
            83.3,
            81.4,
            79.2,
            79.1,
            81.4,
            76.5,
            77.3,
            63.5,
            74.5,
            75.7,
            73.6,
            74.5,
            72.3,
            76.9,
            53.3,
        ],
        "kind": ["guided", "plain", "plain", "plain"] * 4,
    },
    [f"{i} steps, a row per mask, otherwise as fast"[: 8 + 2 * i] for i in range(16)],
)


@pytest.mark.parametrize("columns, dpi", [(2, 200), (1.5, 100)])
def test_labels_of_a_front_cover_neither_each_other_nor_the_points(columns, dpi):
    figure, axes = plt.subplots(
        1, 2 if columns == 2 else 1, figsize=plotting.figsize(columns, 0.5), dpi=dpi, squeeze=False
    )
    for ax in axes[0]:
        plotting.front(ax, FRONT, "s / image", "boundary F", "kind")
    plotting.shared_legend(figure)  # changes the layout after the labels were made
    renderer = drawn(figure)
    for ax in axes[0]:
        boxes = boxes_of(ax.texts, renderer)
        assert [text.get_text().replace("\n", " ") for text in ax.texts] == [
            name.strip() for name in FRONT.index
        ]
        assert not collide(boxes)
        points = ax.transData.transform(FRONT[["s / image", "boundary F"]])
        assert not any(box.contains(*point) for box in boxes for point in points)
        area = ax.get_window_extent(renderer)
        assert all(area.x0 - 1 <= box.x0 and box.x1 <= area.x1 + 1 for box in boxes)


def test_the_front_joins_what_nothing_beats():
    figure, ax = plt.subplots()
    table = pd.DataFrame({"s": [1, 2, 3, 4, 2], "q": [1, 5, 4, 6, 5]}, list("abcde"))
    plotting.front(ax, table, "s", "q", log=False)
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [2, 5], [4, 6]]


def test_places_are_beside_their_points_where_there_is_room_and_free_where_there_is_not():
    points = np.array([[100.0, 100.0], [400.0, 300.0]])
    boxes, beside = place(points, np.array([[60.0, 12.0]] * 2), (0, 0, 500, 400), 4)
    assert beside.all() and (boxes[:, 0] - points[:, 0] < 10).all() and (boxes[:, 0] > points[:, 0]).all()
    crowd = 250 + 6 * np.random.default_rng(0).normal(size=(14, 2))
    boxes, beside = place(crowd, np.array([[60.0, 12.0]] * 14), (0, 0, 500, 400), 4)
    assert not collide([mpl.transforms.Bbox.from_extents(*box) for box in boxes]) and not beside.all()
    again, _ = place(crowd, np.array([[60.0, 12.0]] * 14), (0, 0, 500, 400), 4)
    assert (boxes == again).all()
    assert place(np.zeros((0, 2)), np.zeros((0, 2)), (0, 0, 1, 1), 4)[0].shape == (0, 4)


# -- diagrams -----------------------------------------------------------------------------------------------------------


def test_a_unet_shows_its_levels_and_where_attention_sits():
    levels = [
        {
            "grid": (64 >> i, 48 >> i),
            "channels": 320 * min(i + 1, 4),
            "down": f"down_blocks.{i}",
            "up": f"up_blocks.{3 - i}",
        }
        | ({"down_attention": 2, "up_attention": 3} if i < 3 else {})
        | ({"note": "queries read here"} if i == 1 else {})
        for i in range(4)
    ]
    figure, ax = plt.subplots(figsize=plotting.figsize(2, 0.4))
    plotting.unet_diagram(ax, levels, {"name": "mid_block", "attention": 1})
    renderer = drawn(figure)
    texts = [text for text in ax.texts if text.get_text()]
    assert not collide(boxes_of(texts, renderer))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes_of(texts, renderer))
    words = [text.get_text() for text in texts]
    assert "32 × 24 cells\n640 channels" in words and "up_blocks.2\n3 attention layers" in words
    assert (
        "mid_block\n1 attention layer" in words and "down_blocks.3" in words and "queries read here" in words
    )
    assert len(ax.patches) == 9
    assert (
        len({patch.get_facecolor() for patch in ax.patches[:6]}) == 1
    )  # the first three levels, with attention
    assert ax.patches[6].get_facecolor() == ax.patches[7].get_facecolor() != ax.patches[0].get_facecolor()


def test_a_transformer_is_a_row_of_blocks():
    figure, ax = plt.subplots(figsize=plotting.figsize(2, 0.2))
    plotting.transformer_diagram(ax, 24, (64, 48), 1536, {9: "queries", 12: "push"})
    renderer = drawn(figure)
    texts = [text for text in ax.texts if text.get_text()]
    assert not collide(boxes_of(texts, renderer))
    words = [text.get_text() for text in texts]
    assert words.index("queries") > words.index("9") and len(ax.patches) >= 24
    assert "24 transformer_blocks on 64 × 48 tokens of 1536 channels" in ax.get_title()
    with pytest.raises(ValueError, match="cannot have notes on \\[24\\]"):
        plotting.transformer_diagram(ax, 24, (64, 48), 1536, {24: "push"})


def test_a_unet_without_its_sizes_is_an_error():
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match="at least one level"):
        plotting.unet_diagram(ax, [])
    with pytest.raises(ValueError, match="Level 0 lacks its grid; it has channels"):
        plotting.unet_diagram(ax, [{"channels": 4}])
