"""Shared fixtures. Nothing here reaches for a network."""

import os

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
