"""Every notebook runs headless with its defaults and with other parameters, and is committed executed."""

import json
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image
from safetensors.numpy import load_file

from .conftest import seeded

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
OTHER = {
    "00_start_here": dict(scene_seed=7, num_masks=5, seed=3),
    "01_inversion": dict(scene_seed=3, num_scenes=1, num_inference_steps=10),
    "02_feature_clustering": dict(
        scene_seed=3,
        num_scenes=3,
        num_probe_scenes=6,
        timesteps=[1, 281],
        mask_counts=[3, 6],
        num_masks=5,
        ensemble_size=2,
    ),
    "03_difference_maps": dict(
        scene_seed=12,
        num_scenes=2,
        modulation_strength=3.0,
        modulation_timestep=81,
        strengths=[1.0, 5.0],
        timesteps=[41, 81],
    ),
    "05_ablations": dict(num_scenes=2, sweep_names=["attention_injection"]),
    "06_evaluation": dict(
        limit=2,
        fit_limit=1,
        num_masks=4,
        settings={"modulation_timestep": 41},
        methods=["EmerDiff", "EmerDiff fast", "bilinear (SD)", "random walker", "DiffSeg"],
    ),
    "07_small_objects_and_boundaries": dict(num_scenes=2, num_masks=4, more_masks=6),
    "08_domain_shift": dict(
        num_scenes=1,
        num_masks=4,
        shifts=["line drawing", "unseen objects"],
        settings={"modulation_timestep": 41},
    ),
    "09_efficiency": dict(
        num_masks=3,
        modulation_timestep=41,
        repeats=1,
        num_scenes=1,
        mask_counts=[2, 4],
        resolutions=[64, 128],
        timesteps=[21, 41],
        stable_diffusion=False,
    ),
    "04_segmentation": dict(
        image="toyscapes:3-4", num_masks=4, modulation_timestep=81, output_difference_maps=True
    ),
}


# A quarter of an hour each, 05 more than an hour
LONG = (
    "05_ablations",
    "06_evaluation",
    "07_small_objects_and_boundaries",
    "08_domain_shift",
    "09_efficiency",
)


def run(name, folder, **parameters):
    if "output_dir" in papermill.inspect_notebook(FOLDER / f"{name}.ipynb"):
        parameters.setdefault("output_dir", str(folder / "results"))
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        FOLDER / f"{name}.ipynb", out, parameters, cwd=FOLDER, progress_bar=False, kernel_name="python3"
    )
    return out


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES]
)
def test_runs_with_its_defaults(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_runs_with_other_parameters(name, tmp_path):
    run(name, tmp_path, **OTHER[name])
    if name == "04_segmentation":
        for seed in (3, 4):
            results = tmp_path / "results" / f"toyscapes-{seed:06}"
            record = json.loads((results / "settings.json").read_text())
            assert record["settings"]["num_masks"] == 4 and sum(record["pixels_per_mask"]) == 128 * 128
            labels = np.asarray(Image.open(results / "labels.png"))
            assert labels.shape == (128, 128) and labels.max() < 4 and (results / "overlay.png").exists()
            tensors = load_file(results / "masks.safetensors")
            assert tensors["coarse_masks"].shape == (4, 16, 16) and tensors["difference_maps"].shape == (
                4,
                128,
                128,
            )


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_executed_with_described_parameters(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and any(cell.outputs for cell in code)
    assert not any(
        output.output_type in ("error",) or output.get("name") == "stderr"
        for cell in code
        for output in cell.outputs
    )
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    for parameter in papermill.inspect_notebook(FOLDER / f"{name}.ipynb").values():
        assert parameter["inferred_type_name"] != "None" and parameter["help"], parameter["name"]


def test_a_folder_with_a_bad_file_is_done_and_kept(tmp_path, pipe, scene):
    from emerdiff_lib.batch import find_images, segment_all

    (tmp_path / "in" / "deeper").mkdir(parents=True)
    scene.image.resize((96, 64)).save(tmp_path / "in" / "deeper" / "good.jpg")
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    sources = find_images(tmp_path / "in")
    quick = dict(num_masks=2, modulation_timestep=21)
    first = {s.name: status for s, _, status in segment_all(pipe, sources, tmp_path / "out", **quick)}
    again = {s.name: status for s, _, status in segment_all(pipe, sources, tmp_path / "out", **quick)}
    changed = {
        s.name: status for s, _, status in segment_all(pipe, sources, tmp_path / "out", seed=1, **quick)
    }
    assert first["deeper__good"] == changed["deeper__good"] == "done" and again["deeper__good"] == "kept"
    (kept,) = [
        output
        for _, output, status in segment_all(pipe, sources, tmp_path / "out", seed=1, **quick)
        if status == "kept"
    ]
    fresh = pipe(tmp_path / "in" / "deeper" / "good.jpg", generator=seeded(1), **quick)
    for key in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "settings"):
        assert np.array_equal(kept[key], fresh[key]), key
    assert "is no image" in first["bad"] and np.asarray(
        Image.open(tmp_path / "out" / "deeper__good" / "labels.png")
    ).shape == (64, 96)
    for spec, error in (
        (tmp_path / "out" / "nothing", FileNotFoundError),
        ("toyscapes:9-3", ValueError),
        ("toyscapes:900000", ValueError),
    ):
        with pytest.raises(error):
            find_images(spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in"):
        find_images(tmp_path / "empty")
