"""Train a small CLIP on pictures and captions alone: ``python -m emerdiff_lib.train.clip --output runs/clip``.

A ``transformers`` ``CLIPModel`` whose patches are the cells that EmerDiff's masks are made of, so that notebook 11 has a real
text-aligned model. Two losses: CLIP's own contrast, of pictures and random parts of captions (every picture whose caption
holds all of that part counts as a match); and, as few words name most of these pictures and a contrast of whole pictures
does not say where, one on places: a phrase's best patches tell whether the caption holds it (multiple instances, much as
CLIPpy's maximum, arXiv 2210.09996). Both see captions alone. Resumes after a kill.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from ..files import write_atomically
from ..settings import whole
from ..words import value_path
from . import architecture
from .packaging import weights_for
from .sources import FolderCrops, Source, ToyscapesScenes, epoch_of, to_model_range
from .stage import Stage, keep_run, same_run

BEGINNING, AND = "a picture of ", " and "  # of a caption, and between the things that it names
# What a run that goes on must have in common with its beginning
_FIXED = ("images", "size", "patch", "num_scenes", "batch_size", "places", "init_from", "seed")
SMALL_WORDS = frozenset(["a", "an", "the", "at", "in", "of", "on", "with", "and"])  # that name nothing
BEST_PATCHES, PHRASES = 4, 96  # of a phrase in a picture; phrases in a step
HALF = [0.5, 0.5, 0.5]  # mean and deviation of pixels in [0, 1], which brings them to [−1, 1]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.train.clip",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--images",
        type=Path,
        nargs="+",
        help="folders of pictures with metadata.jsonl; none: Toyscapes scenes",
    )
    add("--output", type=Path, default=Path("runs/clip"), help="holds all that a run writes")
    add("--init-from", type=Path, help="folder of a CLIP of this trainer to go on from: fresh optimiser")
    add("--size", type=int, default=128, help="side of the pictures in pixels")
    add("--patch", type=int, default=8, help="side of a patch in pixels")
    add("--num-scenes", type=int, default=24_000, help="Toyscapes scenes, drawn once")
    add("--batch-size", type=int, default=96)
    add("--steps", type=int, default=4000)
    add("--places", type=float, default=10.0, help="weight of the loss on places, beside CLIP's own")
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup-steps", type=int, default=200)
    add("--cooldown", type=float, default=0.7, help="last share of the steps, in which the rate decays")
    add("--checkpoint-every", type=int, default=250)
    add("--mixed-precision", choices=("no", "bf16", "fp16"), default="bf16")
    add("--cpu", action="store_true", help="stay on the CPU even if there is a GPU")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def build_clip(size: int, patch: int, vocabulary_size: int) -> CLIPModel:
    """Six layers of 192 numbers for pictures, three of 128 for texts: 3 million parameters."""
    text = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=architecture.MAX_TOKENS,
        bos_token_id=1,
        eos_token_id=architecture.SPECIAL.index(architecture.END),
        pad_token_id=architecture.SPECIAL.index(architecture.END),
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=size,
        patch_size=patch,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    )


def parts_of(caption: str) -> list[str]:
    """What a caption names, thing by thing."""
    parts = caption.lower().removeprefix(BEGINNING).replace(",", AND).split(AND)
    return [part.strip() for part in parts if part.strip()]


def phrases_of(caption: str) -> set[str]:
    """The things that a caption names, and the words that it names them with."""
    parts = parts_of(caption)
    return {*parts, *(word for part in parts for word in part.split() if word not in SMALL_WORDS)}


def some_parts(caption: str, rng: random.Random) -> list[str]:
    """A random part of what a caption names, in its order: every second time one thing, else any number."""
    parts = parts_of(caption)
    if not parts:
        return []
    count = 1 if rng.random() < 0.5 else rng.randint(1, len(parts))
    return [parts[i] for i in sorted(rng.sample(range(len(parts)), count))]


class Phrases:
    """What an epoch's captions hold: (N, P) bool for the P phrases that at least ``least`` of the N captions have."""

    def __init__(
        self, captions: list[str], tokenizer: PreTrainedTokenizerFast, device: torch.device, least: int = 10
    ):
        self.captions = captions
        distinct = {caption: phrases_of(caption) for caption in captions}
        counts = Counter(phrase for caption in captions for phrase in distinct[caption])
        enough = min(least, max(counts.values()))  # so that there are some, of few captions
        self.names = sorted(phrase for phrase, n in counts.items() if n >= enough)
        number = {name: i for i, name in enumerate(self.names)}
        held = np.zeros((len(captions), len(self.names)), bool)
        for row, caption in enumerate(captions):
            held[row, [number[phrase] for phrase in distinct[caption] if phrase in number]] = True
        self.held = torch.from_numpy(held).to(device)
        self.odds = torch.logit(self.held.float().mean(0).clamp(1e-4, 1 - 1e-4))
        # words stand alone, things with their articles
        told = [f"a {name}" if " " not in name else name for name in self.names]
        self.tokens = architecture.tokenize(tokenizer, [BEGINNING + name for name in told]).to(device)


def matches(shown: list[list[str]], captions: list[str], device: torch.device | str = "cpu") -> torch.Tensor:
    """(N, N) float: rows sum to 1 over the pictures whose captions hold all that a text shows; a text's own always does."""
    held = [parts_of(caption) for caption in captions]
    number = {part: i for i, part in enumerate(sorted({part for parts in held for part in parts}))}

    def hot(rows: list[list[str]]) -> torch.Tensor:
        table = np.zeros((len(rows), len(number)), np.float32)
        for row, parts in enumerate(rows):
            table[row, [number[part] for part in parts]] = 1
        return torch.from_numpy(table).to(device)

    wanted = hot(shown)
    hits = (wanted @ hot(held).T >= wanted.sum(1, keepdim=True)).float()
    return hits / hits.sum(1, keepdim=True)


def presence(
    patches: torch.Tensor,
    phrases: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    odds: torch.Tensor,
    held: torch.Tensor,
) -> torch.Tensor:
    """Binary cross-entropy of whether a caption holds a phrase, from the mean fit of its best patches.

    Args:
        patches, phrases: (N, K, d) and (P, d) unit vectors; ``odds``: (P,) logits of how many captions hold each phrase;
            ``held``: (N, P), whether this one does.
    """
    fit = scale.exp() * torch.einsum("nkd,pd->npk", patches, phrases) - bias
    best = fit.topk(min(BEST_PATCHES, fit.shape[-1]), -1).values.mean(-1)
    return F.binary_cross_entropy_with_logits(best + odds, held.float())


def contrast(
    texts: torch.Tensor, pictures: torch.Tensor, scale: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of texts to pictures and of pictures to texts, whose matches may be several.

    Args:
        texts, pictures: (N, d) unit vectors; ``wanted``: from :func:`matches`.
    """
    logits = scale.exp() * texts @ pictures.T
    back = wanted.T / wanted.T.sum(1, keepdim=True).clamp(min=1e-12)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, back)) / 2


def train_clip(
    args: argparse.Namespace,
    accelerator: Accelerator,
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    source: Source,
) -> tuple[CLIPModel, Stage]:
    """Returns the averaged model in eval mode, and its stage."""
    bias = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(5.0))])
    stage = Stage("clip", args, accelerator, [model, bias], args.steps, args.learning_rate, 0.05)
    network, bias = stage.plain()
    device, table = accelerator.device, None

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        nonlocal table
        pictures, captions = source.epoch(epoch_of(step, args.batch_size, source))
        if table is None or table.captions is not captions:
            table = Phrases(captions, tokenizer, device)
        rng = random.Random(generator.initial_seed())
        rows = sorted(rng.choices(range(len(pictures)), k=args.batch_size))
        images = to_model_range(pictures[rows], device)
        images = images.flip(-1) if step % 2 else images
        own = [captions[row] for row in rows]
        shown = [some_parts(caption, rng) for caption in own]
        ids = architecture.tokenize(tokenizer, [BEGINNING + AND.join(text) for text in shown]).to(device)
        some = torch.randperm(len(table.names), generator=generator, device=device)[:PHRASES]
        with accelerator.autocast():
            patches, seen = value_path(network, images.contiguous())
            hidden = network.text_model(torch.cat([ids, table.tokens[some]])).pooler_output
            told = network.text_projection(hidden)
        patches, seen, told = (F.normalize(e.float(), dim=-1) for e in (patches, seen, told))
        texts, phrases = told.split([len(ids), len(some)])
        scale = network.logit_scale.clamp(max=4.6)  # 100, as in CLIP
        held = table.held[torch.tensor(rows, device=device)][:, some]
        where = presence(patches, phrases, scale, bias[0], table.odds[some], held)
        return contrast(texts, seen, scale, matches(shown, own, device)) + args.places * where

    def report(step: int, averaged: CLIPModel, _) -> None:
        export(args.output / "model", averaged, tokenizer)

    stage.run(loss_of_step, report)
    stage.ema.copy_to(stage.parameters)
    return network.eval(), stage


def load_clip(folder: Path, model: CLIPModel) -> None:
    """Copy an exported model's weights into a freshly built one.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are of another size, or of captions with more or fewer words.
    """
    path = folder / "model.safetensors"
    found, wrong = weights_for(model, path)
    if wrong:
        raise ValueError(
            f"{path} is of another architecture or vocabulary ({wrong[0]}); train from the beginning."
        )
    model.load_state_dict(found)


def export(folder: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder of fp16 safetensors that ``CLIPModel`` and :class:`~emerdiff_lib.words.MaskClip` load; returns it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = model.config.vision_config.image_size
    processing = {"image_mean": HALF, "image_std": HALF, "size": {"height": size, "width": size}}
    write_atomically(folder / "preprocessor_config.json", json.dumps(processing, indent=2) + "\n")
    config = folder / "config.json"  # float32 unless asked otherwise, as the diffusion model beside it
    write_atomically(
        config, json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n"
    )
    return folder


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    args.output = args.output.expanduser()
    whole(2)("--batch-size", args.batch_size), whole(1)("--steps", args.steps)
    if args.size % args.patch:
        raise ValueError(f"--patch={args.patch} does not divide --size={args.size}; choose 8 or 16.")
    if args.images is None and args.size != ToyscapesScenes.size:
        raise ValueError(
            f"--size={args.size} needs --images; Toyscapes scenes are {ToyscapesScenes.size} pixels wide."
        )
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=args.cpu)
    if accelerator.num_processes > 1:
        raise ValueError("This small CLIP is trained by one process; start it without `accelerate launch`.")
    now = {name: str(getattr(args, name)) for name in _FIXED}
    if same_run(args.output, now, now) is None:
        keep_run(args.output, now)
    torch.manual_seed(args.seed)
    with accelerator.main_process_first():
        source: Source = (
            ToyscapesScenes(args.output, args.num_scenes)
            if args.images is None
            else FolderCrops(args.images, size=args.size, zoom=0.7, seed=args.seed)
        )
    if not any(source.epoch(0)[1]):
        raise ValueError(
            "No picture has a caption; CLIP learns from them: write metadata.jsonl beside the pictures."
        )
    tokenizer = architecture.build_tokenizer(source.words, architecture.SPECIAL)
    model = build_clip(args.size, args.patch, len(tokenizer))
    if args.init_from is not None:
        load_clip(args.init_from.expanduser(), model)
    model, _ = train_clip(args, accelerator, model, tokenizer, source)
    if accelerator.is_main_process:
        folder = export(args.output / "model", model, tokenizer)
        megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        accelerator.print(f"exported {folder} ({megabytes:.1f} MB of fp16 safetensors)")


if __name__ == "__main__":
    main()
