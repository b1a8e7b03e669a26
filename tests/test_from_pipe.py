"""A diffusers pipeline that the user has in memory, whatever was done to it: used as it is, and left as it was."""

import threading

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from diffusers import FluxPipeline, StableDiffusionPipeline
from diffusers.models import attention_dispatch

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.loading import TOYSCAPES_FOLDER, quietly
from emerdiff_lib.words import word_attention

from . import tiny_transformers
from .conftest import refusal, seeded

QUICK = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1}
MODES = {"exact": {}, "pixel": {"mode": "pixel", "num_parts": 12}}
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


def in_memory():
    with quietly():
        pipe = StableDiffusionPipeline.from_pretrained(TOYSCAPES_FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def theirs():
    return in_memory()


@pytest.fixture(scope="module")
def expected(pipe, scene):
    """Labels of the bundled model by its name, in every mode."""
    return {mode: labels(pipe, scene, **settings) for mode, settings in MODES.items()}


def labels(pipe, scene, seed=0, **settings):
    if not isinstance(pipe, EmerDiffPipeline):
        pipe = EmerDiffPipeline.from_pipe(pipe)
    return pipe(scene.image, generator=seeded(seed), **(QUICK | settings)).labels


def draw(pipe):
    return pipe("a road", num_inference_steps=2, generator=seeded(), output_type="np").images


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("mode", MODES)
def test_labels_are_those_of_the_model_by_its_name(theirs, scene, expected, mode):
    assert np.array_equal(labels(theirs, scene, **MODES[mode]), expected[mode])
    assert not any(parameter.grad is not None for parameter in theirs.unet.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_stages_keep_no_gradients_and_drop_nothing_out(theirs, scene, mode):
    """diffusers leaves its networks trainable, a training in its mode: a graph of all steps would fill the memory."""
    for module in theirs.unet.train().modules():
        vars(module).update({"p": 0.5} if isinstance(module, torch.nn.Dropout) else {})
    pipe, enabled = EmerDiffPipeline.from_pipe(theirs, prompt="a road"), []
    theirs.unet.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    trajectory = pipe.invert(scene.image, start_timestep=281, generator=(generator := seeded()))
    coarse = pipe.cluster(trajectory, generator=generator, **QUICK | MODES[mode])
    assert (pipe.replay(trajectory) - trajectory.clean_latents).abs().max() < 1e-4
    pipe.assign(pipe.respond(coarse))
    assert theirs.unet.training and enabled and not any(enabled) and trajectory.prompt == "a road"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pipeline_is_left_as_it_was(theirs, scene, dtype):
    theirs.to(dtype)
    theirs.unet.to(memory_format=torch.channels_last)
    theirs.vae.requires_grad_(False)
    networks = (theirs.unet, theirs.vae, theirs.text_encoder)

    def state():
        parameters = [p for network in networks for p in network.parameters()]
        kinds = [(id(p), p.requires_grad, p.dtype, p.device, p.stride(), p._version) for p in parameters]
        processors = {name: id(processor) for name, processor in theirs.unet.attn_processors.items()}
        modes = [m.training for network in networks for m in network.modules()]
        return kinds, processors, modes, [hooks(n) for n in networks], dict(theirs.config), dict(vars(theirs))

    image, before = draw(theirs), state()
    assert image.shape == (1, 128, 128, 3) and image.std() > 0.02
    for settings in MODES.values():
        labels(theirs, scene, **settings)
    assert state() == before
    assert np.array_equal(draw(theirs), image)


@pytest.mark.parametrize("shared", [True, False])
def test_two_threads_get_the_labels_of_single_calls(theirs, scene, shared):
    one, other = EmerDiffPipeline.from_pipe(theirs), EmerDiffPipeline.from_pipe(theirs)
    pipes = [one, one if shared else other]
    calls = [{"seed": 0, "num_masks": 4}, {"seed": 1, **MODES["pixel"]}]
    alone = [labels(pipe, scene, **call) for pipe, call in zip(pipes, calls, strict=True)]
    together, start = [None, None], threading.Barrier(2)

    def work(i):
        start.wait(60)
        together[i] = labels(pipes[i], scene, **calls[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(np.array_equal, together, alone))


@pytest.mark.parametrize("call", [0, 1, 3])
def test_an_interruption_leaves_no_hook_and_no_lock(theirs, scene, expected, call):
    calls = iter(range(100))

    def interrupt(*_):
        if next(calls) == call:
            raise KeyboardInterrupt

    handle = theirs.unet.up_blocks[2].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        labels(theirs, scene)
    handle.remove()
    assert hooks(theirs.unet) == 0
    after = []
    thread = threading.Thread(target=lambda: after.append(labels(theirs, scene)))
    thread.start()
    thread.join()
    assert np.array_equal(after[0], expected["exact"])


COMPILED = {
    "torch.compile(unet)": lambda pipe: setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager")),
    "unet.compile": lambda pipe: pipe.unet.compile(backend="eager"),
    "blocks": lambda pipe: pipe.unet.compile_repeated_blocks(backend="eager"),
}


@pytest.mark.parametrize("how", COMPILED)
def test_a_compiled_network_is_run_as_written(theirs, scene, expected, how):
    """Graphs of before know no hook, and must serve drawing again afterwards."""
    COMPILED[how](theirs)
    image = draw(theirs)
    assert np.array_equal(labels(theirs, scene), expected["exact"])
    assert np.array_equal(draw(theirs), image)


def test_offloaded_weights_are_fetched(theirs, scene, expected, tmp_path):
    theirs.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(labels(theirs, scene), expected["exact"])
    other = in_memory()  # what enable_sequential_cpu_offload does, for which accelerate wants a second device
    for name in ("unet", "vae", "text_encoder"):
        disk_offload(getattr(other, name), tmp_path / name, torch.device("cpu"))
    assert next(other.unet.parameters()).is_meta
    assert np.array_equal(labels(other, scene), expected["exact"])
    assert next(other.unet.parameters()).is_meta


def test_a_lora_changes_labels_and_is_honoured(theirs, scene, expected):
    """Labels with it are those of weights that it was merged into."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=PROJECTIONS)
    theirs.unet.add_adapter(lora)
    adapted = labels(theirs, scene)
    assert (adapted == expected["exact"]).mean() < 0.9
    theirs.unet.disable_adapters()
    assert np.array_equal(labels(theirs, scene), expected["exact"])
    theirs.unet.enable_adapters()
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    assert (labels(theirs, scene) == adapted).mean() > 0.99


class Int8Linear(torch.nn.Module):
    """What quantisation puts in a linear layer's place: weights of a byte, and a scale for each row."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("scale", linear.weight.detach().abs().amax(1, keepdim=True) / 127)
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight * self.scale, self.bias)


@pytest.mark.parametrize("mode", MODES)
def test_quantised_linears_are_modulated_as_others(theirs, scene, expected, mode):
    """Labels are those of a network that has the rounded weights as numbers."""
    rounded = in_memory()
    for name, linear in [(n, m) for n, m in theirs.unet.named_modules() if type(m) is torch.nn.Linear]:
        quantised = Int8Linear(linear)
        theirs.unet.set_submodule(name, quantised)
        rounded.unet.get_submodule(name).weight.data = quantised.weight * quantised.scale
    found = labels(theirs, scene, **MODES[mode])
    assert np.array_equal(found, labels(rounded, scene, **MODES[mode]))
    assert not np.array_equal(found, expected[mode]) and hooks(theirs.unet) == 0


@pytest.mark.filterwarnings("ignore")
# the second is no F.scaled_dot_product_attention
@pytest.mark.parametrize("backend", ["_native_math", "flex"])
def test_another_attention_backend_gives_the_same_responses(tmp_path, scene, backend, monkeypatch):
    registry = attention_dispatch._AttentionBackendRegistry  # which diffusers changes for all networks
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)
    flux = FluxPipeline.from_pretrained(tiny_transformers.save(tmp_path, "FLUX.1"))
    keep = {"num_inference_steps": 10, "processing_resolution": 64, "output_difference_maps": True}
    found = lambda: EmerDiffPipeline.from_pipe(flux)(scene.image, 3, generator=seeded(), **keep)
    maps = lambda: found().difference_maps
    usual = maps()
    flux.transformer.set_attention_backend(backend)
    np.testing.assert_allclose(maps(), usual, atol=1e-4)


def test_an_ip_adapter_is_given_no_image(theirs, scene, expected):
    """A random one: switched off it changes nothing, and switched on something."""
    unet, generator = theirs.unet, seeded()
    width, random = unet.config.cross_attention_dim, lambda *size: torch.randn(*size, generator=generator)
    projection = {"proj.weight": random(4 * width, 32), "proj.bias": random(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    heads = {
        f"{2 * i + 1}.to_{kind}_ip.weight": random(unet.get_submodule(n[:-10]).to_k.out_features, width)
        for i, n in enumerate(layers)
        for kind in "kv"
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": heads}])
    theirs.set_ip_adapter_scale(0.0)
    assert np.array_equal(labels(theirs, scene), expected["exact"])
    theirs.set_ip_adapter_scale(1.0)
    assert (labels(theirs, scene) != expected["exact"]).any()


def test_fused_projections_are_refused_in_one_sentence(theirs, scene, expected):
    theirs.fuse_qkv_projections()
    assert "undo fuse_qkv_projections()" in refusal(lambda: labels(theirs, scene))
    theirs.unfuse_qkv_projections()
    assert np.array_equal(labels(theirs, scene), expected["exact"])


class OwnProcessor:
    """Calls the projections, and attends in its own way."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        tokens = attn.to_q(hidden_states), attn.to_k(others), attn.to_v(others)
        query, key, value = map(attn.head_to_batch_dim, tokens)
        attended = attn.batch_to_head_dim(attn.get_attention_scores(query, key) @ value)
        return attn.to_out[1](attn.to_out[0](attended))


def test_an_attention_processor_of_the_user_s_own_is_injected_into(theirs, scene, pipe):
    theirs.unet.set_attn_processor(OwnProcessor())
    keep = QUICK | {"output_difference_maps": True}
    maps = lambda model, **other: model(scene.image, generator=seeded(), **keep, **other).difference_maps
    usual, other = maps(pipe), maps(EmerDiffPipeline.from_pipe(theirs))
    np.testing.assert_allclose(other, usual, atol=1e-3)
    without = maps(EmerDiffPipeline.from_pipe(theirs), attention_injection=False)
    assert np.abs(without - usual).max() > 10 * np.abs(other - usual).max()


def test_autocast_is_the_user_s(theirs, scene, expected):
    masks = EmerDiffPipeline.from_pipe(theirs)(scene.image, generator=seeded(0), **QUICK).coarse_masks
    seen = []  # masks are given, as k-means of rounded queries may end elsewhere on another processor
    handle = theirs.unet.conv_in.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        half = labels(theirs, scene, coarse_masks=masks)
    handle.remove()
    assert set(seen) == {torch.bfloat16} and (half == expected["exact"]).mean() > 0.95


def test_attention_in_slices_keeps_the_labels(theirs, scene, expected):
    theirs.enable_attention_slicing()
    assert (labels(theirs, scene) == expected["exact"]).mean() > 0.999
    pipe = EmerDiffPipeline.from_pipe(theirs)
    reads = lambda: word_attention(pipe.predictor(), torch.zeros(1, 8, 32, 32), 281, pipe.backbone.layers())
    assert "undo enable_attention_slicing()" in refusal(reads)
