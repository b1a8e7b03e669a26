"""The workbench: what it shows is the library's own, a stop ends the work, errors are said; in JupyterLab itself."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from emerdiff_lib import Toyscapes
from emerdiff_lib.explorer import Workbench, payload

from .conftest import pipeline, seeded


@pytest.fixture(scope="module")
def bench():
    """Of a pipeline that other tests do not use at the same time; what it begins with is waited for."""
    made = Workbench(pipeline(), "toyscapes:7")
    made.worker.join()
    return made


def computed(bench, **settings):
    """What is said in the end, with these settings."""
    for name, value in settings.items():
        bench.settings[name].value = value
    bench.start.click()
    bench.worker.join()
    assert bench.stop.disabled and not bench.start.disabled
    return bench.said.value


def test_it_shows_what_the_pipeline_computes(bench):
    pipe, image, bench.image.value = bench.pipe, Toyscapes.from_seed(7).image, "toyscapes:7"
    first = bench.responses["left"]
    assert first.settings == pipe.resolve(mode="pixel")
    changed = {"mode": "fast", "modulation_timestep": 41, "feature_timestep": 181, "modulation_strength": 9.0}
    bench.side.value = "right"
    assert "shown on the right" in computed(bench, **changed)
    expected = pipe.probe(pipe.cluster(image, generator=seeded(), **changed), mask_batch_size=8)
    heading, explorer = bench.places["right"].children
    assert explorer.data["arrays"] == payload(expected)["arrays"] and bench.bar.value == bench.bar.max == 16
    assert "λ = 9 at t = 41" in heading.value and bench.responses["left"] is first
    assert set(explorer.data["header"]["changed"]) >= {"modulation_strength", "modulation_timestep"}
    assert "shown on the right" in computed(bench, modulation_strength=3.0)
    assert explorer.comm is None and bench.places["right"].children[1].comm is not None  # closed


def test_a_stop_ends_the_work_and_errors_are_said(bench):
    bench.image.value = "toyscapes:7"
    shown, pressed = dict(bench.responses), []

    def stop(_):  # at the first sign of the bar
        pressed.append(bench.start.disabled and not bench.stop.disabled)
        bench.stop.click()

    bench.bar.observe(stop, "value")
    assert "Cancelled" in computed(bench, mode="pixel", modulation_timestep=481) and all(pressed)
    bench.bar.unobserve_all()
    assert bench.bar.value < bench.bar.max
    for name, said in (
        ("toyscapes:x", "no image at toyscapes:x"),
        ("/no/file", "/no/file"),
        ("", "is no folder; name one"),
    ):
        bench.image.value = name
        assert said in computed(bench)
    bench.image.value = "toyscapes:7"
    assert "modulation_strength=-1.0 is not possible" in computed(bench, modulation_strength=-1.0)
    assert bench.responses == shown


def test_images_can_be_uploaded(bench):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    buffer = BytesIO()
    noise.save(buffer, "PNG")

    def upload(content):  # as a browser does
        file = {"name": "<b>.png", "type": "image/png", "size": len(content), "last_modified": 0}
        bench.upload.set_state({"value": [file | {"content": memoryview(content)}]})

    upload(buffer.getvalue())
    assert bench.image.value == "<b>.png" == bench.image.options[0] and bench.images["<b>.png"] == noise
    bench.image.value = "sample:cat"
    upload(buffer.getvalue())  # again
    assert bench.image.value == "<b>.png"
    for content in (b"none", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", bytes(18)):  # a program; what TGA accepts
        bench._say("")
        upload(content)
        assert "The image cannot be read" in bench.said.value
    given = Workbench(bench.pipe, np.asarray(noise))
    given.worker.join()
    assert given.images["the given image"] == noise == given.responses["left"].image


def test_it_works_in_jupyterlab(lab):
    """Another strength on the right, one that is stopped, and the new side answers clicks and its slider, in the lab itself."""
    tab, errors = lab(
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import Workbench\n"
        "Workbench(load_pipeline('toyscapes'), 'toyscapes:7')"
    )
    strength, compute = tab.get_by_label("Strength"), tab.get_by_role("button", name="Compute")
    tab.get_by_text("shown on the left").wait_for()
    tab.get_by_label("Show on the").select_option("right")
    strength.fill("8")
    strength.press("Tab")
    compute.click()
    tab.get_by_text("λ = 8 at").wait_for()
    tab.wait_for_function("document.querySelectorAll('.emerdiff-explorer[data-drawn]').length == 2")
    strength.fill("5")
    strength.press("Tab")
    compute.click()
    tab.get_by_role("button", name="Cancel").click()
    tab.get_by_text("Cancelled").wait_for()
    tab.get_by_text("λ = 8 at").wait_for()
    ids = tab.locator(".emerdiff-explorer [id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids)) == 6  # a label names the control beside it
    second = tab.locator(".emerdiff-explorer").nth(1)
    second.locator("canvas").first.click(position={"x": 30, "y": 40})
    second.get_by_text("of the image; pixel (").wait_for()
    second.locator("input[type=range]").first.fill("15")
    second.get_by_text("of 15 has").wait_for()
    tab.close()
    assert not errors


def test_the_kernel_knows_what_is_shown_and_sets_it(lab):
    """num_segments, selected and mask of the widget are those of the page."""
    tab, errors = lab(
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import explore\nimport ipywidgets\n"
        "it = explore(load_pipeline('toyscapes'), 'sample:coins', mode='fast')\nsaid = ipywidgets.HTML()\n"
        "def tell(_):\n    said.value = f'{it.num_segments} {it.selected is not None} {sum(map(sum, it.mask))}'\n"
        "def renew(_):\n    it.num_segments, it.selected = 5, 2\n"
        "it.observe(tell, ['num_segments', 'selected', 'mask'])\n"
        "again = ipywidgets.Button(description='Set')\nagain.on_click(renew)\nipywidgets.VBox([it, said, again])"
    )
    tab.locator("input[type=range]").first.fill("15")
    tab.get_by_text("15 False 0").wait_for()
    canvas = tab.locator(".emerdiff-explorer canvas").first
    canvas.click()
    tab.get_by_text("15 True 0").wait_for()
    tab.get_by_role("button", name="Paint").click()
    canvas.click()
    tab.get_by_text("15 True 1").wait_for()
    tab.get_by_role("button", name="Set").click()
    tab.get_by_text("Segment 2 of 5 has").wait_for()
    tab.close()
    assert not errors
