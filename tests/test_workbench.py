"""The workbench: what it shows is the library's own, nothing is computed twice, a stop ends the work; also as an application."""

import base64
import urllib.error
import urllib.request
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

from emerdiff_lib import Toyscapes
from emerdiff_lib.explorer import payload
from emerdiff_lib.explorer.__main__ import main
from emerdiff_lib.explorer.workbench import Bench, Cancelled

from .conftest import pipeline, refusal, seeded, serving

FAST = {"mode": "fast", "modulation_timestep": 41}


@pytest.fixture(scope="module")
def own():
    """A pipeline that other tests do not use at the same time."""
    return pipeline()


@pytest.fixture
def bench(own):
    return Bench(lambda name: own)


def asked(image="toyscapes:7", do="compute", **settings):
    return {"do": do, "image": image, "settings": FAST | settings}


def computed(bench, **settings):
    shares = []
    return bench.answer(asked(**settings), shares.append), shares


def test_it_shows_what_the_pipeline_computes_and_computes_nothing_twice(bench, own, monkeypatch):
    strength = own.resolve(mode="fast").modulation_strength
    assert bench.answer(asked(do="describe"), None)["defaults"]["modulation_strength"] == strength
    answer, shares = computed(bench, feature_timestep=181)
    settings = FAST | {"feature_timestep": 181}
    image = Toyscapes.from_seed(7).image
    responses = own.probe(own.cluster(image, generator=seeded(), **settings), mask_batch_size=8)
    assert answer["data"]["arrays"] == payload(responses)["arrays"] and shares[-1] == 1
    other, _ = computed(bench, modulation_strength=9.0)
    assert other["data"] != answer["data"]
    monkeypatch.setattr(own, "probe", lambda *_, **__: pytest.fail("computed again"))
    assert computed(bench, feature_timestep=181)[0] == answer
    monkeypatch.undo()
    changes = [lambda: next(own.denoiser.parameters()).add_(0), lambda: own.scheduler.register_to_config(a=1)]
    for number, change in enumerate(changes, len(bench.results) + 1):  # what was written to is another model
        change()
        assert computed(bench, feature_timestep=181)[0] == answer and len(bench.results) == number


def test_a_stop_ends_the_work(bench):
    def tell(share):
        if share > 0:
            raise Cancelled

    answer = bench.answer(asked(mode="pixel", modulation_timestep=481), tell)
    assert "Cancelled" in answer["error"] and not bench.results


def test_images_can_be_uploaded_and_what_is_none_is_said(bench):
    for name, said in (("toyscapes:x", "no image at toyscapes:x"), ("/no/file", "/no/file"), ("", "image")):
        answer = bench.answer(asked(name), None)
        assert said in answer["error"] and answer.keys() == {"error"}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    buffer = BytesIO()
    noise.save(buffer, "PNG")
    given = {"do": "upload", "name": "mine.png"}
    upload = lambda file: bench.answer(given | {"content": base64.b64encode(file).decode()}, None)
    name = upload(buffer.getvalue())["image"]
    assert name.startswith("mine.png (") and bench.images[name] == noise
    # nothing; a program; what TGA accepts
    for content in (b"none", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", bytes(18)):
        assert "The image cannot be read" in upload(content)["error"]


def compare(tab):
    """As a reader does: another strength on the right, then one that is stopped."""

    def compute(strength):
        tab.get_by_label("Strength").fill(strength)
        tab.get_by_role("button", name="Compute").click()

    tab.locator(".emerdiff-explorer[data-drawn]").wait_for()
    tab.locator("summary").click()
    tab.get_by_label("Show on the").select_option("right")
    compute("8")
    tab.wait_for_function("document.querySelectorAll('.emerdiff-explorer[data-drawn]').length == 2")
    tab.get_by_text("λ = 8 at").wait_for()
    compute("5")
    tab.get_by_role("button", name="Cancel").click()
    tab.get_by_text("Cancelled").wait_for()
    tab.get_by_text("λ = 8 at").wait_for()


def test_it_works_in_jupyterlab(lab):
    """A pixel that is clicked and a slider that is moved are answered on the new side, in the lab itself."""
    tab, errors = lab(
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import Workbench\n"
        "Workbench(load_pipeline('toyscapes'), 'toyscapes:7')"
    )
    compare(tab)
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


def test_it_works_as_an_application(browser, tmp_path):
    """One process for all pages, which paths are relative to; it ends whole."""
    Toyscapes.from_seed(7).image.save(tmp_path / "mine.png")
    options, token = ("--image", "mine.png", "--model", "toyscapes"), {"EMERDIFF_TOKEN": "open sesame"}
    ready = "?token=open%20sesame"
    with serving("emerdiff_lib.explorer", *options, folder=tmp_path, ready=ready, **token) as address:
        url = address + ready
        for refused, headers in ((url, {"Host": "example.org"}), (address, {}), (f"{address}?token=x", {})):
            # as DNS rebinding would; and without the token
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(refused, headers=headers))
        context = browser.new_context(viewport={"width": 1400, "height": 1100})
        tab, errors = context.new_page(), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.set_default_timeout(300_000)
        tab.goto(url)
        compare(tab)
        tab.reload()  # what was shown is shown again
        tab.get_by_text("λ = 8 at").wait_for()
        assert tab.locator(".emerdiff-explorer[data-drawn]").count() == 2
        tab.locator("select[id$='-model']").select_option("streets")
        tab.get_by_label("Show on the").select_option("left")
        tab.get_by_role("button", name="Compute").click()
        tab.get_by_text("mine.png · streets · pixel mode").wait_for()
        tab.close()
        assert not errors
        port = address.rpartition(":")[2].strip("/")
        everything = psutil.process_iter(["cmdline"])
        (server,) = (one for one in everything if f"--port={port}" in (one.info["cmdline"] or []))
        assert not server.children(recursive=True)
        server.terminate()
        assert not psutil.wait_procs([server], timeout=20)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "nowhere"], "There is no model 'nowhere'"),
        (["--image", "nowhere.png"], "There is no image at nowhere.png"),
        (["--device", "teapot"], "device='teapot' cannot be used"),
        (["--port", "99999"], "--port=99999 is not possible"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(options, said):
    assert said in refusal(lambda: main(options), SystemExit)
