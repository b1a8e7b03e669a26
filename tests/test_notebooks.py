"""Every notebook runs headless: on a tiny Stable Diffusion, with its own model where that shows more; and says what is wrong.

The tiny model is a random checkpoint of Stable Diffusion 1.x's layout, as a user would have one on disk.
"""

import json
import re
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import papermill
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from safetensors.numpy import load_file

from emerdiff_lib.datasets.images import find_images, one_image
from emerdiff_lib.runs.notebook import check_parameters, merged_settings
from emerdiff_lib.studies import names

from . import tiny_stable_diffusion, tiny_transformers

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
ON_AN_IMAGE = [name for name in NAMES if name[:2] in ("00", "01", "02", "03")]  # 04: a whole folder, below
QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1}
# With its own model, where that shows what the tiny one cannot: truth that is found, files, workers, words, a CLIP
OWN_MODEL = {
    "00_start_here": dict(image="toyscapes:7", num_masks=5, seed=3),
    "04_segmentation": dict(
        image="toyscapes:3-4",
        num_masks=4,
        modulation_timestep=81,
        output_difference_maps=True,
        formats=["palette", "coco", "table"],
        points=[[40, 60], [10, 10]],
        settings={"denoising_steps": 2, "one_sided": True, "filter_sigma": 0.0, "guide_radius": 1.5},
    ),
    "06_evaluation": dict(
        limit=2,
        fit_limit=1,
        workers=2,
        num_masks=4,
        settings={"modulation_timestep": 41},
        methods=[names.EMERDIFF, names.EMERDIFF_FAST, names.BILINEAR, names.DIFFSEG],
    ),
    "10_cross_model": dict(
        models=["toyscapes-transformer", "untrained"],
        layer_scenes=2,
        image="toyscapes:3",
        num_scenes=1,
        num_masks=4,
        settings={"noise_ensemble_size": 1, "denoising_steps": 2},
    ),
    "11_words": dict(
        image="toyscapes:3",
        words=["road", "house", "tree"],
        limit=2,
        fit_limit=1,
        left_out=["car"],
        num_masks=4,
        settings=QUICK,
    ),
}
# Small values for whatever a notebook has a parameter of that name for, on the tiny checkpoint's schedule of 10 steps
TINY = dict(
    image="toyscapes:3",
    images=["toyscapes:3"],
    num_scenes=2,
    num_probe_scenes=6,
    limit=2,
    fit_limit=1,
    layer_scenes=2,
    object_limit=1,
    word_limit=1,
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
    methods=[names.EMERDIFF, names.BILINEAR, names.DIFFSEG],
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
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        FOLDER / f"{name}.ipynb", out, parameters, cwd=FOLDER, progress_bar=False, kernel_name="python3"
    )
    return out


def printed(path):
    """All text that a notebook's cells put out."""
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/markdown", "") for o in outputs)


@pytest.mark.slow  # 01 to 03 take minutes, the others a quarter of an hour each, 05 more than an hour
@pytest.mark.parametrize("name", NAMES)
def test_runs_with_its_defaults(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.parametrize("name", OWN_MODEL)
def test_runs_with_its_own_model(name, tmp_path):
    figures, overview = tmp_path / "figures", tmp_path / "overview.png"
    drawn = {"figure": str(overview)} if name == "00_start_here" else {}
    run(name, tmp_path, **OWN_MODEL[name], figures_dir=str(figures), **drawn)
    assert not drawn or Image.open(overview).width > 1000
    kept = sorted(figures.glob("*.pdf"))
    assert kept
    for pdf in kept:
        assert Image.open(pdf.with_suffix(".png")).width > 900
        assert pdf.with_suffix(".npz").exists() or pdf.with_suffix(".csv").exists()
    if name == "04_segmentation":
        for seed in (3, 4):
            results = tmp_path / "results" / f"toyscapes-{seed:06}"
            record = json.loads((results / "settings.json").read_text())
            assert record["settings"]["denoising_steps"] == 2 and record["settings"]["guide_radius"] == 1.5
            assert record["settings"]["num_masks"] == 4 and sum(record["pixels_per_mask"]) == 128 * 128
            labels = np.asarray(Image.open(results / "labels.png"))
            assert labels.shape == (128, 128) and labels.max() < 4 and (results / "overlay.png").exists()
            tensors = load_file(results / "masks.safetensors")
            assert tensors["coarse_masks"].shape == (4, 16, 16)
            assert tensors["difference_maps"].shape == (4, 128, 128)


def test_a_folder_with_bad_images_is_reported_to_the_end(tmp_path, tiny):
    """The good one is there, the others are named; names are text."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "<b>.jpg"):
        (tmp_path / "in" / name).write_bytes(b"nothing")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(
        tmp_path / "in" / "c.png"
    )
    given = {"model": str(tiny), "modulation_timestep": 101, "num_masks": 4, "workers": 2, "shard": "0/1"}
    said = printed(run("04_segmentation", tmp_path, image=str(tmp_path / "in"), **given))
    assert "3 images: 0 kept, 1 computed, 2 failed" in said and "3 image(s), of which 2 failed" in said
    assert set(json.loads((tmp_path / "results" / "failures-0-of-1.json").read_text())) == {
        "a.png",
        "<b>.jpg",
    }
    assert "&#60;b&#62;&#46;jpg failed" in said and (tmp_path / "results" / "c.png" / "labels.png").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that brings its own defaults: pictures of 128 × 128 pixels, which are 4 × 4 cells, and 10 steps."""
    folder = tmp_path_factory.mktemp("tiny") / "stable-diffusion"
    own = dict(processing_resolution=128, num_inference_steps=10, num_masks=4)
    return tiny_stable_diffusion.save(folder, **own)


def test_the_tiny_checkpoint_is_found_to_be_stable_diffusion(tiny, tmp_path):
    from emerdiff_lib import load_pipeline

    files = {str(file.relative_to(tiny)): file.stat().st_size for file in tiny.rglob("*") if file.is_file()}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt", "model_index.json"} < set(files)
    assert not any(name.endswith((".bin", ".pt")) for name in files) and sum(files.values()) < 60e6
    pipe = load_pipeline(tiny)
    assert pipe.vae_scale_factor == 8 and pipe.vae.config.latent_channels == 4
    settings = pipe.default_settings()
    assert settings["feature_layer"] == "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    assert settings["modulation_layer"] == "up_blocks.1.attentions.2.transformer_blocks.0.attn2"
    own = {"processing_resolution": 128, "num_inference_steps": 10, "num_masks": 4}
    assert own.items() <= settings.items() and settings["modulation_timestep"] == 301  # the nearest to 281
    published = tiny_stable_diffusion.save(tmp_path / "published")
    unet = json.loads((published / "unet" / "config.json").read_text())
    assert (
        unet["sample_size"] == 32
        and load_pipeline(published).default_settings()["processing_resolution"] == 256
    )


@pytest.mark.parametrize("name", NAMES)
def test_runs_with_a_stable_diffusion(name, tiny, tmp_path):
    given = small_parameters(name, tiny) | ({"num_scenes": 0} if name == "01_inversion" else {})
    if "models" in given:
        given["models"].append("untrained")
    out = run(name, tmp_path, **given)
    assert "up_blocks.2" not in printed(out)  # no name of Toyscapes' layers


@pytest.mark.parametrize("layout", ["Kandinsky 2.2", "IF"])
def test_runs_with_other_families(layout, tmp_path):
    """Joint attention to image tokens and text; conditioned on images, and without a VAE."""
    own = dict(num_inference_steps=10, num_masks=4, processing_resolution=16 if layout == "IF" else 128)
    folder = tiny_stable_diffusion.save(tmp_path / "model", 16, layout=layout, **own)
    run("02_feature_clustering", tmp_path, **small_parameters("02_feature_clustering", folder))


@pytest.mark.parametrize("name", [name for name in NAMES if name[:2] in ("00", "01", "02", "03", "04", "10")])
def test_runs_with_a_transformer(name, tmp_path):
    """Joint attention and a flow, or cross-attention without levels; no name of a U-Net's layers."""
    layout = "FLUX.1" if name[:2] in ("00", "02", "03") else "PixArt"
    own = dict(num_inference_steps=10, num_masks=4, processing_resolution=64)
    folder = tiny_transformers.save(tmp_path / "model", layout, **own)
    out = run(name, tmp_path, **small_parameters(name, folder))
    assert "up_blocks" not in printed(out)


@pytest.mark.parametrize("name", ON_AN_IMAGE)
def test_runs_on_an_image_of_the_readers(name, tiny, tmp_path, scene):
    """Not square, without truth: what needs truth says that it is skipped."""
    scene.image.crop((0, 16, 128, 112)).save(tmp_path / "photo.png")
    small = small_parameters(name, tiny) | {"image": str(tmp_path / "photo.png")}
    out = run(name, tmp_path, **small | ({"num_scenes": 0} if "num_scenes" in small else {}))
    assert "ground truth" in printed(out) or name == "01_inversion"  # which needs none


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
    for parameter in parameters_of(name).values():
        assert parameter["inferred_type_name"] != "None" and parameter["help"], parameter["name"]


def test_03_says_what_its_numbers_say():
    """Its paragraph on leaking and losing is written by hand, for the run with the defaults."""
    said = printed(FOLDER / "03_difference_maps.ipynb")
    best = re.search(r"Best t_m: (\d+) for the share inside, .*, (\d+) for the boundaries", said)
    assert best and int(best[1]) == 81 < int(best[2])  # inside is highest where it is worst
    change = {m: (int(a), int(b)) for m, a, b in re.findall(r"([a-z][a-z ]*) (\d+)% → (\d+)%", said)}
    for measure in ("share inside", "in cells"):
        assert change[measure][0] > change[measure][1]
    first, last = change["won beyond the cells"]
    assert 60 <= first <= 66 and last > first  # more than a third go to others; the response spreads
    small = re.search(r"Won by small .*: (\d+)% at 81, (\d+)% at 481", said)
    assert small and int(small[1]) > int(small[2])  # small ones drown


# -- what is wrong is said in one sentence ----------------------------------------------------------------------------


def first_cells(name, **injected):
    """The exception that a notebook's cells up to the one that loads the model end in, as papermill would run them."""
    cells = [cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    given = "# Parameters\n" + "".join(f"{key} = {value!r}\n" for key, value in injected.items())
    shell = InteractiveShell(user_ns={})
    with (
        torch.enable_grad(),
        matplotlib.rc_context(),
    ):  # what the cells set for their own process ends with them
        for source in [cells[0].source, given, *(cell.source for cell in cells[1:3])]:
            if error := shell.run_cell(source, store_history=True).error_in_exec:
                return error
            if "load_pipeline(" in source:
                return None
    return None


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_named_by_every_notebook(name):
    error = first_cells(name, num_mask=3)
    assert isinstance(error, ValueError) and str(error).startswith("There is no parameter 'num_mask'")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"num_mask": 3},
            r"There is no parameter 'num_mask' \(did you mean 'num_masks'\?\); this notebook has image, .*",
        ),
        (
            {"num_masks": "twelve"},
            r"num_masks='twelve' is not possible; it is a whole number of at least 0\.",
        ),
        ({"num_masks": 0}, r"num_masks=0 is not possible; it is a whole number of at least 1\."),
        (
            {"modulation_strength": "ten"},
            r"modulation_strength='ten' is not possible; it is a finite number .*",
        ),
        ({"attention_injection": "no"}, r"attention_injection='no' is not possible; it is True or False\."),
        (
            {"settings": "fast"},
            r"settings='fast' is not possible; it is a dict, as .* -y 'settings: {\"guide_radius\": 1.5}'\.",
        ),
        (
            {"settings": {"one_side": True}},
            r"setting='one_side' is unknown \(did you mean 'one_sided'\?\); .*",
        ),
        (
            {"settings": {"num_masks": 3}, "num_masks": 4},
            r"num_masks is given twice, as 4 and in settings as 3; .*",
        ),
        ({"dtype": "fp16"}, r"dtype='fp16' is unknown; choose one of 'float32', 'bfloat16', 'float16'\."),
        ({"device": "gpu"}, r"device='gpu' cannot be used here .*"),
        ({"device": "cuda"}, r"device='cuda' cannot be used here .*"),
        ({"image": "toyscapes:-5"}, r"There is no image at toyscapes:-5; .*"),
        ({"model": "nowhere"}, r"There is no model 'nowhere'; .*"),
    ],
)
def test_a_wrong_parameter_ends_in_one_sentence(given, sentence, capsys):
    if given.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    error = first_cells("04_segmentation", **given)
    assert isinstance(error, ValueError | OSError)
    assert re.fullmatch(sentence, str(error)), str(error)
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"{type(error).__name__}: {error}"


def test_papermill_ends_in_the_same_sentence(tmp_path):
    with pytest.raises(PapermillExecutionError) as caught:
        run("04_segmentation", tmp_path, num_mask=3)
    shown = [line for line in str(caught.value).splitlines() if line.strip("- ")]
    assert len(shown) == 2 and shown[0].startswith("Exception encountered at")
    assert shown[1].startswith("ValueError: There is no parameter 'num_mask'")


def test_parameters_are_checked_against_the_cell_that_declares_them():
    declared = """# a comment
size: int = 3  # how large
ratio: float = None
name: str = "a"
on: bool = False
numbers: list = [1, 2]
words: list = []
more: dict = {}
"""
    good = dict(size=3, ratio=None, name="a", on=False, numbers=[1, 2], words=[], more={})

    def check(*cells, **values):
        check_parameters(
            {"In": ["", "import this", declared, *cells, "check_parameters(globals())"], **good, **values}
        )

    check()
    check("# Parameters\nsize = 4\nratio = 0.5\nwords = ['b']", size=4, ratio=0.5, words=["b"])
    check("size = 4\nsizes = size + 1", size=4)  # a cell of the reader's own, not papermill's
    check_parameters({"In": ["", "%matplotlib inline"]})
    for cell, wrong in (
        ("# Parameters\nsizes = 4", "sizes"),
        ("# Parameters\nsizes = float('nan')", "sizes"),
    ):
        with pytest.raises(ValueError, match=f"no parameter '{wrong}'.*did you mean 'size'"):
            check(cell)
    wrong = dict(
        size=[None, 1.0, True, -1, "3"],
        ratio=["half", float("nan"), -0.1],
        name=[None, 3],
        on=[1, "no", None],
    )
    wrong |= dict(numbers=[3, "[1]", [], [0.5], ["a"]], words=["a", None], more=[[], "{}", None])
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name}.*is not possible; it is") as caught:
                check(**{name: value})
            assert "\n" not in str(caught.value)


def test_settings_are_given_once_and_an_image_is_one(tmp_path):
    merged = merged_settings({"num_masks": None, "mode": "fast"}, {"num_masks": 3})
    assert merged == {"mode": "fast", "num_masks": 3}
    with pytest.raises(ValueError, match="mode is given twice"):
        merged_settings({"mode": "fast"}, {"mode": "exact"})
    sample = one_image("toyscapes:7")
    assert sample.scene.seed == 7 and sample.image == sample.scene.image
    Image.new("RGB", (5, 4)).save(tmp_path / "mine.png")
    mine = one_image(str(tmp_path / "mine.png"))
    assert mine.scene is None and mine.name == "mine.png" and mine.image.size == (5, 4)
    with pytest.raises(ValueError, match="names 3 images and this notebook looks at one"):
        one_image("toyscapes:7-9")


def test_what_an_image_parameter_may_name(tmp_path):
    assert [sample.seed for sample in find_images("toyscapes:3-5")] == [3, 4, 5]
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
            find_images(spec)
