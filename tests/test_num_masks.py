"""Notebook 12: rules and groups where they are plain, and its tables follow from the scores of single pictures."""

import linecache
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from emerdiff_lib.clustering import cluster_queries
from emerdiff_lib.studies.mapping import source_of

from .conftest import run_cells, seeded

QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1, "denoising_steps": 1}
CANDIDATES = [2, 4, 6]


@pytest.fixture(scope="module")
def cells(pipe):
    given = {"pipe": pipe, "settings": QUICK, "given": QUICK | {"num_masks": 4}, "K": 4}
    given |= {"numbers": CANDIDATES, "cluster_queries": cluster_queries, "np": np, "pd": pd, "torch": torch}
    names = ("def silhouette", "def eigenvalues", "def rule_scores", "def group(", "def segment")
    return run_cells("12_how_many_masks", given, *names)


def test_every_candidate_is_what_the_pipeline_makes_of_the_same_masks(pipe, cells, data):
    sample = data[7]
    labels, picks = cells["segment"](sample)
    coarse = pipe.cluster(sample.image, 4, generator=seeded(sample.seed), **QUICK)
    for k in CANDIDATES:
        masks = cluster_queries(coarse.queries, k, sample.seed)
        output = pipe(sample.image, trajectory=coarse.trajectory, coarse_masks=masks, **QUICK)
        assert np.array_equal(labels[cells["DIRECT"]][k], output.labels)
    scores = cells["rule_scores"](coarse.queries)
    assert picks == {rule: max(CANDIDATES, key=scores[rule].get) for rule in scores}


def test_the_number_of_masks_is_found_where_it_is_plain(cells):
    centres = torch.randn(4, 6, generator=seeded(3)) * 3
    plain = centres[torch.arange(12) // 3][:, None] + 0.05 * torch.randn(12, 12, 6, generator=seeded(4))
    for rule, scores in cells["rule_scores"](plain).items():
        assert max(scores, key=scores.get) == 4, rule


def test_grouping_is_of_what_touches_or_of_everything(cells):
    stripes = np.stack([np.arange(8)[None].repeat(4, 0) // 2 == k for k in range(4)])
    embeddings = np.array([[0.0], [5.0], [0.1], [5.2]])
    anywhere, touching = (cells["group"](embeddings, stripes, k, t) for k, t in ((2, False), (3, True)))
    assert anywhere[0] == anywhere[2] != anywhere[1] == anywhere[3]
    assert len(set(touching)) == 3 and touching[0] != touching[2]  # alike, but apart


def frame(*scores):
    """Scores as the notebook keeps them, from (way, K, ARI per picture)."""
    columns = ["image", "way", "K", "ARI", "boundary F"]
    rows = [(f"{i}", way, k, ari, ari / 2) for way, k, values in scores for i, ari in enumerate(values)]
    return pd.DataFrame(rows, columns=columns)


def test_the_fixed_number_comes_from_other_pictures(cells):
    direct, anywhere, _ = cells["WAYS"]
    by_clustering = (direct, 2, [20, 60]), (direct, 4, [50, 50]), (direct, 6, [40, 30])
    given = {"rows": frame(*by_clustering, (anywhere, 2, [30, 50]), (anywhere, 4, [60, 60]))}
    given["fit_rows"] = frame((direct, 2, [10]), (direct, 4, [20]), (direct, 6, [90]), (anywhere, 2, [90]))
    picks = [{"silhouette": 2, "eigengap": 4, "bic": 6}, {"silhouette": 2, "eigengap": 2, "bic": 6}]
    given["results"] = [{"name": f"{i}", "picks": picked} for i, picked in enumerate(picks)]
    tables = run_cells("12_how_many_masks", cells | given, "def best_fixed", "def choices")
    table = tables["choices"](direct)
    assert table.loc["always 6", "ARI"] == pytest.approx(35) and table.loc["always 6", "minus fixed"] == 0
    assert table.loc["silhouette", "ARI"] == pytest.approx(40)
    assert table.loc["silhouette", "minus fixed"] == pytest.approx(5)
    assert table.loc["eigengap", ["ARI", "boundary F", "median K"]].tolist() == pytest.approx([55, 27.5, 3])
    assert table.loc[tables["HINDSIGHT"], "ARI"] == pytest.approx(55)
    # rules that pick more groups than there are masks get all of them
    assert tables["choices"](anywhere).loc["bic", ["median K", "ARI"]].tolist() == pytest.approx([4, 60])


def test_who_edits_a_cell_gets_new_results():
    """The text of a notebook's function and of those that it calls, however deep, is part of the key; the library's is not."""

    def score(text):
        name = f"<cell {len(linecache.cache)}>"
        linecache.cache[name] = len(text), None, text.splitlines(True), name
        exec(compile(text, name, "exec"), namespace := {"__name__": "__main__"})
        return namespace["score"]

    text = "def rule(x):\n    return x + 1\n\ndef score(data, x):\n    return [rule(y) for y in x]\n"
    before, edited = (source_of(partial(score(one), None)) for one in (text, text.replace("+ 1", "+ 2")))
    assert len(before) == 2 and before[0] == edited[0] and before[1] != edited[1]
    assert source_of(cluster_queries) == []
