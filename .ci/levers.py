"""What raises covering on photographs: features of ``streets`` at other sizes, timesteps and layers, on Berkeley's train.

``python .ci/levers.py BSDS500 MANIFEST``; results are kept in runs/levers, so that a second start goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from emerdiff_lib import load_pipeline
from emerdiff_lib.baselines.upsamplers import guided_adaptive, upsampled_superpixels
from emerdiff_lib.datasets.berkeley import BSDS500
from emerdiff_lib.evaluation.berkeley import connected, ods_and_ois, region_scores
from emerdiff_lib.evaluation.intervals import interval, verdict, with_interval
from emerdiff_lib.evaluation.regions import sample_labels
from emerdiff_lib.files import file_digest
from emerdiff_lib.refinement import resize_maps
from emerdiff_lib.runs.cached_map import cached_map
from emerdiff_lib.runs.keys import model_key, versions
from emerdiff_lib.runs.manifest import write_manifest

FIRST, OTHERS = (
    range(0, 200, 5),
    [i for i in range(200) if i % 5][::4],
)  # photographs of train: 40, and 40 others
CONFIRMED = ("processed at 256 pixels", "processed at 320 pixels")  # the best two of the first photographs
COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24)
OTHER_LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
DEFAULT = "as in notebook 15"
# what is changed about the checkpoint's own settings; of several, queries stand side by side
LEVERS: dict[str, list[dict[str, Any]]] = {DEFAULT: [{}]}
LEVERS |= {f"processed at {r} pixels": [{"processing_resolution": r}] for r in (133, 199, 256, 320)}
LEVERS |= {f"t_f = {t}": [{"feature_timestep": t}] for t in (101, 481)}
LEVERS |= {
    "the block's second layer": [{"feature_layer": OTHER_LAYER}],
    "both layers": [{}, {"feature_layer": OTHER_LAYER}],
    "t_f = 101, 281 and 481": [{"feature_timestep": t} for t in (101, 281, 481)],
    "two scales, 166 and 256 pixels": [{"processing_resolution": 256}, {}],
}


def features_of(pipe: Any, image: Any, parts: list[dict[str, Any]]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Queries (h, w, d), each part at unit total variance on the first one's grid, and that one's processing size."""
    queries = []
    for changed in parts:
        generator = torch.Generator().manual_seed(0)
        coarse = pipe.cluster(image, mode="pixel", generator=generator, **changed)
        if not queries:
            grid, size = coarse.grid, coarse.processing_size
        maps = resize_maps(coarse.queries.permute(2, 0, 1), grid).permute(1, 2, 0)
        queries.append(maps / maps.flatten(0, 1).var(0).sum().sqrt())
    return torch.cat(queries, -1), size


def score(pipe: Any, data: BSDS500, levers: dict[str, Any], position: int) -> dict[str, dict[str, list]]:
    """{features: {K: (people, 3) scores}} of a photograph."""
    photograph, scores = data[position], {}
    for name, parts in levers.items():
        queries, size = features_of(pipe, photograph.image, parts)
        small = np.asarray(photograph.image.resize(size[::-1]))
        superpixels = upsampled_superpixels(queries, small, guided_adaptive)
        shape = photograph.annotations[0].shape
        scores[name] = {}
        for count in COUNTS:
            labels = sample_labels(connected(superpixels.segments(count)), shape)
            scores[name][str(count)] = region_scores(labels, photograph.annotations).tolist()
    return scores


def covering_table(
    pipe: Any, data: BSDS500, levers: dict[str, Any], positions: Iterable[int]
) -> pd.DataFrame:
    """A row per kind of features: covering at the best K for all and of each, and the difference to the default."""
    key = {"study": "levers", "levers": levers, "model": model_key(pipe), "versions": versions()}
    image_of = lambda i: {"image": file_digest(data.files[i])}
    samples = {data.files[i].stem: i for i in positions}
    job = partial(score, pipe, data, levers)
    results = list(cached_map(job, samples, "runs/levers", key, image_of, label="photographs"))
    rows, at_best = {}, {}
    for name in levers:
        scores = [{k: np.array(people) for k, people in one[name].items()} for one in results]
        table = ods_and_ois(scores).loc["covering"]
        rows[name] = {"covering ODS": table["ODS"], "at K": table["at"], "covering OIS": table["OIS"]}
        at_best[name] = np.array([one[table["at"]][:, 0].mean() for one in scores])  # a photograph each
    for name in (name for name in levers if name != DEFAULT):
        points, low, high = (100 * end for end in interval(at_best[name], at_best[DEFAULT]))
        rows[name] |= {"points": points, "low": low, "high": high, "verdict": verdict(low, high)}
    return pd.DataFrame(rows).T.rename_axis("features")


def main(root: str, manifest: str) -> None:
    pipe, data = load_pipeline("streets"), BSDS500(root, "train")
    few = {name: LEVERS[name] for name in (DEFAULT, *CONFIRMED)}
    tables = {
        f"Covering of connected segments, {len(FIRST)} photographs": covering_table(
            pipe, data, LEVERS, FIRST
        ),
        f"The same, {len(OTHERS)} other photographs": covering_table(pipe, data, few, OTHERS),
    }
    notes = ["Points are covering at the best K of each, minus the default's, paired by photograph."]
    for title, table in tables.items():
        rows = table.drop(index=DEFAULT).astype({"points": float, "low": float, "high": float})
        said = [f"{r.Index} {with_interval(r.points, r.low, r.high)}, {r.verdict}" for r in rows.itertuples()]
        notes.append(f"{title}: {'; '.join(said)}.")
    write_manifest(
        manifest,
        title="What raises covering on photographs",
        question="Which settings of the features cover people's regions better, without modulated denoising?",
        command="python .ci/levers.py BSDS500 notebooks/results/photograph_levers.json",
        settings=pipe.resolve(mode="pixel").to_dict() | {"split": "train"},
        seeds={},
        tables=tables,
        notes=notes,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
