"""The explorer: what it is given against the responses themselves, and its page in a real browser without server or network."""

import base64
import json
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from emerdiff_lib.explorer import explore, page, payload, save_page
from emerdiff_lib.explorer.widget import NUMBERS
from emerdiff_lib.export import write_formats
from emerdiff_lib.plotting import segment_palette
from emerdiff_lib.responses import quantise

from .conftest import seeded


@pytest.fixture(scope="module")
def responses(pipe, scene):
    return pipe.probe(pipe.cluster(scene.image, 6, generator=seeded(), num_parts=24, mode="pixel"))


def test_the_payload_is_the_responses(responses):
    data = payload(responses)
    header = data["header"]
    arrays = {
        name: np.frombuffer(zlib.decompress(base64.b64decode(array["zlib"])), array["dtype"])
        for name, array in data["arrays"].items()
    }
    labels = arrays["superpixels"].reshape(header["size"])
    for row, k in zip(arrays["groups"].reshape(len(NUMBERS), -1), NUMBERS, strict=True):
        assert np.array_equal(row[labels], responses.segments(k))
    signed = torch.cat(list(responses.decoded()), 2).unflatten(2, responses.codes.shape[2:])
    codes, _ = quantise(signed)  # 24 parts at 128 × 128 are more than travel: on a coarser grid
    assert header["codesSize"][0] < codes.shape[2] and arrays["codes"].size <= 700_000
    assert np.array_equal(arrays["partOfCell"].reshape(16, 16), responses.parts.int().argmax(0))
    assert header["k"] == 6 and arrays["scales"].size == 24


def test_the_widget_shows_the_page_where_there_is_no_kernel(pipe, scene, responses):
    widget = explore(pipe, scene.image, num_masks=6, num_parts=24, generator=seeded())
    assert widget.data["arrays"] == payload(responses)["arrays"]
    bundle = widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"].startswith("<iframe srcdoc=")
    content = page(payload(responses))
    assert len(content) < 1e6 and "http://" not in content and "https://" not in content
    with pytest.raises(ValueError, match='choose mode="pixel" or "fast"'):
        explore(pipe, scene.image, mode="exact", num_masks=2, modulation_timestep=41, noise_ensemble_size=1)


@pytest.fixture(scope="module")
def portrait(pipe, scene, tmp_path_factory):
    """An explorer of a file that is larger than what is processed."""
    path = tmp_path_factory.mktemp("images") / "portrait.png"
    scene.image.resize((270, 480)).save(path)
    return explore(pipe, path, num_masks=6, num_parts=24)


@pytest.fixture
def opened(browser, responses, tmp_path):
    yield from _opened(browser, save_page(responses, tmp_path / "new" / "page.html"))


@pytest.fixture
def opened_portrait(browser, portrait, tmp_path):
    (tmp_path / "page.html").write_text(page(portrait.data))
    yield from _opened(browser, tmp_path / "page.html")


def _opened(browser, path):
    """A page from disk, with no network, and what its console complained of."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 800})
    tab, errors = context.new_page(), []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("[data-drawn]")
    yield tab
    context.close()
    assert not errors


def pixels(tab, index):
    """(H, W, 3) what a canvas shows."""
    shown = tab.evaluate(
        """index => { const canvas = document.querySelectorAll("canvas")[index];
        const {width, height} = canvas; const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        return {width, height, data: Array.from(data)}; }""",
        index,
    )
    return np.array(shown["data"], np.uint8).reshape(shown["height"], shown["width"], 4)[..., :3]


def after(tab, act):
    """Runs ``act`` and waits for the next drawing."""
    before = tab.get_attribute("#explorer", "data-drawn")
    act()
    drawn = "before => document.querySelector('#explorer').dataset.drawn !== before"
    tab.wait_for_function(drawn, arg=before)


def at(canvas, x, y):
    """Where a pixel of a 128 × 128 image is on its canvas, as a position to click."""
    box = canvas.bounding_box()
    return {"x": (x + 0.5) * box["width"] / 128, "y": (y + 0.5) * box["height"] / 128}


def test_a_click_names_the_segment_that_is_there_and_the_slider_changes_segments_at_once(opened, responses):
    canvas, labels = opened.locator("canvas").first, responses.segments(6)
    for x, y in ((10, 100), (90, 20)):
        after(opened, lambda: canvas.click(position=at(canvas, x, y)))  # noqa: B023
        share = 100 * (labels == labels[y, x]).mean()
        expected = f"Segment {labels[y, x]} of 6 has {share:.1f} % of the image; pixel ({x}, {y})."
        assert expected in opened.text_content(".emerdiff-status")
    outside = labels != labels[20, 90]
    colours = pixels(opened, 0).mean(-1)
    assert opened.evaluate("explorer.state.selected") == labels[20, 90]
    original = np.asarray(responses.image).mean(-1)  # all but the selected segment is dimmed
    assert colours[outside].mean() < 0.7 * original[outside].mean()
    before = pixels(opened, 0)
    after(opened, lambda: opened.locator("input[type=range]").first.fill("15"))
    assert opened.text_content("output") == "15" and not np.array_equal(before, pixels(opened, 0))
    labels = np.array(opened.evaluate("Array.from(explorer.responses.labels(15))")).reshape(128, 128)
    assert np.array_equal(labels, responses.segments(15))


def test_the_numbers_are_the_library_s(opened, responses):
    """The page's grid of responses is coarser, so that pixels at a border may be told from others than in the library."""
    alike, parts = [], responses.parts.flatten(1).float()
    weights = torch.cat(list(responses.weights()), 1).unflatten(1, (128, 128))
    for x, y in np.random.default_rng(0).integers(0, 128, (30, 2)).tolist():
        mine = (weights[:, y, x] @ (parts / parts.sum(1, keepdim=True))).numpy()
        theirs = np.array(opened.evaluate(f"explorer.responses.cellsBehind({x}, {y})"))
        assert theirs.sum() == pytest.approx(1)
        alike.append(np.corrcoef(mine, theirs)[0, 1])
    assert np.median(alike) > 0.98 and np.mean(alike) > 0.85
    mask = np.zeros((1, 16, 16), np.float32)
    mask[0, 8:12, 4:9] = 1
    height, width = opened.evaluate("explorer.responses.codesSize")
    coarser = F.interpolate(responses.responses_to(mask), size=(height, width), mode="area")
    mine = torch.linalg.vector_norm(coarser, dim=1).flatten().numpy()
    difference = "m => Array.from(explorer.responses.differenceMap(m))"
    theirs = np.array(opened.evaluate(difference, mask.ravel().tolist()))
    np.testing.assert_allclose(theirs, mine, atol=0.02 * mine.max())
    rows, columns = (np.arange(128) * side // 128 for side in (height, width))
    theirs = np.array(opened.evaluate("Array.from(explorer.responses.pixelsBehind(8 * 16 + 4))"))
    theirs = theirs.reshape(height, width)[rows][:, columns]
    mine = weights[int(parts[:, 8 * 16 + 4].argmax())]  # of the part to which the cell belongs
    assert np.corrcoef(mine.numpy().ravel(), theirs.ravel())[0, 1] > 0.8


def test_a_drag_paints_a_mask_whose_response_is_shown(opened):
    after(opened, lambda: opened.get_by_role("button", name="Paint").click())
    canvas, empty = opened.locator("canvas").first, pixels(opened, 1)
    box, start, end = canvas.bounding_box(), at(canvas, 30, 90), at(canvas, 60, 90)
    opened.mouse.move(box["x"] + start["x"], box["y"] + start["y"])
    opened.mouse.down()
    after(opened, lambda: opened.mouse.move(box["x"] + end["x"], box["y"] + end["y"], steps=8))
    opened.mouse.up()
    cells = opened.evaluate("Array.from(explorer.state.mask)")
    assert {cell // 16 for cell in cells} == {11} and len(cells) >= 4
    assert empty.max() < 10 < pixels(opened, 1).max()
    assert f"My mask has {len(cells)} cells" in opened.text_content(".emerdiff-status")
    after(opened, lambda: opened.get_by_role("button", name="Erase").click())
    after(opened, lambda: canvas.click(position=start))
    assert opened.evaluate("explorer.state.mask.size") == len(cells) - 1
    after(opened, lambda: opened.get_by_role("button", name="Clear").click())
    assert opened.evaluate("explorer.state.mask.size") == 0 and pixels(opened, 1).max() < 10


def test_keys_do_what_the_mouse_does(opened):
    canvas = opened.locator("canvas").first
    canvas.focus()
    x, y = opened.evaluate("[explorer.state.x, explorer.state.y]")
    after(opened, lambda: canvas.press("ArrowRight"))
    after(opened, lambda: canvas.press("Shift+ArrowUp"))
    assert opened.evaluate("[explorer.state.x, explorer.state.y]") == [x + 1, y - 8]
    for key, size in (("Enter", 1), ("Backspace", 0)):
        after(opened, lambda: canvas.press(key))  # noqa: B023
        assert opened.evaluate("explorer.state.mask.size") == size
    assert opened.get_attribute("canvas", "aria-label").startswith("Image with its segments")


def test_both_images_zoom_and_move_together(opened):
    boxes = lambda: [opened.locator("canvas").nth(n).bounding_box() for n in (0, 1)]
    (left, right), canvas = boxes(), opened.locator("canvas").first
    opened.get_by_role("button", name="+", exact=True).click()
    assert [box["width"] for box in boxes()] == pytest.approx([1.5 * left["width"], 1.5 * right["width"]])
    opened.get_by_role("button", name="Move").click()
    before = boxes()
    opened.mouse.move(left["x"] + 100, left["y"] + 100)
    opened.mouse.down()
    opened.mouse.move(left["x"] + 130, left["y"] + 80)
    opened.mouse.up()
    for new, old in zip(boxes(), before, strict=True):
        assert (new["x"] - old["x"], new["y"] - old["y"]) == pytest.approx((30, -20), abs=0.5)
    canvas.press("0")
    assert boxes() == [left, right]
    assert opened.evaluate("explorer.state.selected") is None  # a drag that moves selects nothing


def downloaded(tab, name):
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name=name, exact=True).click()
    return waiting.value.path().read_bytes()


def test_downloads_are_what_the_library_writes(opened_portrait, portrait, pipe, tmp_path):
    """At the image's own size, which is none of the processing."""
    tab, responses = opened_portrait, portrait.responses
    labels = responses.segments(6)
    assert tab.evaluate("[explorer.responses.height, explorer.responses.width]") == [480, 270]
    assert labels.shape == (480, 270) != tuple(responses.processing_size)
    grey, palette = (Image.open(BytesIO(downloaded(tab, name))) for name in ("Label map", "Palette"))
    assert grey.mode == "L" and palette.getpalette()[:18] == segment_palette(6).ravel().tolist()
    assert np.array_equal(np.array(grey), labels) and np.array_equal(np.array(palette), labels)
    write_formats(pipe.output(responses), responses.image, tmp_path, ["coco"], "portrait.png")
    mine, theirs = json.loads(downloaded(tab, "COCO")), json.loads((tmp_path / "coco.json").read_text())
    plain = lambda record: {key: value for key, value in record.items() if key not in ("id", "image_id")}
    for kind in ("images", "categories", "annotations"):
        assert list(map(plain, mine[kind])) == list(map(plain, theirs[kind]))
    tab.evaluate("explorer.set({selected: 2, mask: new Set([0, 17])})")
    segment, mask = (np.array(Image.open(BytesIO(downloaded(tab, name)))) for name in ("Segment", "Mask"))
    exec(tab.evaluate("explorer.python()"), made := {})  # the lines make all of it again
    assert np.array_equal(made["labels"], labels)
    assert np.array_equal(made["segment"], labels == 2) and np.array_equal(segment == 255, labels == 2)
    assert made["mask"].flatten().nonzero().flatten().tolist() == [0, 17]
    cells = made["mask"][0].numpy().repeat(480 // responses.grid[0], 0)
    assert (mask == 255).mean() == pytest.approx(cells.mean(), rel=0.1) and mask[0, 0] == 255


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1920, 1080), (390, 844)])
def test_a_portrait_is_above_the_fold_and_nothing_is_cut(opened_portrait, width, height):
    opened_portrait.set_viewport_size({"width": width, "height": height})
    box = opened_portrait.locator("canvas").first.bounding_box()
    assert box["y"] + box["height"] <= height and box["x"] + box["width"] <= width
    assert box["width"] / box["height"] == pytest.approx(270 / 480, rel=0.01)
    assert opened_portrait.evaluate("document.documentElement.scrollWidth") <= width
