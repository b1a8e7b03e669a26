"""How many masks, and which belong together, without labels: ``python -m emerdiff_lib.experiments.num_masks``.

Every picture is segmented with every candidate for K, and once more from a fixed number of masks that are then grouped down
to each candidate. Rules without labels pick one candidate per picture. Whatever is fixed for all pictures is chosen on
one split and judged on another.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..clustering import RULES, choose_num_masks, cluster_queries, group_masks
from ..datasets import LabelledDataset, Sample, open_dataset
from ..evaluation.intervals import interval
from ..evaluation.metrics import boundary_scores, contingency_table, mean_iou, partition_scores
from ..evaluation.protocols import oracle
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution, results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore, Results
from ..runs.task import Item, Task
from ..settings import Settings, whole
from .rivals import check_settings
from .selection import command, execution, finish, first_pictures

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
SHORTCUTS = {
    "denoising_steps": 2,
    "one_sided": True,
    "guide_radius": 1.5,
}  # what 14 saves; they cost little (09)
DIRECT, ANYWHERE, TOUCHING = "k-means with K", "grouped anywhere", "grouped where they touch"
WAYS = (DIRECT, ANYWHERE, TOUCHING)
HINDSIGHT = "best for each picture, with labels"
MEASURES = {"adjusted_rand": "ARI", "boundary_f": "boundary F"}


def check_candidates(candidates: Iterable[int], num_masks: int) -> list[int]:
    """Candidates for K in order, K among them; raises a ValueError unless all are whole numbers of at least 2."""
    found = sorted({whole(2)("candidate", k) for k in candidates} | {num_masks})
    if found == [num_masks]:
        raise ValueError(
            f"candidates {list(candidates)} leave no choice beside num_masks={num_masks}; give more."
        )
    return found


def check_masks_pushed(settings: Settings) -> Settings:
    """Returns settings that push the masks that they are given; else raises a ValueError: with parts, K is free."""
    if settings.assignment.num_parts is not None:
        raise ValueError(
            f"num_parts={settings.assignment.num_parts} (mode={settings.mode!r}) is not possible here: one set of responses "
            "serves every K then (notebook 13), and nothing is to be chosen before; leave num_parts out."
        )
    return settings


def segment(
    pipe: EmerDiffPipeline,
    sample: Sample,
    candidates: list[int],
    num_masks: int,
    **settings: Any,
) -> tuple[dict[str, dict[int, np.ndarray]], dict[str, int]]:
    """One picture under every candidate.

    Args:
        num_masks: the number of masks that is grouped; one of the candidates.

    Returns:
        {way: {K: (H, W) labels}} for the three :data:`WAYS`, and the candidate that each of :data:`RULES` picks.
    """
    coarse = pipe.coarse(
        sample.image, num_masks, generator=torch.Generator().manual_seed(sample.seed), **settings
    )
    labels: dict[str, dict[int, np.ndarray]] = {way: {} for way in WAYS}
    for k in candidates:
        masks = cluster_queries(coarse.queries, k, sample.seed % 2**31)
        own = pipe.coarse(
            coarse.trajectory,
            coarse_masks=masks,
            generator=torch.Generator().manual_seed(sample.seed),
            **settings,
        )
        labels[DIRECT][k] = pipe.assign(pipe.respond(own))
        if k == num_masks:
            many = own
    embeddings, masks = many.embeddings.cpu().numpy(), many.masks.cpu().numpy()
    for k in (k for k in candidates if k <= len(masks)):
        for way in (ANYWHERE, TOUCHING):
            groups = group_masks(embeddings, masks, k, adjacent_only=way == TOUCHING)
            labels[way][k] = groups[labels[DIRECT][num_masks]]
    picks = {rule: choose_num_masks(coarse.queries, candidates, rule)[0] for rule in RULES}
    return labels, picks


class Numbers(Task):
    """Every picture of a data set under every candidate for K."""

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        candidates: list[int],
        num_masks: int,
        output_dir: Path | str,
        settings: dict[str, Any],
    ):
        self.pipe, self.data, self.candidates, self.num_masks = pipe, data, candidates, num_masks
        self.settings = settings
        identity = {
            "study": "how many masks",
            "candidates": candidates,
            "settings": pipe.resolve(num_masks=num_masks, **self.settings).to_dict(),
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        sample = self.data[item.what]
        labels, picks = segment(self.pipe, sample, self.candidates, self.num_masks, **self.settings)
        scores = [
            {"way": way, "K": k} | _score(one, sample.labels, self.data)
            for way, by_number in labels.items()
            for k, one in by_number.items()
        ]
        return {"name": sample.name, "picks": picks, "scores": scores}


def study(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Iterable[int],
    candidates: list[int],
    num_masks: int,
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
    label: str = "pictures",
) -> Results:
    """Every picture under every candidate; what is in ``output_dir`` already, of exactly this, is kept.

    Returns:
        Per picture that did not fail: "name", "picks" {rule: K} and "scores", a list of {"way", "K", "adjusted_rand",
        "boundary_f" in [0, 1], "counts" (C, 3) of the oracle}.

    Raises:
        ValueError: for settings that the pipeline refuses, or if every picture failed.
    """
    task = Numbers(pipe, data, candidates, num_masks, output_dir, settings or {})
    return results_of(task, sample_items(data, positions), how, label=label)


def _score(labels: np.ndarray, truth: np.ndarray, data: LabelledDataset) -> dict[str, Any]:
    table = contingency_table(labels, truth, None, len(data.class_names), data.ignore_index)
    return {
        "adjusted_rand": partition_scores(table)["adjusted_rand"],
        "boundary_f": boundary_scores(labels, truth, 2, data.ignore_index)[2],
        "counts": oracle(table).tolist(),
    }


def score_rows(results: list[dict]) -> pd.DataFrame:
    """A row per picture, way and K: "adjusted_rand" and "boundary_f" in percent."""
    rows = [{"image": r["name"]} | s for r in results for s in r["scores"]]
    frame = pd.DataFrame(rows).drop(columns="counts")
    return frame.assign(**{name: 100 * frame[name] for name in MEASURES})


def curves(results: list[dict]) -> pd.DataFrame:
    """Percent per way and K, over all pictures: ARI, boundary F and oracle mIoU."""
    grouped = score_rows(results).groupby(["way", "K"], sort=False)
    means = grouped[list(MEASURES)].mean().rename(columns=MEASURES)
    counts: dict[tuple[str, int], np.ndarray] = {}
    for score in (s for r in results for s in r["scores"]):
        key = score["way"], score["K"]
        counts[key] = counts.get(key, 0) + np.array(score["counts"])
    means["oracle mIoU"] = pd.Series({key: 100 * mean_iou(summed) for key, summed in counts.items()})
    return means.reset_index()


def best_fixed(results: list[dict], way: str = DIRECT, measure: str = "adjusted_rand") -> int:
    """The one K that is best for all pictures together; choose it on other pictures than those it is judged on."""
    rows = score_rows(results)
    return int(rows[rows.way == way].groupby("K")[measure].mean().idxmax())


def choices(results: list[dict], fit: list[dict], way: str = DIRECT, draws: int = 1000) -> pd.DataFrame:
    """What every rule reaches, by ARI, beside one K for all that is best on the pictures of ``fit``.

    Where a rule picks more groups than there are masks to group, it gets them ungrouped.

    Returns:
        A row per rule, for the fixed K and for the best K in hindsight: "median K", "ARI" and "boundary F" in percent (means over
        pictures), and "minus fixed", "low", "high": the difference in ARI to the fixed K with its 95 % bootstrap interval.
    """
    rows = score_rows(results)
    rows = rows[rows.way == way].set_index(["image", "K"])
    fixed, images = best_fixed(fit, way), [r["name"] for r in results]
    numbers = sorted(rows.index.unique("K"))
    agreement = rows["adjusted_rand"].unstack("K").loc[images]
    picked = {rule: [max(k for k in numbers if k <= r["picks"][rule]) for r in results] for rule in RULES}
    picked[f"always {fixed}"] = [fixed] * len(images)
    picked[HINDSIGHT] = agreement.idxmax(axis=1).tolist()
    reference, table = agreement[fixed].to_numpy(), []
    for rule, ks in picked.items():
        own = rows.loc[list(zip(images, ks, strict=True))]
        value, low, high = interval(own["adjusted_rand"].to_numpy(), reference, draws)
        means = {title: own[name].mean() for name, title in MEASURES.items()}
        table.append(
            {
                "rule": rule,
                "median K": float(np.median(ks)),
                **means,
                "minus fixed": value,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(table).set_index("rule")


def grouped_minus_direct(results: list[dict], way: str = ANYWHERE, draws: int = 1000) -> pd.DataFrame:
    """ARI of masks that were grouped to K minus that of k-means with K from the beginning, with 95 % bootstrap intervals."""
    wide = score_rows(results).pivot(index="image", columns=["way", "K"], values="adjusted_rand")
    table = []
    for k in wide[way].columns:
        table.append((k, *interval(wide[way][k].to_numpy(), wide[DIRECT][k].to_numpy(), draws)))
    return pd.DataFrame(table, columns=["K", "difference", "low", "high"]).set_index("K")


def fixed_against_fixed(
    results: list[dict],
    fit: list[dict],
    way: str = ANYWHERE,
    measure: str = "adjusted_rand",
    draws: int = 1000,
) -> tuple[int, int, tuple[float, float, float]]:
    """(groups, K, (difference, low, high) in points): grouped masks against k-means, each with the number best on ``fit``."""
    groups, k = best_fixed(fit, way), best_fixed(fit)
    wide = score_rows(results).pivot(index="image", columns=["way", "K"], values=measure)
    return groups, k, interval(wide[way][groups].to_numpy(), wide[DIRECT][k].to_numpy(), draws)


def describe(results: list[dict], fit: list[dict], num_masks: int) -> list[str]:
    """Sentences: what the rules reach beside one K for all, and what grouping reaches beside k-means."""
    table, sentences = choices(results, fit), []
    fixed = next(rule for rule in table.index if rule.startswith("always"))
    room = table.loc[HINDSIGHT, "minus fixed"]
    sentences.append(
        f"One K for all, chosen on {len(fit)} other picture{'s' * (len(fit) != 1)}: {fixed.removeprefix('always ')}, "
        f"which reaches an ARI of {table.loc[fixed, 'ARI']:.1f} on these {len(results)}; "
        f"the best K of every picture would reach {room:.1f} more."
    )
    better = []
    for rule in RULES:
        row = table.loc[rule]
        sentences.append(
            f"{rule} (median K = {row['median K']:g}) reaches {row['ARI']:.1f}: "
            f"{_verdict(row['minus fixed'], row['low'], row['high'])} {fixed}."
        )
        better += [rule] * bool(row["low"] > 0)
    rules = (
        f"{' and '.join(better)} choose{'s' * (len(better) == 1)}" if better else "none of the rules chooses"
    )
    sentences.append(f"So {rules} K measurably better than not choosing at all.")
    for way in (ANYWHERE, TOUCHING):
        groups, k, (value, low, high) = fixed_against_fixed(results, fit, way)
        sentences.append(
            f"{num_masks} masks {way}, {groups} groups: {_verdict(value, low, high)} k-means with {k}, each number chosen "
            f"on the other pictures."
        )
    return sentences


def _verdict(value: float, low: float, high: float) -> str:
    """ "better than (+1.2 [+0.3, +2.1])", for what follows."""
    if np.isnan(low):
        return f"{value:+.1f}, without an interval, to"
    word = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
    return f"by {value:+.1f} [{low:+.1f}, {high:+.1f}] {word}"


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/how-many-masks")
    parser.set_defaults(settings=SHORTCUTS)
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="test", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=32, help="its first so many pictures")
    parser.add_argument("--fit-split", default="validation", help="the split that a fixed K is chosen on")
    parser.add_argument("--fit-limit", type=int, default=32, help="its first so many pictures")
    parser.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES), help="for K")
    args = parser.parse_args(argv)
    how, pipe = execution(args), load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    num_masks = check_masks_pushed(pipe.resolve(**settings)).features.num_masks
    settings = {name: value for name, value in settings.items() if name != "num_masks"}
    candidates, found = check_candidates(args.candidates, num_masks), {}
    for folder, split, limit in (("report", args.split, args.limit), ("fit", args.fit_split, args.fit_limit)):
        data = open_dataset(args.dataset, args.root, split)
        positions, output = first_pictures(limit, len(data), f"{folder} limit"), args.output / folder
        found[folder] = study(
            pipe, data, positions, candidates, num_masks, output, settings, how=how, label=folder
        )
    table = choices(found["report"], found["fit"])
    print(table.round(1).to_string())
    finish(*found.values())
    return table


if __name__ == "__main__":
    main()
