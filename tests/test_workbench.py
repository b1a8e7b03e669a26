"""The workbench: what it shows is the library's own, nothing is computed twice, a stop keeps what is there; in Voilà as well."""

import urllib.error
import urllib.request
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.explorer import Workbench, payload
from emerdiff_lib.explorer.__main__ import main

from .conftest import seeded, serving


@pytest.fixture(scope="module")
def own():
    """A pipeline that other tests do not use at the same time."""
    pipe = EmerDiffPipeline.from_pretrained("toyscapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def bench(own):
    bench = Workbench(own, "toyscapes:7", compute=False)
    bench.inputs["mode"].value = "fast"
    bench.inputs["modulation_timestep"].value = 41
    return bench


def computed(bench):
    bench.start()
    bench.thread.join()
    return bench.said.value


def test_it_shows_what_the_pipeline_computes_and_computes_nothing_twice(bench, own, monkeypatch):
    strength = own.resolve(mode="fast").modulation_strength
    assert bench.inputs["modulation_strength"].value == strength
    bench.inputs["num_masks"].value, bench.inputs["feature_timestep"].value = 5, 181
    assert "left: ImageResponses" in computed(bench)
    settings = {"mode": "fast", "num_masks": 5, "modulation_timestep": 41, "feature_timestep": 181}
    image = Toyscapes.from_seed(7).image
    responses = own.probe(own.cluster(image, generator=seeded(), **settings), mask_batch_size=8)
    left = bench.explorers["left"].data
    assert left == payload(responses) and f"λ = {strength:g} at t = 41" in bench.captions["left"].value
    assert bench.bar.value == 1 and not bench.run.disabled and bench.cancel.disabled
    bench.side.value, bench.inputs["modulation_strength"].value = "right", 9.0
    computed(bench)
    assert bench.explorers["left"].data == left != bench.explorers["right"].data
    monkeypatch.setattr(bench.pipe, "respond", lambda *_, **__: pytest.fail("computed again"))
    bench.inputs["modulation_strength"].value = strength
    assert "right: ImageResponses" in computed(bench) and bench.explorers["right"].data == left
    monkeypatch.undo()
    known = len(bench.results)
    next(own.denoiser.parameters()).add_(0)  # weights that were written to are others
    assert "ImageResponses" in computed(bench) and len(bench.results) == known + 1


def test_a_stop_ends_the_work_and_keeps_what_is_shown(bench):
    computed(bench)
    before, known = bench.explorers["left"].data, len(bench.results)
    bench.inputs["mode"].value, bench.inputs["modulation_timestep"].value = "pixel", 481
    bench.start()
    bench.cancel.click()
    bench.thread.join()
    assert "Cancelled" in bench.said.value and len(bench.results) == known
    assert bench.explorers["left"].data == before and not bench.run.disabled and not bench.pipe._watches


@pytest.mark.parametrize(
    ("name", "said"), [("toyscapes:x", "no image at toyscapes:x"), ("/no/<b>file", "&lt;b&gt;file"), ("", "")]
)
def test_an_image_that_is_none_is_said(bench, name, said):
    bench.image_name.value = name
    told = computed(bench)
    assert said in told and "<b>" not in told and "ImageResponses" not in told and not bench.explorers


def test_images_can_be_given_and_uploaded(own):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    bench = Workbench(own, noise, compute=False)
    assert bench.image() == noise
    buffer = BytesIO()
    noise.rotate(180).save(buffer, "PNG")
    file = {"name": "mine.png", "type": "image/png", "size": 1, "last_modified": datetime.now(UTC)}
    bench.upload.value = (file | {"content": memoryview(buffer.getvalue())},)
    assert bench.image_name.value == "mine.png" and bench.image() == noise.rotate(180)
    for content in (
        b"none",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n",
        bytes(18),
    ):  # nothing; a program; what TGA accepts
        bench.upload.value = (file | {"content": memoryview(content)},)
        assert "mine.png cannot be read" in bench.said.value
    bench.image_name.value = "toyscapes:3"
    assert bench.image() == Toyscapes.from_seed(3).image


def compare(tab):
    """As a reader does: another strength on the right, then one that is stopped."""

    def compute(strength):
        tab.get_by_label("Strength").fill(strength)
        tab.keyboard.press("Tab")
        tab.get_by_role("button", name="Compute").click()

    tab.get_by_text("right", exact=True).click()
    tab.locator(".emerdiff-explorer[data-drawn]").wait_for()
    compute("8")
    tab.wait_for_function("document.querySelectorAll('.emerdiff-explorer[data-drawn]').length == 2")
    tab.get_by_text("λ = 8 at").wait_for()
    compute("5")
    tab.get_by_role("button", name="Cancel").click()
    tab.get_by_text("Cancelled").wait_for()
    tab.get_by_text("λ = 8 at").wait_for()


def test_it_works_in_jupyterlab(lab):
    """A pixel that is clicked and a slider that is moved answer on the new side, in the lab itself."""
    tab, errors = lab(
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import Workbench\n"
        "Workbench(load_pipeline('toyscapes'), 'toyscapes:7')"
    )
    compare(tab)
    second = tab.locator(".emerdiff-explorer").nth(1)
    second.locator("canvas").first.click(position={"x": 30, "y": 40})
    second.get_by_text("Pixel (").wait_for()
    second.locator("input[type=range]").first.fill("15")
    second.get_by_text("of 15").first.wait_for()
    tab.close()
    assert not errors


def test_it_works_as_an_application(browser, tmp_path):
    """Voilà serves it alone."""
    Toyscapes.from_seed(7).image.save(tmp_path / "mine.png")
    options, ready, token = ("--image", "mine.png"), "voila/static/voila.js", {"JUPYTER_TOKEN": "open sesame"}
    with serving("emerdiff_lib.explorer", *options, folder=tmp_path, ready=ready, **token) as address:
        with pytest.raises(urllib.error.HTTPError, match="403"):  # as DNS rebinding would
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "example.org"}))
        assert b"password" in urllib.request.urlopen(address).read()  # and so does nobody without the token
        tab, errors = browser.new_page(viewport={"width": 1400, "height": 1100}), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.set_default_timeout(600_000)
        tab.goto(f"{address}?token=open%20sesame", wait_until="domcontentloaded")
        compare(tab)
        tab.close()
        assert not errors
        port = address.rpartition(":")[2].strip("/")
        lines = {
            process: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
        }
        (server,) = (process for process, line in lines.items() if f"--port={port}" in line)
        processes = [server, *server.children(recursive=True)]
        server.terminate()
        assert len(processes) > 1 and not psutil.wait_procs(processes, timeout=60)[1]


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
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
