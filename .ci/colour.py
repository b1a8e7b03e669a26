"""What responses and the factor of colour each give to EmerDiff-Pixel, beside the same filters without either.

``python .ci/colour.py CAMVID BSDS500 MANIFEST``; results are kept in runs/colour, so that a second start goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from emerdiff_lib import load_pipeline, responses
from emerdiff_lib.baselines.upsamplers import guided_adaptive, upsampled_superpixels
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.datasets.berkeley import BSDS500
from emerdiff_lib.evaluation.berkeley import connected, ods_and_ois, region_scores
from emerdiff_lib.evaluation.intervals import interval, verdict, with_interval
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.evaluation.regions import sample_labels
from emerdiff_lib.evaluation.tables import score
from emerdiff_lib.files import file_digest
from emerdiff_lib.pixels import Superpixels
from emerdiff_lib.runs.cached_map import cached_map
from emerdiff_lib.runs.keys import model_key, versions
from emerdiff_lib.runs.manifest import write_manifest
from emerdiff_lib.studies import names

FULL, UNCOLOURED, UNRESPONSIVE = (
    names.EMERDIFF_PIXEL,
    "EmerDiff-Pixel, without the factor of colour",
    "EmerDiff-Pixel, without responses (the factor of colour alone)",
)
PHOTOGRAPHS = 50  # of Berkeley's val, the first so many
COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24)
PAIRS = (
    (FULL, names.QUERIES_BOTH),
    (UNCOLOURED, names.QUERIES_BOTH),
    (UNRESPONSIVE, names.QUERIES_BOTH),
    (FULL, UNCOLOURED),
    (FULL, UNRESPONSIVE),
)


@contextmanager
def without_colour() -> Iterator[None]:
    kept, responses.COLOUR = responses.COLOUR, float("inf")
    try:
        yield
    finally:
        responses.COLOUR = kept


def superpixels_by(pipe: Any, image: Image.Image, seed: int) -> dict[str, Superpixels]:
    coarse = pipe.cluster(image, mode="pixel", generator=torch.Generator().manual_seed(seed))
    found = pipe.probe(coarse)
    small = np.asarray(image.resize(found.processing_size[::-1]))
    superpixels = {FULL: found.superpixels()}
    with without_colour():
        superpixels[UNCOLOURED] = replace(found, _superpixels={}).superpixels()
    # every part answers alike everywhere; FLOOR takes off a multiple of the mean, so that it is 0 here
    alike, floor = replace(found, codes=torch.full_like(found.codes, 127), _superpixels={}), responses.FLOOR
    alike.scales = torch.ones_like(alike.scales)
    responses.FLOOR = 0.0
    superpixels[UNRESPONSIVE] = alike.superpixels()
    responses.FLOOR = floor
    superpixels[names.QUERIES_BOTH] = upsampled_superpixels(coarse.queries, small, guided_adaptive)
    return superpixels


def score_labels(pipe: Any, data: Any, width: int | None, position: int) -> dict[str, Any]:
    """{method: its counts by class, and boundary F} of an image with labels, at K segments."""
    sample, scores = data[position], {}
    image, truth = sample.image, sample.labels
    if width:
        size = width, round(width * image.height / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
        resized = Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)
        truth = np.asarray(resized).astype(truth.dtype)
    rest = len(data.class_names), data.ignore_index, data.background
    for name, parts in superpixels_by(pipe, image, sample.seed).items():
        labels = sample_labels(parts.segments(pipe.resolve().num_masks), truth.shape)
        one = score(labels, truth, np.zeros((labels.max() + 1, 1), np.float32), 0.0, *rest)
        scores[name] = {"table": one["table"], "boundary_f": one["boundary_f"]}
    return scores


def score_regions(pipe: Any, data: BSDS500, position: int) -> dict[str, dict[str, list]]:
    """{method: {K: (people, 3) scores}} of a photograph, its segments cut into connected regions."""
    photograph, scores = data[position], {}
    shape = photograph.annotations[0].shape
    for name, parts in superpixels_by(pipe, photograph.image, 0).items():
        labels = {k: sample_labels(connected(parts.segments(k)), shape) for k in COUNTS}
        of = lambda one: region_scores(one, photograph.annotations).tolist()
        scores[name] = {str(k): of(one) for k, one in labels.items()}
    return scores


def mapped(
    pipe: Any, job: Callable[[int], Any], samples: Mapping[str, int], what: str, image_of: Callable
) -> list[Any]:
    key = {"study": "colour", "of": what, "model": model_key(pipe), "versions": versions()}
    return list(cached_map(job, samples, f"runs/colour/{what}", key, image_of, label=what))


def of_labels(pipe: Any, data: Any, positions: Iterable[int], what: str, width: int | None) -> dict:
    """{method: {measure: what interval() takes}}"""
    samples = {f"{position:04}": position for position in positions}
    image_of = lambda position: {"image": data[position].name}
    results = mapped(pipe, partial(score_labels, pipe, data, width), samples, what, image_of)
    counts = {name: np.stack([oracle(one[name]["table"]) for one in results]) for name in results[0]}
    boundaries = {name: np.array([one[name]["boundary_f"] for one in results]) for name in results[0]}
    return {n: {"oracle mIoU": counts[n], "boundary F": boundaries[n]} for n in results[0]}


def of_regions(pipe: Any, data: BSDS500) -> dict:
    samples = {file.stem: position for position, file in enumerate(data.files[:PHOTOGRAPHS])}
    image_of = lambda position: {"image": file_digest(data.files[position])}
    results = mapped(pipe, partial(score_regions, pipe, data), samples, "bsds500", image_of)
    covering = {}
    for name in results[0]:
        scores = [{k: np.array(people) for k, people in one[name].items()} for one in results]
        best = ods_and_ois(scores).loc["covering", "at"]
        covering[name] = {"covering": np.array([one[best][:, 0].mean() for one in scores])}
    return covering


def main(camvid: str, berkeley: str, manifest: str) -> None:
    toyscapes, streets = load_pipeline("toyscapes"), load_pipeline("streets")
    frames = open_dataset("camvid", camvid, "val")
    of_set = {
        "100 drawn scenes": of_labels(toyscapes, open_dataset("toyscapes", "", "test"), range(100), "toyscapes", None),
        "101 street photographs": of_labels(streets, frames, range(len(frames)), "camvid", 192),
        f"{PHOTOGRAPHS} photographs of everything": of_regions(streets, BSDS500(berkeley, "val")),
    }  # fmt: skip
    levels, rows, notes = [], [], []
    for what, scores in of_set.items():
        for name, measures in scores.items():
            levels.append((what, name, *(100 * interval(one)[0] for one in measures.values())))
        for first, second in PAIRS:
            said = []
            for measure in scores[first]:
                ends = [100 * end for end in interval(scores[first][measure], scores[second][measure])]
                rows.append((what, first, second, measure, *ends, verdict(*ends[1:])))
                said.append(f"{with_interval(*ends)} of {measure}, {rows[-1][-1]}")
            notes.append(f"On {what}, {first} minus “{second}”: {'; '.join(said)}.")
    tables = {"Scores in percent": _frame(levels), "Differences in points": pd.DataFrame(rows)}
    tables["Differences in points"].columns = [
        *("images", "method", "minus", "measure", "points", "low", "high", "verdict")
    ]
    write_manifest(
        manifest,
        title="Responses or colour",
        question="Which part of EmerDiff-Pixel is ahead of the same filters: responses, or the factor of colour?",
        command="python .ci/colour.py CAMVID BSDS500 notebooks/results/pixel_colour.json",
        settings=streets.resolve(mode="pixel").to_dict(),
        seeds={"images": range(100)},
        tables={name: table.round(2) for name, table in tables.items()},
        notes=notes,
    )


def _frame(levels: list[tuple]) -> pd.DataFrame:
    rows = [(*row, *[float("nan")] * (4 - len(row))) for row in levels]
    frame = pd.DataFrame(rows, columns=["images", "method", "oracle mIoU or covering", "boundary F"])
    return frame.set_index(["images", "method"])


if __name__ == "__main__":
    main(*sys.argv[1:])
