"""A study's function of every labelled image, or of every Toyscapes scene under several variants of something."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets import LabelledDataset
from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import Results, cached_map
from ..runs.keys import dataset_key, model_key, sample_key, versions


def map_images(
    function: Callable[[int], Any],
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    output_dir: Path | str,
    key: Mapping[str, Any],
    **execution: Any,
) -> Results:
    """``function`` of images, by :func:`~emerdiff_lib.runs.cached_map.cached_map`, which says what it raises.

    Args:
        function: position in ``data`` → what JSON knows.
        samples: {name: position} from :func:`~emerdiff_lib.datasets.images.first_samples` or ``named``.
        key: what results depend on besides the model, the image, the versions and the text of a notebook's function.
    """
    key = {**key, "cells": source_of(function), "data": dataset_key(data)} | common_key(pipe)
    return cached_map(function, samples, output_dir, key, partial(sample_key, data), **execution)


def map_scenes(
    function: Callable[[int, Any], Any],
    seeds: Iterable[int],
    variants: Mapping[str, Any],
    output_dir: Path | str,
    pipe: EmerDiffPipeline,
    key: Mapping[str, Any],
    sample_key: Callable[[int, Any], Mapping[str, Any]],
    **execution: Any,
) -> dict[str, list[Any]]:
    """{variant: what ``function`` makes of it, scene by scene}; what ``output_dir`` has already, of exactly this, is kept.

    Args:
        function: (seed, variant's value) → what JSON knows.
        variants: {name: value}; results are kept under a scene's seed and this name.
        key: as of :func:`map_images`.
        sample_key: takes what ``function`` takes, and gives what its result depends on besides.
        execution: of :func:`~emerdiff_lib.runs.cached_map.cached_map`; a shard is a share of the scenes, all variants of each.

    Raises:
        ValueError: a scene failed under some variant.
    """
    results = cached_map(
        lambda sample: function(*sample),
        {f"{seed:06} {name}": (seed, value) for seed in seeds for name, value in variants.items()},
        output_dir,
        {**key} | common_key(pipe),
        sample_key=lambda sample: sample_key(*sample),
        group=lambda sample: sample[0],
        label="scenes × variants",
        **execution,
    )
    if results.failures:
        raise ValueError(f"{len(results.failures)} results failed. {results}")
    by_name = list(zip(results.names, results, strict=True))
    return {variant: [r for name, r in by_name if name.partition(" ")[2] == variant] for variant in variants}


def common_key(pipe: EmerDiffPipeline) -> dict[str, Any]:
    """What every result depends on."""
    return {"model": model_key(pipe), "versions": versions()}


def source_of(function: Any) -> list[str]:
    """The text of a function of a notebook's cells and of those that it calls, so that who edits one gets new results."""
    texts, functions = {}, [function]
    for one in functions:
        one = one.func if isinstance(one, partial) else one
        if getattr(one, "__module__", "") == "__main__" and inspect.isfunction(one) and one not in texts:
            texts[one] = inspect.getsource(one)
            functions += map(one.__globals__.get, re.findall(r"\w+", texts[one]))
    return list(texts.values())
