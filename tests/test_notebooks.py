"""Every notebook runs headless: on a tiny Stable Diffusion, with its own model where that shows more; and says what is wrong.

The tiny model is a random checkpoint of Stable Diffusion 1.x's layout, as a user would have one on disk.
"""

import ast
import json
import re
import shlex
from functools import partial
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from safetensors.numpy import load_file

from emerdiff_lib import Toyscapes
from emerdiff_lib.benchmark.front import VARIANTS
from emerdiff_lib.datasets.images import find_images, one_image
from emerdiff_lib.runs.notebook import check_parameters
from emerdiff_lib.studies import comparison, names
from emerdiff_lib.toyscapes.shifts import SHIFTS

from . import tiny_stable_diffusion, tiny_transformers

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
# Small values for whatever a notebook has a parameter of that name for, on the tiny checkpoint's schedule of 10 steps
TINY = dict(
    image="toyscapes:3",
    num_scenes=2,
    num_probe_scenes=6,
    limit=2,
    fit_limit=1,
    left_out=["car"],
    layer_scenes=2,
    width=64,
    num_masks=4,
    more_masks=6,
    mask_counts=[2, 4],
    candidates=[2, 4],
    ensemble_size=2,
    modulation_timestep=101,
    timesteps=[101, 201],
    strengths=[1.0, 5.0],
    resolutions=[128],
    repeats=1,
    stable_diffusion=False,
    sweep_names=["attention_injection"],
    shifts=["line drawing"],
    methods=[names.EMERDIFF, names.EMERDIFF_PIXEL, names.QUERIES_BOTH, names.BILINEAR],
    variants=["6 steps", "2 steps, one-sided, guided", names.EMERDIFF_PIXEL],
)


def parameters_of(name):
    return papermill.inspect_notebook(FOLDER / f"{name}.ipynb")


def small_parameters(name, model):
    """A notebook's parameters of :data:`TINY`, with a model or a list of one."""
    known = parameters_of(name)
    given = {"models": [str(model)]} if "models" in known else {"model": str(model)}
    return given | {key: value for key, value in TINY.items() if key in known}


def run(name, folder, **parameters):
    if "output_dir" in parameters_of(name):
        parameters.setdefault("output_dir", str(folder / "results"))
    out, how = folder / f"{name}.ipynb", {"progress_bar": False, "kernel_name": "python3"}
    papermill.execute_notebook(FOLDER / f"{name}.ipynb", out, parameters, cwd=FOLDER, **how)
    return out


def printed(path):
    """All text that a notebook's cells put out."""
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/markdown", "") for o in outputs)


@pytest.mark.slow  # 01 to 03 take minutes, the others a quarter of an hour each, 05 more than an hour
@pytest.mark.parametrize("name", NAMES)
def test_runs_with_its_defaults(name, tmp_path):
    run(name, tmp_path)


def test_segmentation_with_its_own_model(tmp_path):
    more = {"denoising_steps": 2, "one_sided": True, "filter_sigma": 0.0, "guide_radius": 1.5}
    given = {"image": "toyscapes:3-4", "num_masks": 4, "modulation_timestep": 81, "settings": more}
    kept = {"output_difference_maps": True, "formats": ["palette", "coco", "table"]}
    run("05_segmentation", tmp_path, **given, **kept, points=[[40, 60], [10, 10]])
    for seed in (3, 4):
        (results,) = (tmp_path / "results").glob(f"toyscapes-{seed:06}-*")
        record = json.loads((results / "settings.json").read_text())
        assert record["settings"]["denoising_steps"] == 2 and record["settings"]["guide_radius"] == 1.5
        assert record["settings"]["num_masks"] == 4 and sum(record["pixels_per_mask"]) == 128 * 128
        labels = np.asarray(Image.open(results / "labels.png"))
        assert labels.shape == (128, 128) and labels.max() < 4 and (results / "overlay.png").exists()
        tensors = load_file(results / "masks.safetensors")
        assert tensors["coarse_masks"].shape == (4, 16, 16)
        assert tensors["difference_maps"].shape == (4, 128, 128)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that brings its own defaults: pictures of 128 × 128 pixels, which are 4 × 4 cells, and 10 steps."""
    folder = tmp_path_factory.mktemp("tiny") / "stable-diffusion"
    own = dict(processing_resolution=128, num_inference_steps=10, num_masks=4)
    return tiny_stable_diffusion.save(folder, **own)


def partly_labelled(folder):
    """Two scenes as a data set of one's own; a stripe of each is void."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(Toyscapes.coarse_class_names))
    for seed in (3, 4):
        scene = Toyscapes.from_seed(seed)
        scene.image.save(folder / "images" / f"{seed}.png")
        labels = np.concatenate([np.full((8, 128), 255, np.uint8), scene.coarse_labels[8:]])
        Image.fromarray(labels).save(folder / "labels" / f"{seed}.png")
    return str(folder)


@pytest.mark.parametrize("name", [*(n for n in NAMES if n[:2] != "05"), "15_photographs without Berkeley"])
def test_runs_with_a_stable_diffusion(name, tiny, tmp_path, berkeley):
    name, _, left_out = name.partition(" without ")
    less = {"04_inversion": {"num_scenes": 0}, "14_open_vocabulary": {"limit": 1}}
    less["06_evaluation"] = {"workers": 2, "dataset": "folder", "root": partly_labelled(tmp_path / "mine")}
    given = small_parameters(name, tiny) | less.get(name, {})
    if name == "15_photographs" and not left_out:
        given |= {"berkeley": str(berkeley)}
    if "models" in given:  # whose layers are gone through is the first with joint attention
        given["models"] += ["toyscapes-transformer", "untrained"]
        given["settings"] = {"noise_ensemble_size": 1, "denoising_steps": 2}
    figures, overview = tmp_path / "figures", tmp_path / "overview.png"
    if name == "00_start_here":
        given |= {"figure": str(overview), "figures_dir": str(figures)}
    out = run(name, tmp_path, **given)
    assert "up_blocks.2" not in printed(out)  # no name of Toyscapes' layers
    assert "nan" not in re.findall(r"[\w.]+", printed(out))
    if name == "06_evaluation":
        assert "in 2 of the 2 label maps, 6.2% of pixels ignored" in printed(out)
    if name == "15_photographs" and not left_out:
        assert "in points, 1 photographs" in printed(out) and "the library: " in printed(out)
    if name == "00_start_here":
        assert Image.open(overview).width > 1000 and list(figures.glob("00-*.pdf"))


def test_a_folder_with_bad_images_is_reported_to_the_end(tmp_path, tiny, capfd):
    """The good one is there, the others are named; names are text; a terminal shows the run's progress."""
    folder, results = tmp_path / "in", tmp_path / "results"
    folder.mkdir()
    for name in ("a.png", "<b>.jpg"):
        (folder / name).write_bytes(b"nothing")
    Image.effect_noise((64, 48), 100).save(folder / "c.png")
    given = {"model": str(tiny), "modulation_timestep": 101, "num_masks": 4, "shard": "0/1"}
    said = printed(run("05_segmentation", tmp_path, image=str(folder), **given))
    assert "3 images: 0 kept, 1 computed, 2 failed" in said and "3 image(s), of which 2 failed" in said
    assert set(json.loads((results / "failures-0-of-1.json").read_text())) == {"a.png", "<b>.jpg"}
    assert "&#60;b&#62;&#46;jpg failed" in said and list(results.glob("c-*/labels.png"))
    assert "up_blocks.2" not in said
    assert "| 0/3 [" in capfd.readouterr().err
    assert json.loads((results / "progress-0-of-1.json").read_text()) == {"done": 3, "total": 3, "failed": 2}


OTHER_FAMILIES = {
    "00_start_here": "FLUX.1",
    "02_feature_clustering": "IF",
    "03_difference_maps": "Kandinsky 2.2",
    "04_inversion": "PixArt",
}


@pytest.mark.parametrize(("name", "layout"), OTHER_FAMILIES.items())
def test_runs_with_other_families_on_an_image_of_the_readers(name, layout, tmp_path, scene):
    """Joint attention to text or to an image's tokens, a flow, cross-attention without levels, no VAE; the image is not square
    and has no truth, which is said."""
    small = {"IF": 16, "Kandinsky 2.2": 128}
    own = dict(num_inference_steps=10, num_masks=4, processing_resolution=small.get(layout, 64))
    make = partial(tiny_stable_diffusion.save, sample_size=16) if layout in small else tiny_transformers.save
    folder = make(tmp_path / "model", layout=layout, **own)
    scene.image.crop((0, 16, 128, 112)).save(tmp_path / "photo.png")
    given = small_parameters(name, folder) | {"image": str(tmp_path / "photo.png")}
    out = run(name, tmp_path, **given | ({"num_scenes": 0} if "num_scenes" in given else {}))
    assert layout in small or "up_blocks" not in printed(out)
    assert "ground truth" in printed(out) or name == "04_inversion"  # which needs none


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_executed_with_described_parameters(name):
    raw = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    nbformat.validate(raw)
    notebook = nbformat.from_dict(raw)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and any(cell.outputs for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    said = "".join("".join(one.get("text", "")) for one in outputs)
    assert not re.search(r"(^|\s)/\w+/", said)  # paths of a machine
    figures = [cell for cell in code if any("image/png" in one.get("data", {}) for one in cell.outputs)]
    assert all(len(cell.metadata["mystnb"]["image"]["alt"]) > 20 for cell in figures)  # the book's alt texts
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    for parameter in parameters_of(name).values():
        assert parameter["inferred_type_name"] != "None" and parameter["help"], parameter["name"]


@pytest.mark.parametrize(
    "name, parameter, there",
    [
        ("06_evaluation", "methods", set(comparison.ALL_METHODS) - {names.BACKBONE}),
        ("09_domain_shift", "shifts", set(SHIFTS)),
        ("11_efficiency", "variants", set(VARIANTS)),
    ],
)
def test_help_lists_every_name_that_there_is(name, parameter, there):
    assert set(ast.literal_eval(parameters_of(name)[parameter]["default"])) == there


SEGMENT, EVALUATION = "05_segmentation", "06_evaluation"
LOST, MODELS, MASKS = "08_small_objects_and_boundaries", "13_cross_model", "12_how_many_masks"


def first_cells(name, **injected):
    """The exception that a notebook's cells up to the one that loads the model end in, as papermill would run them."""
    cells = [cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    given = "# Parameters\n" + "".join(f"{key} = {value!r}\n" for key, value in injected.items())
    shell = InteractiveShell(user_ns={})
    with torch.enable_grad(), matplotlib.rc_context():  # what the cells set for their process ends with them
        for source in [cells[0].source, given, *(cell.source for cell in cells[1:3])]:
            if error := shell.run_cell(source, store_history=True).error_in_exec:
                return error
            if "load_pipeline(" in source:
                return None
    return None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "01_from_scratch"])  # without the library
def test_an_unknown_parameter_is_named_by_every_notebook(name):
    error = first_cells(name, num_mask=3)
    assert isinstance(error, ValueError) and str(error).startswith("There is no parameter 'num_mask'")


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (SEGMENT, {"num_masks": 0}, "num_masks=0 is not possible; it is a whole number of at least 1."),
        (SEGMENT, {"num_masks": 4, "settings": {"num_masks": 3}}, "num_masks is given twice, as 4 and in …"),
        (SEGMENT, {"image": "toyscapes:-5"}, "There is no image at toyscapes:-5; …"),
        (SEGMENT, {"settings": {1: 2}}, "setting=1 is unknown; …"),
        (SEGMENT, {"points": [[1, 2], [3]]}, "points has [3], …"),
        ("02_feature_clustering", {"num_scenes": 5000}, "num_scenes=5000 is not possible; … from 0 to 1000."),
        (EVALUATION, {"methods": ["EmerDif"]}, "method='EmerDif' is unknown (did you mean 'EmerDiff'?); …"),
        (EVALUATION, {"methods": ["backbone k-means"]}, '"backbone k-means" needs a backbone: …'),
        (EVALUATION, {"dataset_options": {"order": 1}}, "Data set 'toyscapes' has no option 'order'…"),
        (EVALUATION, {"settings": {"mode": "fast"}}, "settings cannot hold mode='fast': a study …"),
        (EVALUATION, {"fit_split": "trian"}, "…: fit_split='trian' is unknown (did you mean 'train'?); …"),
        (LOST, {"first_scene": 990, "num_scenes": 24}, "num_scenes=24 is not possible; … from 1 to 10."),
        (MODELS, {"models": ["untrained"]}, "…whose first is a model…"),
        (MODELS, {"models": ["toyscapes", "toyscapes"]}, "…named twice…"),
        (MASKS, {"candidates": [1, 2]}, "candidate=1 is not possible; it is a whole number of at least 2."),
        (MASKS, {"settings": {"num_parts": 20}}, "num_parts=20 is not possible here; leave num_parts out."),
    ],
)
def test_what_is_not_possible_is_one_sentence_before_anything_is_computed(name, given, sentence, capsys):
    error = first_cells(name, **given)
    assert isinstance(error, ValueError | OSError), error
    assert re.fullmatch(re.escape(sentence).replace("…", ".*"), str(error)), str(error)
    assert capsys.readouterr().out.strip().endswith(str(error))


def test_papermill_ends_in_the_same_sentence(tmp_path):
    with pytest.raises(PapermillExecutionError) as caught:
        run("05_segmentation", tmp_path, num_mask=3)
    shown = [line for line in str(caught.value).splitlines() if line.strip("- ")]
    assert len(shown) == 2 and shown[0].startswith("Exception encountered at")
    assert shown[1].startswith("ValueError: There is no parameter 'num_mask'")


def test_parameters_are_checked_against_the_cell_that_declares_them():
    declared = "# a comment\nsize: int = 3  # how large\nratio: float = None\nnumbers: list = [1, 2]\n"
    good = dict(size=3, ratio=None, numbers=[1, 2])

    def check(*cells, **values):
        before = ["", "import this", declared, *cells, "check_parameters(globals())"]
        check_parameters({"In": before, **good, **values})

    check()
    check("# Parameters\nsize = 4\nratio = 0.5", size=4, ratio=0.5)
    check("size = 4\nsizes = size + 1", size=4)  # a cell of the reader's own, not papermill's
    check_parameters({"In": ["", "%matplotlib inline"]})
    named = {"In": ["", 'image: str = "photo.jpg"\n'], "image": 2024}  # what papermill makes of -p image 2024
    assert check_parameters(named) and named["image"] == "2024"
    with pytest.raises(ValueError, match="no parameter 'sizes'.*did you mean 'size'"):
        check("# Parameters\nsizes = float('nan')")
    wrong = dict(size=[None, 1.0, True, -1, "3"], ratio=["half", float("nan"), -0.1])
    wrong |= dict(numbers=[3, "[1]", [], [0.5], ["a"]])
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name}.*is not possible; it is") as caught:
                check(**{name: value})
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="-y") as caught:  # what is suggested is an option in a shell
        check_parameters({"In": ["", """names: list = ["a's", "b"]\n"""], "names": "a"})
    option = shlex.split(str(caught.value).partition("papermill's")[2])[-1]
    assert yaml.safe_load(option) == {"names": ["a's", "b"]}


def test_what_an_image_parameter_may_name(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for spec, said in (
        (tmp_path / "nothing", "There is no image at"),
        ("toyscapes:9-3", "names no scenes"),
        ("toyscapes:900000", "names no scenes"),
        (tmp_path / "empty", "There is no image in"),
        ("", "is no folder"),
        ("toyscapes:" + "9" * 5000, "There is no image at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            one_image(spec)
    for name in ("b.png", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert (one_image(tmp_path).name, one_image("toyscapes:7-9").source) == ("a.png", 7)
    assert "names 2 images; a.png is the first" in capsys.readouterr().out
    several = [one.record for one in find_images(f"sample:cat, {tmp_path},toyscapes:7-8")]
    assert several == ["cat", "a.png", "b.png", "toyscapes-000007", "toyscapes-000008"]
    with pytest.raises(ValueError, match=r"names cat twice"):
        find_images("sample:cat,sample:all")
    Image.new("RGB", (8, 8)).save(tmp_path / "one, two.png")
    assert one_image(tmp_path / "one, two.png").name == "one, two.png"
