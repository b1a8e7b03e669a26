"""Models held against each other: tables against direct means, and the untrained control."""

import pandas as pd
import pytest
import torch

from emerdiff_lib.evaluation.metrics import mean_iou
from emerdiff_lib.loading import VARIANTS
from emerdiff_lib.pipeline import load_pipeline
from emerdiff_lib.studies import two_stages

from .conftest import run_cells

QUICK = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1, "denoising_steps": 1}


@pytest.fixture(scope="module")
def control(pipe):
    return two_stages.untrained(pipe, seed=0)


@pytest.fixture(scope="module")
def cells(pipe, control, tmp_path_factory):
    given = {"given": QUICK, "seeds": range(1000, 1002), "output_dir": tmp_path_factory.mktemp("models")}
    given |= {"pipes": {"toyscapes": pipe, two_stages.UNTRAINED: control}}
    given |= {"nb": type("Notebook", (), {"execution": {}}), "two_stages": two_stages, "pd": pd}
    texts = ("def statistic", "def table_of", "table = table_of(results)")
    return run_cells("13_cross_model", given, *texts)


def test_the_control_has_the_architecture_and_none_of_the_knowledge(pipe, control, cells):
    again = two_stages.untrained(pipe, seed=0)
    states = (one.denoiser.state_dict() for one in (control, again, pipe))
    for a, b, c in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(a, b) and a.shape == c.shape
    assert control.default_settings() == pipe.default_settings() and control.vae is pipe.vae
    value, features = cells["table"]["value"].unstack(), cells["FEATURES"]
    assert value.loc["toyscapes", features] > value.loc[two_stages.UNTRAINED, features] + 5
    score = lambda kind: mean_iou(two_stages.class_counts(cells["results"]["toyscapes"], kind).sum(0))
    gained = score("own cells") - score("position cells")
    assert value.loc["toyscapes", features] == pytest.approx(100 * gained)
    # a filter of the picture knows nothing of the model
    assert value[cells["CONTROL"]].nunique() == 1
    assert cells["table"].loc["toyscapes", "− first"].tolist() == [0.0] * 4


def test_relatives_share_an_autoencoder_and_have_weights_of_their_own(pipe):
    pipes = {name: load_pipeline(name) for name in VARIANTS}
    for name, other in pipes.items():
        for a, b in zip(pipe.vae.parameters(), other.vae.parameters(), strict=True):
            assert torch.equal(a, b), name  # one autoencoder for all
    sums = {float(other.denoiser.state_dict().popitem()[1].double().sum()) for other in pipes.values()}
    assert len(sums) == len(pipes)  # each with weights of its own
