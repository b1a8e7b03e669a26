"""Shared fixtures. Nothing here reaches for a network."""

import linecache
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A hundred processes import the same: the first keeps what it compiled, whatever the environment says
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = False
# As emerdiff_lib/__init__.py does, which is too late here: torch is loaded first
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.datasets import open_dataset


def pytest_xdist_auto_num_workers():
    """One more than there are cores: kernels, servers and browsers that start are waited for."""
    return os.cpu_count() + 1


LONG = ("runs_with_", "jupyterlab", "kernel_knows", "own_model", "workers_end", "every_engine")


def pytest_collection_modifyitems(items):
    """Each process begins its share with long tests, so that none is waited for in the end."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    long = [item for item in items if any(name in item.name for name in LONG)]
    book = [item for item in items if "test_book" in item.nodeid]  # which one process builds
    others = np.array_split([item for item in items if item not in long + book], processes)
    items[:] = book + [item for i, share in enumerate(others) for item in (*long[i::processes], *share)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refusal(call, kind=ValueError):
    """The one sentence that a call is refused with."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert len(message.splitlines()) == 1 and message.endswith(".") and message.isprintable(), message
    return message


def run_cells(notebook: str, namespace: dict, *texts: str) -> dict:
    """The namespace after the code cells of a notebook that hold one of ``texts``, but for its ``nb = Notebook(…)``."""
    cells = nbformat.read(Path(__file__).parents[1] / "notebooks" / f"{notebook}.ipynb", 4).cells
    chosen = [c.source for c in cells if c.cell_type == "code" and any(text in c.source for text in texts)]
    assert len(chosen) >= len(texts)
    for number, source in enumerate(chosen):
        source, name = re.sub(r"(?m)^nb = .*", "", source), f"<{notebook} {number}>"
        linecache.cache[name] = len(source), None, source.splitlines(True), name  # as IPython does
        exec(compile(source, name, "exec"), namespace)
    return namespace


def pipeline() -> EmerDiffPipeline:
    """The bundled model, another one at every call."""
    pipe = EmerDiffPipeline.from_pretrained("toyscapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe():
    return pipeline()


@pytest.fixture(scope="session")
def scene():
    return Toyscapes("test")[7]


@pytest.fixture(scope="session")
def data():
    """The test scenes as any data set: ``data[7]`` is of ``scene``."""
    return open_dataset("toyscapes", split="test")


@pytest.fixture(scope="session")
def validation():
    return open_dataset("toyscapes", split="validation")


@pytest.fixture(scope="session")
def trajectory(pipe, scene):
    """A short trajectory, so that tests which replay it stay quick."""
    return pipe.invert(scene.image, start_timestep=101, generator=seeded())


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium; what needs it is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def lab(browser, tmp_path):
    """A cell's source → (page, errors): run in a JupyterLab of its own, until an explorer is drawn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1]), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    address, log = f"http://127.0.0.1:{port}/", tmp_path / "log"
    with log.open("w") as written:
        streams = {"stdout": written, "stderr": written, "start_new_session": True}
        server = subprocess.Popen(command, env=os.environ | paths, cwd=tmp_path, **streams)
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}api", timeout=60):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        yield partial(_run_in_lab, browser, tmp_path, f"{address}lab/tree/explorer.ipynb")
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, how)
                server.wait(60)


def _run_in_lab(browser, folder, address, source):
    cell = nbformat.v4.new_code_cell(source)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "explorer.ipynb")
    tab, errors = browser.new_page(viewport={"width": 1400, "height": 900}), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_default_timeout(300_000)  # for what never comes; all that is waited for is a state
    tab.goto(address)
    tab.wait_for_function(  # a command before the kernel listens is lost
        """() => {
            const notebook = window.jupyterapp?.shell?.currentWidget;
            return notebook?.isRevealed && notebook.sessionContext?.isReady;
        }"""
    )
    tab.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")  # not waited for
    tab.locator(".emerdiff-explorer[data-drawn]").first.wait_for()
    return tab, errors


@pytest.fixture
def berkeley(tmp_path) -> Path:
    """BSDS500 in its official layout, of one validation image that two people have segmented."""
    data = tmp_path / "BSDS500" / "data"
    for folder in ("images", "groundTruth"):
        (data / folder / "val").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(image).save(data / "images/val/101.jpg")
    people = np.empty((1, 2), object)
    for i in range(2):
        people[0, i] = {"Segmentation": np.repeat([[1] * 24 + [i + 1] * 24], 32, 0).astype(np.uint16)}
    savemat(data / "groundTruth/val/101.mat", {"groundTruth": people})
    return tmp_path / "BSDS500"
