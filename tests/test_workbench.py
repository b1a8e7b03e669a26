"""The workbench: what it shows is the library's own, nothing is computed twice, a stop keeps what is there; in Voilà as well."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.explorer import Workbench, payload

from .conftest import seeded


@pytest.fixture(scope="module")
def own():
    """A pipeline that other tests do not use at the same time."""
    pipe = EmerDiffPipeline.from_pretrained("toyscapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def bench(own):
    found = Workbench(own, "toyscapes:7", compute=False)
    found.mode.value = "fast"
    found.modulation_timestep.value = 41
    return found


def wait(bench):
    bench.thread.join(120)
    return bench.said.value


def test_it_shows_what_the_pipeline_answers(bench, own):
    assert bench.strength.value == own.resolve(mode="fast").perturbation.modulation_strength
    bench.num_masks.value, bench.feature_timestep.value = 5, 181
    bench.start()
    assert "left: ImageResponses" in wait(bench)
    settings = {"mode": "fast", "num_masks": 5, "modulation_timestep": 41, "feature_timestep": 181}
    image = Toyscapes.from_seed(7).image
    expected = own.respond(own.coarse(image, generator=seeded(), **settings), mask_batch_size=8)
    assert bench.explorers["left"].data == payload(expected)
    assert bench.bar.value == 1 and not bench.run.disabled and bench.cancel.disabled
    assert "λ = 3 at t = 41, queries at t = 181" in bench.captions["left"].value


def test_nothing_is_computed_twice_and_the_other_side_stays(bench, monkeypatch):
    bench.start()
    wait(bench)
    left = bench.explorers["left"].data
    bench.side.value, bench.strength.value = "right", 9.0
    bench.start()
    wait(bench)
    assert bench.explorers["left"].data == left != bench.explorers["right"].data
    assert len(bench.pictures.children) == 2
    monkeypatch.setattr(bench.pipe, "respond", lambda *_, **__: pytest.fail("computed again"))
    bench.strength.value = 3.0
    bench.start()
    assert "right: ImageResponses" in wait(bench) and bench.explorers["right"].data == left


def test_a_stop_ends_the_work_and_keeps_what_is_shown(bench):
    bench.start()
    wait(bench)
    before, known = bench.explorers["left"].data, len(bench.results)
    bench.mode.value, bench.modulation_timestep.value = "pixel", 481
    bench.start()
    bench.cancel.click()
    assert "Cancelled" in wait(bench)
    assert bench.explorers["left"].data == before and len(bench.results) == known
    assert bench.pipe._watch is None and not bench.run.disabled


@pytest.mark.parametrize(
    ("name", "said"), [("toyscapes:x", "names no scene"), ("/no/<b>file", "&lt;b&gt;file"), ("", "")]
)
def test_a_picture_that_is_none_is_said(bench, name, said):
    bench.picture.value = name
    bench.start()
    told = wait(bench)
    assert said in told and "<b>" not in told and "ImageResponses" not in told and not bench.explorers


def test_pictures_can_be_given_and_uploaded(own):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    bench = Workbench(own, noise, compute=False)
    assert bench.image() == noise
    buffer = BytesIO()
    noise.rotate(180).save(buffer, "PNG")
    file = {"name": "mine.png", "type": "image/png", "size": 1, "content": memoryview(buffer.getvalue())}
    file["last_modified"] = datetime.now(UTC)
    bench.upload.value = (file,)
    assert bench.picture.value == "mine.png" and bench.image() == noise.rotate(180)
    bench.upload.value = ({**file, "content": memoryview(b"none")},)
    assert "mine.png cannot be read" in bench.said.value
    bench.picture.value = "toyscapes:3"
    assert bench.image() == Toyscapes.from_seed(3).image


def compute(tab, strength):
    """A number typed, and the button pressed."""
    tab.get_by_label("Strength").fill(strength)
    tab.keyboard.press("Tab")
    tab.get_by_role("button", name="Compute").click()


def test_it_works_in_jupyterlab(screenshot, lab):
    """A slider, a click on Compute and a stop, in the lab itself; the clicked pixel answers on the new side."""
    tab, errors = lab(
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import Workbench\n"
        "Workbench(load_pipeline('toyscapes'), 'toyscapes:7')"
    )
    tab.get_by_text("right", exact=True).click()
    compute(tab, "8")
    tab.wait_for_function("document.querySelectorAll('.emerdiff-explorer[data-drawn]').length == 2")
    tab.get_by_text("λ = 8 at").wait_for()
    second = tab.locator(".emerdiff-explorer").nth(1)
    second.locator("canvas").first.click(position={"x": 30, "y": 40})
    tab.wait_for_function(
        "() => document.querySelectorAll('.emerdiff-status')[1].textContent.startsWith('Pixel (')"
    )
    compute(tab, "5")
    tab.get_by_role("button", name="Cancel").click()
    tab.get_by_text("Cancelled").wait_for()
    screenshot(tab)
    tab.close()
    assert not errors


def test_it_works_as_an_application(browser, screenshot, tmp_path):
    """Voilà serves it alone; two settings stand side by side after a slider and a click; a stop is heard."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Toyscapes.from_seed(7).image.save(tmp_path / "mine.png")
    command = [sys.executable, "-m", "emerdiff_lib.explorer", "--no-browser", "--port", str(port)]
    command += ["--image", "mine.png"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        for _ in range(120):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/static/voila.js"):
                break
            time.sleep(0.5)
        tab, errors = browser.new_page(viewport={"width": 1400, "height": 1100}), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.set_default_timeout(120_000)
        tab.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        tab.wait_for_selector(".emerdiff-explorer[data-drawn]")
        tab.get_by_text("right", exact=True).click()
        compute(tab, "8")
        tab.wait_for_function("document.querySelectorAll('.emerdiff-explorer[data-drawn]').length == 2")
        tab.get_by_text("λ = 8 at").wait_for()
        compute(tab, "5")
        tab.get_by_role("button", name="Cancel").click()
        tab.get_by_text("Cancelled").wait_for()
        tab.get_by_text("λ = 8 at").wait_for()
        screenshot(tab)
        tab.close()
        assert not errors
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
