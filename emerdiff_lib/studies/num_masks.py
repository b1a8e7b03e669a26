"""How many masks, and should many be grouped to few? (Notebook 14.)

Every image is segmented with every candidate for K, and once more from a fixed number of masks that are then grouped down
to each candidate. Rules without labels pick one candidate per image. Whatever is fixed for all images is chosen on one split
and judged on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..clustering import RULES, choose_num_masks, cluster_queries, group_masks
from ..datasets import LabelledDataset, Sample
from ..evaluation.intervals import interval
from ..evaluation.metrics import boundary_scores, contingency_table, mean_iou, partition_scores
from ..evaluation.protocols import oracle
from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import Results, cached_map
from ..runs.keys import dataset_key, model_key, sample_key, versions
from ..settings import Settings, whole

DIRECT, ANYWHERE, TOUCHING = "k-means with K", "grouped anywhere", "grouped where they touch"
WAYS = (DIRECT, ANYWHERE, TOUCHING)
HINDSIGHT = "best for each picture, with labels"
MEASURES = {"adjusted_rand": "ARI", "boundary_f": "boundary F"}


def check_candidates(candidates: Iterable[int], settings: Settings) -> list[int]:
    """Candidates for K in order, the settings' K among them.

    Raises:
        ValueError: unless all are whole numbers of at least 2 and leave a choice; and for settings with probe masks, under which
            one set of responses serves every K (notebook 13).
    """
    if settings.assignment.num_parts is not None:
        raise ValueError(
            f"num_parts={settings.assignment.num_parts} (mode={settings.mode!r}) is not possible here: one set of responses "
            "serves every K then (notebook 13), and nothing is to be chosen before; leave num_parts out."
        )
    num_masks = settings.features.num_masks
    numbers = sorted({whole(2)("candidate", k) for k in candidates} | {num_masks})
    if numbers == [num_masks]:
        raise ValueError(
            f"candidates {list(candidates)} leave no choice beside num_masks={num_masks}; give more."
        )
    return numbers


def segment(
    pipe: EmerDiffPipeline, sample: Sample, candidates: Sequence[int], num_masks: int, **settings: Any
) -> tuple[dict[str, dict[int, np.ndarray]], dict[str, int]]:
    """One image under every candidate.

    Args:
        num_masks: the number of masks that is grouped; one of the candidates.

    Returns:
        {way: {K: (H, W) labels}} for the three :data:`WAYS`, and the candidate that each of :data:`RULES` picks.
    """
    seeded = lambda: torch.Generator().manual_seed(sample.seed)
    coarse = pipe.cluster(sample.image, num_masks, generator=seeded(), **settings)
    labels: dict[str, dict[int, np.ndarray]] = {way: {} for way in WAYS}
    for k in candidates:
        masks = cluster_queries(coarse.queries, k, sample.seed % 2**31)
        clustered = pipe.cluster(coarse.trajectory, coarse_masks=masks, generator=seeded(), **settings)
        labels[DIRECT][k] = pipe.assign(pipe.respond(clustered))
        if k == num_masks:
            many = clustered
    embeddings, masks = many.embeddings.cpu().numpy(), many.masks.cpu().numpy()
    for k in (k for k in candidates if k <= len(masks)):
        for way in (ANYWHERE, TOUCHING):
            groups = group_masks(embeddings, masks, k, adjacent_only=way == TOUCHING)
            labels[way][k] = groups[labels[DIRECT][num_masks]]
    picks = {rule: choose_num_masks(coarse.queries, candidates, rule)[0] for rule in RULES}
    return labels, picks


def score_images(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    candidates: Sequence[int],
    num_masks: int,
    output_dir: Path | str,
    settings: Mapping[str, Any],
    **execution: Any,
) -> Results:
    """Every image (names and positions in ``data``) under every candidate.

    Returns:
        Per image: "name", "picks" {rule: K} and "scores", a list of {"way", "K", "adjusted_rand", "boundary_f" in [0, 1],
        "counts" (C, 3) of the oracle}.

    Raises:
        ValueError: for settings that the pipeline refuses, or if every image failed.
    """
    key = {
        "study": "how many masks",
        "candidates": list(candidates),
        "settings": pipe.resolve(num_masks=num_masks, **settings).to_dict(),
        "model": model_key(pipe),
        "data": dataset_key(data),
        "versions": versions(),
    }

    def scores_of(position: int) -> dict[str, Any]:
        sample = data[position]
        labels, picks = segment(pipe, sample, candidates, num_masks, **settings)
        scores = [
            {"way": way, "K": k, **_score(one, sample.labels, data)}
            for way, by_number in labels.items()
            for k, one in by_number.items()
        ]
        return {"name": sample.name, "picks": picks, "scores": scores}

    return cached_map(scores_of, samples, output_dir, key, partial(sample_key, data), **execution)


def _score(labels: np.ndarray, truth: np.ndarray, data: LabelledDataset) -> dict[str, Any]:
    table = contingency_table(labels, truth, int(labels.max()) + 1, len(data.class_names), data.ignore_index)
    return {
        "adjusted_rand": partition_scores(table)["adjusted_rand"],
        "boundary_f": boundary_scores(labels, truth, 2, data.ignore_index)[2],
        "counts": oracle(table).tolist(),
    }


def score_rows(results: Iterable[dict]) -> pd.DataFrame:
    """A row per image, way and K: "adjusted_rand" and "boundary_f" in percent."""
    frame = pd.DataFrame([{"image": r["name"]} | s for r in results for s in r["scores"]])
    return frame.assign(**{name: 100 * frame[name] for name in MEASURES})


def curves(results: Iterable[dict]) -> pd.DataFrame:
    """Percent per way and K, over all images: ARI, boundary F and oracle mIoU."""
    grouped = score_rows(results).groupby(["way", "K"], sort=False)
    means = grouped[list(MEASURES)].mean().rename(columns=MEASURES)
    means["oracle mIoU"] = grouped["counts"].agg(
        lambda counts: 100 * mean_iou(np.sum(counts.tolist(), axis=0))
    )
    return means.reset_index()


def best_fixed(results: Iterable[dict], way: str = DIRECT) -> int:
    """The one K with the best ARI for all images together; choose it on other images than those it is judged on."""
    rows = score_rows(results)
    return int(rows[rows.way == way].groupby("K")["adjusted_rand"].mean().idxmax())


def choices(results: Sequence[dict], fit: Sequence[dict], way: str = DIRECT) -> pd.DataFrame:
    """What every rule reaches, by ARI, beside one K for all that is best on the images of ``fit``.

    Where a rule picks more groups than there are masks to group, it gets them ungrouped.

    Returns:
        A row per rule, for the fixed K and for the best K in hindsight: "median K", "ARI" and "boundary F" in percent (means over
        images), and "minus fixed", "low", "high": the difference in ARI to the fixed K with its 95 % bootstrap interval.
    """
    rows = score_rows(results)
    rows = rows[rows.way == way].set_index(["image", "K"])
    fixed, images = best_fixed(fit, way), [r["name"] for r in results]
    numbers = sorted(rows.index.unique("K"))
    agreement = rows["adjusted_rand"].unstack("K").loc[images]
    picked = {rule: [max(k for k in numbers if k <= r["picks"][rule]) for r in results] for rule in RULES}
    picked[f"always {fixed}"] = [fixed] * len(images)
    picked[HINDSIGHT] = agreement.idxmax(axis=1).tolist()
    table = {}
    for rule, ks in picked.items():
        chosen = rows.loc[list(zip(images, ks, strict=True))]
        ends = interval(chosen["adjusted_rand"].to_numpy(), agreement[fixed].to_numpy())
        means = {title: chosen[name].mean() for name, title in MEASURES.items()}
        table[rule] = {"median K": float(np.median(ks)), **means}
        table[rule] |= dict(zip(("minus fixed", "low", "high"), ends, strict=True))
    return pd.DataFrame(table).T.rename_axis("rule")


def grouped_minus_direct(
    results: Iterable[dict], way: str = ANYWHERE, groups: int | None = None, k: int | None = None
) -> pd.DataFrame:
    """ARI of masks that were grouped minus that of k-means, paired by image: "K", "difference", "low", "high".

    By default a row per K, grouped to it and clustered into it from the beginning; else ``groups`` against ``k``.
    """
    wide = score_rows(results).pivot(index="image", columns=["way", "K"], values="adjusted_rand")
    pairs = [(number, number) for number in wide[way].columns] if groups is None else [(groups, k)]
    rows = [(a, *interval(wide[way][a].to_numpy(), wide[DIRECT][b].to_numpy())) for a, b in pairs]
    return pd.DataFrame(rows, columns=["K", "difference", "low", "high"]).set_index("K")
