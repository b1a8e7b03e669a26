"""Models held against each other: tables against direct means, and the untrained control."""

from pathlib import Path

import numpy as np
import pytest
import torch

from emerdiff_lib.loading import VARIANTS, locate
from emerdiff_lib.evaluation.metrics import mean_iou
from emerdiff_lib.pipeline import load_pipeline
from emerdiff_lib.studies import models
from emerdiff_lib.studies.domain_shift import class_counts

QUICK = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1}


@pytest.fixture(scope="module")
def found(pipe, tmp_path_factory):
    pipes = {"toyscapes": pipe, models.UNTRAINED: models.untrained(pipe)}
    return models.measure(pipes, range(1000, 1003), tmp_path_factory.mktemp("models"), QUICK)


def test_the_control_has_the_architecture_and_none_of_the_knowledge(pipe, found):
    control = models.untrained(pipe, seed=0)
    again = models.untrained(pipe, seed=0)
    for (name, a), b, c in zip(
        control.unet.state_dict().items(),
        again.unet.state_dict().values(),
        pipe.denoiser.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b) and a.shape == c.shape, name
    assert control.default_settings() == pipe.default_settings() and control.vae is pipe.vae
    table = models.table(found, draws=50)
    value = table["value"].unstack()
    assert value.loc["toyscapes", models.FEATURES] > value.loc[models.UNTRAINED, models.FEATURES] + 5
    # a filter of the picture knows nothing of the model
    assert value[models.CONTROL].nunique() == 1
    assert table.loc["toyscapes", "− first"].tolist() == [0.0] * 4


def test_the_table_is_of_sums_and_means(found):
    table = models.table(found, draws=50)
    for name, results in found.items():
        row = table["value"].loc[name]
        own, nothing = (
            mean_iou(class_counts(results, kind).sum(0)) for kind in ("own cells", "position cells")
        )
        assert row[models.FEATURES] == pytest.approx(100 * (own - nothing))
        assert row[models.WHOLE] == pytest.approx(100 * mean_iou(class_counts(results, "own").sum(0)))
        gains = [r["boundary F"]["modulated"] - r["boundary F"]["bilinear"] for r in results]
        assert row[models.CORRESPONDENCE] == pytest.approx(100 * np.mean(gains))


def test_relatives_differ_from_the_reference_in_what_their_names_say(pipe):
    pipes = {name: load_pipeline(name) for name in VARIANTS}
    reference = pipes["toyscapes-reference"]
    table = models.overview(pipes, {})
    different = {"toyscapes-v-prediction": "v_prediction", "toyscapes-transformer": "flow"}
    assert set(table["predicts"].drop(list(different))) == {"epsilon"}
    assert table.loc[list(different), "predicts"].to_dict() == different
    weights = table["million weights"]
    assert (
        weights["toyscapes-wide-top"] > weights["toyscapes-reference"] == weights["toyscapes-half-training"]
    )
    for name, other in pipes.items():
        for a, b in zip(pipe.vae.parameters(), other.vae.parameters(), strict=True):
            assert torch.equal(a, b), name  # one autoencoder for all
        megabytes = sum(f.stat().st_size for f in Path(locate(name)).rglob("*.safetensors")) / 1e6
        assert megabytes < 4.3
        if name == "toyscapes-transformer":
            assert other.unet.config.num_layers == 5 and other.config.max_sequence_length == 0
        elif other is not reference:
            pairs = zip(reference.unet.parameters(), other.unet.parameters(), strict=True)
            assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "whose first is a model"),
        (["untrained"], "whose first is a model"),
        (["toyscapes", "toyscapes"], "named twice"),
    ],
)
def test_lists_that_make_no_comparison_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        models.load_models(names)
