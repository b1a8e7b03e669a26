"""Sweeps on Toyscapes scenes (notebook 05): each changes one thing, on the same scenes with the same noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from ..clustering import cluster_queries, mask_embeddings
from ..evaluation.intervals import Interval, interval, level_table, with_interval
from ..evaluation.metrics import boundary_scores, contingency_table
from ..evaluation.protocols import Record, concept_embeddings, modified, oracle
from ..inversion import Trajectory
from ..pipeline import EmerDiffPipeline
from ..runs.keys import digest, scene_key
from ..settings import ASSIGNED, MODULATED, NAMES, check_known
from ..stages import CoarseMasks
from ..toyscapes import Scene, Toyscapes
from .mapping import map_scenes
from .names import BILINEAR, EMERDIFF

CAPTION = "the scene's caption"  # as a prompt: each scene's own
FEATURES = ("smoothed", "with positions")
MEASURES = ("oracle mIoU", "modified mIoU", "boundary F")
METHODS = (EMERDIFF, BILINEAR)
ALIKE = 3.0  # points; settings that differ by less, measurably, are alike
DRAWS = 500
Points = dict[str, list[dict[str, Any]]]  # {label of a sweep's point: results, scene by scene}


@dataclass(frozen=True)
class Sweep:
    """One thing changed, in several ways.

    Attributes:
        usual: settings that are swept around, flat and complete.
        title: what is changed.
        points: {label: settings of the pipeline, by flat name}. Two things are known here alone: the setting "features" (one of
            :data:`FEATURES`) and the prompt :data:`CAPTION`.
        source: where the paper shows it; ``paper``: what it finds; "" for nothing.
        paper_best: labels that are best according to it; all of them where it finds no difference.
        measure: the score that ``paper`` is compared with.
        logarithmic: whether numbers are best drawn on a logarithmic axis.
    """

    usual: dict[str, Any]
    title: str
    points: dict[str, dict[str, Any]]
    source: str = ""
    paper: str = ""
    paper_best: Iterable[str] = ()
    measure: str = "oracle mIoU"
    logarithmic: bool = False

    @property
    def default(self) -> str | None:
        """Label of the first point that changes nothing, None if no point does."""
        unchanged = (label for label, point in self.points.items() if point.items() <= self.usual.items())
        return next(unchanged, None)


def run_sweeps(
    pipe: EmerDiffPipeline,
    sweeps: Mapping[str, Sweep],
    seeds: Iterable[int],
    output_dir: Path | str,
    **execution: Any,
) -> dict[str, Points]:
    """{sweep: {label: :func:`evaluate`'s results, scene by scene}}, by :func:`~.mapping.map_scenes`.

    Results are kept by scene and settings: sweeps around the same settings share what they have in common.
    """
    usual = next(iter(sweeps.values())).usual
    name = lambda point: digest(usual | point)
    inverted: dict[int, InvertedScene] = {}  # the last scene, for all its points

    def trial(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        if seed not in inverted:
            inverted.clear()
            inverted[seed] = invert_scene(pipe, Toyscapes.from_seed(seed), usual)
        return evaluate(pipe, inverted[seed], settings)

    results = map_scenes(
        trial,
        seeds,
        {name(point): usual | point for sweep in sweeps.values() for point in sweep.points.values()},
        output_dir,
        pipe,
        key={"study": "ablations", "settings": usual},
        sample_key=lambda seed, settings: scene_key(seed) | {"trial": settings},
        **execution,
    )
    return {
        title: {label: results[name(point)] for label, point in sweep.points.items()}
        for title, sweep in sweeps.items()
    }


@dataclass
class InvertedScene:
    """What all settings of a scene share.

    Attributes:
        trajectory: from the noisiest timestep on.
        generator_state: where a trajectory of the usual length leaves the generator. Noises are drawn upwards from the smallest
            timestep, so that a longer trajectory begins like a shorter one; what is drawn afterwards has to be the same, too.
        coarse: the usual masks.
    """

    scene: Scene
    trajectory: Trajectory
    generator_state: torch.Tensor
    coarse: CoarseMasks


def invert_scene(pipe: EmerDiffPipeline, scene: Scene, usual: dict[str, Any]) -> InvertedScene:
    """The usual settings give what ``pipe(scene.image, generator=torch.Generator().manual_seed(scene.seed))`` gives."""
    names = ("num_inference_steps", "prompt", "processing_resolution")
    options = {"method": usual["inversion"], "noise_maps": False} | {name: usual[name] for name in names}
    steps = pipe.predictor(usual["num_inference_steps"], prompt=None).timesteps
    generator = torch.Generator().manual_seed(scene.seed)
    start = max(usual["feature_timestep"], usual["modulation_timestep"])
    pipe.invert(scene.image, start_timestep=start, generator=generator, **options)
    state = generator.get_state()
    generator.manual_seed(scene.seed)
    trajectory = pipe.invert(scene.image, start_timestep=max(steps), generator=generator, **options)
    generator.set_state(state)
    return InvertedScene(scene, trajectory, state, pipe.cluster(trajectory, generator=generator, **usual))


def evaluate(pipe: EmerDiffPipeline, inverted: InvertedScene, settings: dict[str, Any]) -> dict[str, Any]:
    """A scene under complete flat settings.

    Returns:
        "seed" of the scene; "embeddings" (K, d) of the masks; for EmerDiff and for the same coarse masks upsampled bilinearly,
        {"table": pixels of (mask, coarse class), "boundary_f": boundary F within 2 px of the fine labels}. For JSON.
    """
    scene = inverted.scene
    responses = pipe.respond(coarse_masks(pipe, inverted, settings))
    labels = pipe.assign(responses)
    output = pipe.output(responses, labels)
    embeddings = np.round(output.mask_embeddings.astype(float), 5)
    result = {"seed": scene.seed, "embeddings": embeddings.tolist()}
    for method, segments in ((EMERDIFF, labels), (BILINEAR, output.baseline_labels)):
        classes = len(Toyscapes.coarse_class_names)
        table = contingency_table(segments, scene.coarse_labels, len(output.mask_embeddings), classes)
        boundary_f = boundary_scores(segments, scene.labels, 2)[2]
        result[method] = {"table": table.tolist(), "boundary_f": boundary_f}
    return result


def coarse_masks(pipe: EmerDiffPipeline, inverted: InvertedScene, settings: dict[str, Any]) -> CoarseMasks:
    """Coarse masks under complete flat settings: the usual ones, unless these say something else about masks."""
    given = {name: value for name, value in settings.items() if name != "features"}
    kind = settings.get("features")
    if given["prompt"] == CAPTION:
        given["prompt"] = inverted.scene.caption
    resolved, usual = pipe.resolve(**given), inverted.coarse.settings
    differing = {name for name in NAMES if getattr(resolved, name) != getattr(usual, name)}
    if kind is None and differing <= {*MODULATED, *ASSIGNED}:
        return replace(inverted.coarse, settings=resolved)
    trajectory = replace(inverted.trajectory, prompt=given["prompt"])  # its latents do not depend on the text
    generator = torch.Generator()
    generator.set_state(inverted.generator_state)
    coarse = pipe.cluster(trajectory, generator=generator, **given)
    if kind is None:
        return coarse
    queries = transformed(coarse.queries, kind)
    masks = cluster_queries(queries, resolved.num_masks, inverted.scene.seed)
    return replace(coarse, queries=queries, masks=masks, embeddings=mask_embeddings(queries, masks))


def transformed(queries: torch.Tensor, kind: str) -> torch.Tensor:
    """Queries (h, w, d) smoothed over 0.7 cells, or with positions appended at twice their total deviation.

    Raises:
        ValueError: for a ``kind`` that is not in :data:`FEATURES`.
    """
    if check_known("features", kind, FEATURES) == "smoothed":
        return torch.from_numpy(gaussian_filter(queries.numpy(), (0.7, 0.7, 0)))
    height, width, _ = queries.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    positions = torch.stack([y, x], -1) / torch.stack([y, x], -1).flatten(0, 1).std(0)
    total = queries.flatten(0, 1).var(0).sum().sqrt()
    return torch.cat([queries, positions * (2 * total / 2**0.5)], -1)


# -- tables: levels with intervals, paired differences to the default, and whether the paper's finding holds ------------


def scores(results: list[dict], method: str = EMERDIFF) -> dict[str, np.ndarray]:
    """{measure: what is summed or averaged over scenes}: (N, C, 3) class counts for an mIoU, (N,) boundary F in [0, 1].

    The prototypes of "modified mIoU" are those of the same scenes.
    """
    records = [Record(np.array(r[method]["table"]), np.array(r["embeddings"])) for r in results]
    prototypes = concept_embeddings(records)
    return {
        "oracle mIoU": np.stack([oracle(record.table) for record in records]),
        "modified mIoU": np.stack([modified(record, prototypes) for record in records]),
        "boundary F": np.array([result[method]["boundary_f"] for result in results]),
    }


def levels(points: Points) -> pd.DataFrame:
    """A row per setting, method and measure: "value", "low", "high" in points, with 95 % bootstrap intervals over scenes."""
    tables = {
        label: level_table({method: scores(results, method) for method in METHODS}, DRAWS)
        for label, results in points.items()
    }
    return pd.concat(tables, names=["setting", None]).reset_index("setting").reset_index(drop=True)


def paired(points: Points, first: str, second: str, measure: str) -> Interval:
    """(first − second, low, high) in points on the same scenes."""
    value, low, high = interval(scores(points[first])[measure], scores(points[second])[measure], DRAWS)
    return 100 * value, 100 * low, 100 * high


def comparison(points: Points, levels: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The best setting against the default on the same scenes, by measure.

    Returns:
        a row per measure: the "lowest" and the "highest" level of a setting, in points, and which these are ("worst", "best");
        "against" which the best is compared: the default, or the worst where the default is the best or no point of the sweep;
        "difference": best − against in points with its interval, and whether it is "measurable": the interval is above 0.
    """
    values = levels[levels["method"] == EMERDIFF].pivot(index="setting", columns="measure", values="value")
    rows = {}
    for measure, column in values.loc[list(points), list(MEASURES)].items():
        best, worst = column.idxmax(), column.idxmin()
        against = worst if sweep.default in (None, best) else sweep.default
        difference = paired(points, best, against, measure)
        row = (column[worst], worst, column[best], best, against)
        rows[measure] = (*row, with_interval(*difference), difference[1] > 0)
    columns = ["lowest", "worst", "highest", "best", "against", "difference", "measurable"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("measure")


def agreement(points: Points, levels: pd.DataFrame, sweep: Sweep) -> tuple[str, str]:
    """Whether the paper's finding holds here, and the comparison that says so; ("", "") where the paper says nothing.

    A paper's best "holds" where the best of its points beats all others measurably, and "fails" where another one beats it so.
    That all are alike "fails" where the best beats the worst measurably, and "holds" where even the interval's upper end is
    below :data:`ALIKE` points. All else is "open". Picking the best of several by the same scenes favours its winning.
    """
    expected = [label for label in sweep.paper_best if label in points]
    if not expected:
        return "", ""
    rows = levels[(levels["method"] == EMERDIFF) & (levels["measure"] == sweep.measure)]
    values = rows.set_index("setting")["value"].loc[list(points)]
    others, best = values.drop(expected), values.idxmax()
    strongest = (values[expected] if best in others else others).idxmax
    against = values.idxmin() if others.empty else strongest()
    difference = paired(points, best, against, sweep.measure)
    if difference[1] > 0:
        word = "fails" if others.empty or best in others else "holds"
    else:
        word = "holds" if others.empty and difference[2] < ALIKE else "open"
    return word, f"{best} − {against}: {with_interval(*difference)}"
