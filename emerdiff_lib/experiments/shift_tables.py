"""What is left of each stage under a domain shift, and which of them breaks first: numbers, verdicts, sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..evaluation.intervals import bootstrap
from ..evaluation.metrics import class_iou, mean_iou
from ..evaluation.protocols import oracle
from ..settings import check_known
from .ablation_tables import with_interval

REFERENCE = "as trained"
MEASURES = ("features", "correspondence")
VERDICTS = ("features", "correspondence", "both", "neither", "cannot be told", "nothing to lose")
WAYS = ("bilinear", "modulated", "guided")  # from true masks to pixels
NEARLY = 0.95  # what counts as about 100 %: a stage of which this much is left has lost nothing worth a word


def counts(results: list[dict], kind: str) -> np.ndarray:
    """(N, C, 3) class counts, scene by scene, each mask given the class that most of its pixels have."""
    return np.stack([oracle(result[kind]) for result in results])


def miou(results: list[dict], kind: str) -> float:
    """Oracle mIoU of summed class counts, in [0, 1]."""
    return float(mean_iou(counts(results, kind).sum(0)))


def gain(results: list[dict], measure: str) -> float:
    """What a stage adds to knowing nothing, in [−1, 1].

    "features": mIoU above positions. "correspondence": mean boundary F above bilinear upsampling of the true masks.

    Raises:
        ValueError: for another measure.
    """
    return float(_gain(results, measure)(np.arange(len(results))))


def _gain(results: list[dict], measure: str) -> Callable[[np.ndarray], float]:
    """:func:`gain` of the scenes with given (…, n) indices."""
    if check_known("measure", measure, MEASURES) == "features":
        own, nothing = counts(results, "own cells"), counts(results, "position cells")
        return lambda rows: mean_iou(own[rows].sum(-3)) - mean_iou(nothing[rows].sum(-3))
    edges = np.array([r["boundary F"]["modulated"] - r["boundary F"]["bilinear"] for r in results])
    return lambda rows: edges[rows].mean(-1)


def _left(results: list[dict], reference: list[dict], measure: str) -> Callable[[np.ndarray], float]:
    """What is left of the reference's gain on the scenes with given indices; NaN where it gains nothing."""
    part, whole = _gain(results, measure), _gain(reference, measure)
    return lambda rows: part(rows) / np.where(whole(rows) > 0, whole(rows), np.nan)


def retention(
    results: list[dict], reference: list[dict], measure: str, draws: int = 500
) -> tuple[float, float, float]:
    """(value, low, high): what is left of the reference's gain on the same scenes, with its 95 % bootstrap interval; NaN where
    the reference gains nothing."""
    return bootstrap(_left(results, reference, measure), len(results), draws)


def surplus(results: list[dict], reference: list[dict], draws: int = 500) -> tuple[float, float, float]:
    """(value, low, high): what is left of the features less what is left of the correspondence, resampled together.

    Below 0 the features lose more, above 0 the correspondence; across 0 it cannot be told.
    """
    features, correspondence = (_left(results, reference, measure) for measure in MEASURES)
    return bootstrap(lambda rows: features(rows) - correspondence(rows), len(results), draws)


@dataclass(frozen=True)
class Verdict:
    """Which stage breaks first, and why one may say so.

    Attributes:
        word: one of :data:`VERDICTS`.
        left: {measure: (value, low, high)}, see :func:`retention`; ``surplus``, see :func:`surplus`.
    """

    word: str
    left: dict[str, tuple[float, float, float]]
    surplus: tuple[float, float, float]

    def __str__(self) -> str:
        words = {
            "features": "the features break first",
            "correspondence": "the correspondence breaks first",
            "both": "both break, and which first cannot be told",
            "neither": "neither breaks, measurably",
            "nothing to lose": "the reference itself gains nothing measurable",
        }
        return words.get(self.word, "it cannot be told")


def verdict(results: list[dict], reference: list[dict], draws: int = 500) -> Verdict:
    """Which stage breaks first, from the results of a shift and of the reference on the same scenes.

    - "nothing to lose": a gain of the reference is not measurably above 0, so a share of it means nothing.
    - "neither": of both stages at least :data:`NEARLY` is left, and both intervals reach 100 %.
    - "features" or "correspondence": its loss is measurable (its interval lies below 100 %) and larger, measurably, than the
      other's.
    - "both": both losses are measurable, neither is measurably the larger.
    - "cannot be told": everything else, such as a loss of a third with an interval that reaches 100 %, or a single scene.
    """
    left = {measure: retention(results, reference, measure, draws) for measure in MEASURES}
    difference = surplus(results, reference, draws)
    gains = [bootstrap(_gain(reference, measure), len(reference), draws) for measure in MEASURES]
    lost = [high < 1 for _, _, high in left.values()]
    kept = [high >= 1 and value >= NEARLY for value, _, high in left.values()]
    if any(low <= 0 or value <= 0 for value, low, _ in gains):
        word = "nothing to lose"
    elif all(kept):
        word = "neither"
    elif lost[0] and difference[2] < 0:
        word = "features"
    elif lost[1] and difference[1] > 0:
        word = "correspondence"
    elif all(lost):
        word = "both"
    else:
        word = "cannot be told"
    return Verdict(word, left, difference)


def verdicts(found: dict[str, list[dict]], draws: int = 500) -> dict[str, Verdict]:
    """{shift: verdict} for all but the reference; what the tables and sentences below take as ``told``."""
    return {
        name: verdict(results, found[REFERENCE], draws)
        for name, results in found.items()
        if name != REFERENCE
    }


def overview(found: dict[str, list[dict]], told: dict[str, Verdict]) -> pd.DataFrame:
    """A row per shift, in points and percent: oracle mIoU of the whole method; mIoU of the masks on their grid; mIoU and
    boundary F of the true masks brought to pixels in three ways; what is left of each stage, with intervals; the verdict."""
    rows = {}
    for name, results in found.items():
        row = {"mIoU": 100 * miou(results, "own")}
        row |= {f"cells, {kind}": 100 * miou(results, f"{kind} cells") for kind in ("own", "position")}
        row |= {f"true masks, {kind}": 100 * miou(results, f"true {kind}") for kind in WAYS}
        row |= {f"boundary F, {kind}": 100 * edge_score(results, kind) for kind in WAYS}
        for measure in MEASURES if name in told else ():
            for part, value in zip(("left", "low", "high"), told[name].left[measure], strict=True):
                row[f"{measure}, % {part}"] = 100 * value
        rows[name] = row | {"breaks first": told[name].word if name in told else ""}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("shift")


def what_is_left(told: dict[str, Verdict]) -> pd.DataFrame:
    """A row per shift and stage: "shift", "stage", "left", "low", "high" in percent; the most features first."""
    rows = []
    for name, verdict in told.items():
        for measure, left in verdict.left.items():
            values = dict(zip(("left", "low", "high"), (100 * value for value in left), strict=True))
            rows.append({"shift": name, "stage": measure} | values)
    table = pd.DataFrame(rows, columns=["shift", "stage", "left", "low", "high"])
    features = table[table["stage"] == "features"].set_index("shift")["left"]
    return table.iloc[table["shift"].map(-features).argsort(kind="stable")].reset_index(drop=True)


def edge_score(results: list[dict], kind: str) -> float:
    """Mean boundary F of the true masks brought to pixels, ``kind`` one of :data:`WAYS`, in [0, 1]."""
    return float(np.mean([result["boundary F"][kind] for result in results]))


def headlines(found: dict[str, list[dict]], told: dict[str, Verdict]) -> list[str]:
    """What all shifts say together: a sentence for each verdict that occurs, then what they do to features and to mIoU."""
    start = {
        "correspondence": "The correspondence breaks first under",
        "features": "The features break first under",
        "both": "Both break, and which first cannot be told, under",
        "neither": "Neither breaks, measurably, under",
        "cannot be told": "Which breaks first cannot be told under",
        "nothing to lose": "The reference gains nothing measurable, so that nothing can be said of",
    }
    under = {word: [name for name, verdict in told.items() if verdict.word == word] for word in start}
    under |= {
        "gain": [name for name, verdict in told.items() if verdict.left["features"][1] > 1],
        "below": [n for n in found if miou(found[n], "true modulated") < miou(found[n], "true bilinear")],
    }
    start |= {
        "gain": "The features are measurably better than in the model's own world under",
        "below": "In mIoU, modulation from true masks does worse than bilinear upsampling under",
    }
    return [f"{start[word]} {'; '.join(names)}." for word, names in under.items() if names]


def report(found: dict[str, list[dict]], told: dict[str, Verdict]) -> list[str]:
    """Sentences: every shift with what is left and the verdict, the worst loss of correspondence first; then whose loss it is."""
    percent = lambda left: with_interval(left, "{:.0f} %", "{:.0f}", 100)
    order = sorted(told, key=lambda name: np.nan_to_num(told[name].left["correspondence"][0]))
    sentences = []
    for name in order:
        left = told[name].left
        parts = " and ".join(f"{percent(left[measure])} of the {measure}" for measure in MEASURES)
        start = f"{name}: " if told[name].word == "nothing to lose" else f"{name}: {parts} is left: "
        sentences.append(f"{start}{told[name]}.")
    sentences += [whose_loss(name, found) for name in order if told[name].word in ("correspondence", "both")]
    if "unseen objects" in found:
        values = [f"{value:.1f} from {way}" for way, value in unseen_iou(found["unseen objects"]).items()]
        sentences.append(f"IoU of the objects that the world does not have: {', '.join(values)}.")
    return sentences


def whose_loss(name: str, found: dict[str, list[dict]]) -> str:
    """Whether a guided filter, which sees the picture alone, loses boundaries where modulated denoising does: a sentence."""
    filtered, modulated = (
        100 * (edge_score(found[name], kind) - edge_score(found[REFERENCE], kind))
        for kind in ("guided", "modulated")
    )
    ahead = 100 * (edge_score(found[name], "modulated") - edge_score(found[name], "guided"))
    whose = (
        "so the boundaries are in the picture and the model does not use them"
        if filtered > modulated / 3
        else "so the boundaries are lost in the picture as well"
    )
    sentence = (
        f"{name}: from true masks, the model's boundary F changes by {modulated:+.1f} points and a guided filter's by "
        f"{filtered:+.1f}, {whose}"
    )
    return sentence + (f"; the model is {ahead:.1f} points ahead of the filter there." if ahead > 0 else ".")


def unseen_iou(results: list[dict]) -> dict[str, float]:
    """IoU in points of the objects that the world does not have (the last class), by the method's own masks and by true ones."""
    ways = {"own masks": "own", "true masks": "true modulated", "true masks, bilinear": "true bilinear"}
    return {name: 100 * float(class_iou(counts(results, kind).sum(0))[-1]) for name, kind in ways.items()}
