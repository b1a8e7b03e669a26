"""Shared fixtures. Nothing here reaches for a network."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests that call parts of the library directly would crawl on busy cores: OpenMP's threads spin (emerdiff_lib/threads.py)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from emerdiff_lib import EmerDiffPipeline, Toyscapes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def pipe():
    pipeline = EmerDiffPipeline.from_pretrained("toyscapes")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def scene():
    return Toyscapes("test")[7]


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
def screenshot(request):
    """Keeps what a tab shows, if SCREENSHOTS names a folder: ``screenshot(tab)``."""

    def keep(tab, name=""):
        if folder := os.environ.get("SCREENSHOTS"):
            tab.screenshot(path=Path(folder) / f"{request.node.name}{name}.png")

    return keep
