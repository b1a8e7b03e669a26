"""What the benchmark's tables say, as sentences; each follows from its table, whatever the model and the parameters."""

from __future__ import annotations

import pandas as pd

from ..experiments.names import (
    BILINEAR,
    BILINEAR_GUIDED,
    EMERDIFF,
    EMERDIFF_FAST,
    EMERDIFF_GUIDED,
    EMERDIFF_PIXEL,
    PIXELS_GUIDED,
)
from .front import KINDS


def of_comparison(comparison: pd.DataFrame, memory: pd.DataFrame) -> list[str]:
    """About :func:`.measure.against_reference` and :func:`.measure.peak_memory`."""
    exact, others = comparison.loc[EMERDIFF], comparison["times faster"]
    off = exact["seconds"] / exact["predicted s"] - 1
    least, most = memory.to_numpy().min(), memory.to_numpy().max()
    more = memory.index.max() / memory.index.min()
    return [
        f"From coarse masks to labels, exact mode is {exact['times faster']:.1f} times as fast as the reference point: "
        f"{exact['same labels']:.2%} of the labels are the same and no difference map is off by more than "
        f"{exact['difference']:.0e}. It runs at {exact['utilisation']:.0%} of the rate of matrix products and takes "
        f"{off:+.0%} against the cost model.",
        f"Pixel mode is {others[EMERDIFF_PIXEL]:.1f} times as fast as the reference point, fast mode {others[EMERDIFF_FAST]:.0f} "
        "times.",
        f"Memory rises by {least:.0f} to {most:.0f} MiB over the K and t_m tried, where K alone grows {more:.0f}-fold.",
    ]


def of_arithmetic(gflop: pd.Series) -> str:
    """About :func:`.measure.arithmetic`."""
    naive = gflop.drop([EMERDIFF, EMERDIFF_PIXEL, EMERDIFF_FAST]).iloc[-1]
    return (
        f"Sharing saves {1 - gflop[EMERDIFF] / naive:.0%} of the arithmetic; most of the rest are convolutions, which every "
        "row needs. What exact mode gains beyond that is rate: many rows at once instead of one by one. Pixel mode does "
        f"{gflop[EMERDIFF_PIXEL] / naive:.1%} of the arithmetic, fast mode {gflop[EMERDIFF_FAST] / naive:.1%}."
    )


def of_curves(curves: pd.DataFrame) -> list[str]:
    """About :func:`.measure.scaling`: how time grows from the least to the largest value of each curve."""
    sentences = []
    for varied, part in curves.groupby("varied", sort=False):
        least, most = part["value"].min(), part["value"].max()
        if least == most:
            continue
        grown = []
        for method, line in part.groupby("method", sort=False):
            seconds = line.set_index("value")["seconds"]
            grown.append(f"{method} takes {seconds[most] / seconds[least]:.1f} times as long")
        pixels = varied.startswith("image side")
        as_many = f"{(most / least) ** (2 if pixels else 1):.1f} times as many" + (
            " pixels" if pixels else ""
        )
        sentences.append(
            f"{varied[0].upper() + varied[1:]} from {least} to {most} ({as_many}): {' and '.join(grown)}."
        )
    return sentences


def of_filters(table: pd.DataFrame) -> list[str]:
    """About :func:`.front.beyond_filters`: what a mode adds to the picture's colours, without which no mode should be sold."""
    rivals = {BILINEAR_GUIDED: "guided-filtered masks", PIXELS_GUIDED: "guided-filtered features"}
    sentences = []
    for (name, rival), row in table.drop(index=EMERDIFF, level=0).iterrows():
        told = [
            f"{row[score]:+.1f} [{row[f'{score} low']:+.1f}, {row[f'{score} high']:+.1f}] in {score}"
            for score in ("mIoU", "boundary F")
        ]
        sentences.append(f"{name} minus {rivals[rival]}, without any denoising: {' and '.join(told)}.")
    return sentences


def of_front(table: pd.DataFrame) -> list[str]:
    """About :func:`.front.front`, as far as its rows go."""
    exact, free, filtered = table.loc[EMERDIFF], table.loc[BILINEAR], table.loc[BILINEAR_GUIDED]
    pair = lambda row: f"mIoU {row['mIoU']:.1f}, boundary F {row['boundary F']:.1f}"
    interval = "" if pd.isna(exact["low"]) else f" [{exact['low']:+.1f}, {exact['high']:+.1f}]"
    sentences = [
        f"Exact mode takes {exact['s / image']:.2f} s for a picture ({pair(exact)}) and gains {exact['gain']:+.1f}{interval} "
        f"points of mIoU over bilinear masks ({pair(free)}). The guided filter gains {filtered['gain']:+.1f} on those masks "
        f"without any denoising ({pair(filtered)})."
    ]
    for name in (EMERDIFF_PIXEL, EMERDIFF_FAST):
        if name in table.index:
            row, what = table.loc[name], name.removeprefix("EmerDiff, ")
            sentences.append(
                f"{what.capitalize()} mode takes {row['s / image']:.2f} s, {row['times faster']:.1f} times faster ({pair(row)})."
            )
    if EMERDIFF_GUIDED in table.index:
        guided = table.loc[EMERDIFF_GUIDED]
        sentences.append(
            f"A guided filter behind exact mode changes it by {guided['mIoU'] - exact['mIoU']:+.1f} points of mIoU and "
            f"{guided['boundary F'] - exact['boundary F']:+.1f} of boundary F."
        )
    if (name := "1 step (x̂₀)") in table.index and exact["gain"] > 0:
        one = table.loc[name]
        rest = "so the steps after t_m do most of the work" if one["share of gain"] < 0.5 else "most of it"
        sentences.append(
            f"Reading x̂₀ right after the modulated step gains {one['gain']:+.1f} points over bilinear masks, {rest}."
        )
    for score in ("mIoU", "boundary F"):
        best = table[score].idxmax()
        sentences.append(
            f"Best {score}: {best} ({table.loc[best, score]:.1f} at {table.loc[best, 's / image']:.2f} s)."
        )
    if exact["gain"] > 0:
        enough = table[(table["share of gain"] >= 0.8) & (table["kind"] == KINDS[1])]
        cheapest = enough.sort_values("s / image").iloc[0]
        sentences.append(
            f"Of the variants without a filter, {cheapest.name} is the fastest that keeps at least 80 % of exact mode's gain "
            f"({cheapest['share of gain']:.0%}, {cheapest['times faster']:.1f} times faster)."
        )
    return sentences
