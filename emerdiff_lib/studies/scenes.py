"""Toyscapes scenes, each under several variants of something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import cached_map
from ..runs.keys import model_key, versions


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
        key, sample_key: as for :func:`~emerdiff_lib.runs.cached_map.cached_map`, without the model and the versions;
            ``sample_key`` takes what ``function`` takes.
        execution: of the same; a shard is a share of the scenes, all variants of each.

    Raises:
        ValueError: a scene failed under some variant.
    """
    results = cached_map(
        lambda sample: function(*sample),
        {f"{seed:06} {name}": (seed, value) for seed in seeds for name, value in variants.items()},
        output_dir,
        key={**key, "model": model_key(pipe), "versions": versions()},
        sample_key=lambda sample: sample_key(*sample),
        group=lambda sample: sample[0],
        label="scenes × variants",
        **execution,
    )
    if results.failures:
        raise ValueError(f"{len(results.failures)} results failed. {results}")
    by_name = list(zip(results.names, results, strict=True))
    return {variant: [r for name, r in by_name if name.partition(" ")[2] == variant] for variant in variants}
