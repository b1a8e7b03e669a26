"""From one picture to a million: what :mod:`.scale` measured, extrapolated and in sentences."""

from __future__ import annotations

import pandas as pd

MILLION = 1_000_000
FOLDERS, RECORDS = "FolderStore (04)", "JsonStore (06)"


def extrapolate(
    picture: pd.DataFrame, rates: pd.DataFrame, seconds_per_picture: float, metadata_rate: float
) -> pd.DataFrame:
    """A row per store: what a million pictures take there, and how many workers fill what all of them share.

    Args:
        picture: a row per store as :func:`.scale.on_disk` and :func:`.scale.operations` give it.
        rates: as :func:`.scale.throughput` gives them, by (store, processes).
        seconds_per_picture: of a worker.
        metadata_rate: operations per second of the shared file system; behind the lock, one waits for the other.
    """
    rows = {}
    for store, one in picture.iterrows():
        kept = rates.loc[(store, 1), "kept / s"]
        locked = one.get("operations, locked", float("nan"))
        rows[store] = {
            "GB on disk": one["kB on disk"] * MILLION / 1e6,
            "million inodes": one["inodes"] * MILLION / 1e6,
            "h to find all kept, a process here": MILLION / kept / 3600,
            "h of it at the metadata rate": MILLION * one["operations, kept"] / metadata_rate / 3600,
            "workers at the metadata rate": seconds_per_picture * metadata_rate / one["operations, written"],
            "workers at the lock, shared": seconds_per_picture * metadata_rate / locked,
            "workers at the lock, here": seconds_per_picture / one.get("ms locked", float("nan")) * 1e3,
        }
    return pd.DataFrame(rows).T.rename_axis("store")


def describe(
    million: pd.DataFrame, driver: pd.DataFrame, engines: pd.DataFrame, seconds: float, tflop: float
) -> list[str]:
    """What the tables say, as sentences."""
    few, many = driver.index.min(), driver.index.max()
    growth = driver.loc[many, "µs / picture"] / driver.loc[few, "µs / picture"]
    memory = driver.loc[many, "bytes / picture at the peak"] * MILLION / 1e9
    folders = million.loc[FOLDERS]
    shared = ("workers at the metadata rate", "workers at the lock, shared")
    first = min(shared, key=lambda name: folders[name])
    what = "rate of metadata operations" if first == shared[0] else "lock"
    sentences = [
        f"At {seconds:g} s a picture, a million take {seconds * MILLION / 3600:.0f} GPU-hours. In exact mode at Stable Diffusion "
        f"1.4's size, modulated denoising and decoding alone are {tflop:.0f} TFLOP a picture: {tflop / seconds:.0f} TFLOP/s.",
        f"Segmentations of a million small pictures fill {folders['GB on disk']:.0f} GB and "
        f"{folders['million inodes']:.1f} million inodes; records of two methods "
        f"{million.loc[RECORDS, 'GB on disk']:.1f} GB and {million.loc[RECORDS, 'million inodes']:.1f} million.",
        f"To find everything kept takes one process {folders['h to find all kept, a process here']:.1f} h, as every file is "
        f"hashed again, and a shared file system no less than {folders['h of it at the metadata rate']:.1f} h.",
        f"On the shared file system that is assumed, its {what} is reached first, by {folders[first]:.0f} workers.",
        f"A picture takes the driver {driver.loc[many, 'µs / picture']:.0f} µs among {many}, {growth:.2f} times as much as among "
        f"{few}; a million take {memory:.1f} GB of its memory.",
    ]
    for engine, row in engines.iterrows():
        rate = row["pictures / s"]
        sentences.append(
            f"{engine} hands out {rate:.0f} pictures a second, enough for {rate * seconds:.0f} such workers."
        )
    return sentences
