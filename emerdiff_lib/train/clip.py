"""Train a small CLIP on pictures and captions alone: ``python -m emerdiff_lib.train.clip --output runs/clip``.

A ``transformers`` ``CLIPModel`` whose patches are the cells that EmerDiff's masks are made of, so that notebook 11 has a real
text-aligned model. Captions name several things; a random part of each is shown, so that the text tower knows single words
too, and every picture whose own caption holds all of that part counts as a match. Resumes after a kill.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from ..files import write_atomically
from ..settings import whole
from . import architecture
from .sources import FolderCrops, Source, ToyscapesScenes, epoch_of, to_model_range
from .stage import Stage

BEGINNING, AND = "a picture of ", " and "  # of a caption, and between the things that it names
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
    add("--size", type=int, default=128, help="side of the pictures in pixels")
    add("--patch", type=int, default=8, help="side of a patch in pixels")
    add("--num-scenes", type=int, default=24_000, help="Toyscapes scenes, drawn once")
    add("--batch-size", type=int, default=96)
    add("--steps", type=int, default=4000)
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup-steps", type=int, default=200)
    add("--cooldown", type=float, default=0.7, help="last share of the steps, in which the rate decays")
    add("--checkpoint-every", type=int, default=250)
    add("--mixed-precision", choices=("no", "bf16", "fp16"), default="bf16")
    add("--cpu", action="store_true", help="stay on the CPU even if there is a GPU")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def build_clip(size: int, patch: int, vocabulary_size: int) -> CLIPModel:
    """Four layers of 128 numbers for pictures, two of 96 for texts."""
    text = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=architecture.MAX_TOKENS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=size,
        patch_size=patch,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    )


def parts_of(caption: str) -> list[str]:
    """What a caption names, thing by thing."""
    parts = caption.removeprefix(BEGINNING).replace(",", AND).split(AND)
    return [part.strip() for part in parts if part.strip()]


def some_parts(caption: str, generator: torch.Generator) -> list[str]:
    """A random part of what a caption names, at least one thing, in its order."""
    parts = parts_of(caption)
    if not parts:
        return []
    count = int(torch.randint(1, len(parts) + 1, (), generator=generator))
    kept = torch.randperm(len(parts), generator=generator)[:count].sort().values
    return [parts[i] for i in kept]


def matches(shown: list[list[str]], captions: list[str]) -> torch.Tensor:
    """(N, N) float: rows sum to 1 over the pictures whose captions hold all that a text shows; a text's own always does."""
    known = [set(parts_of(caption)) for caption in captions]
    hits = torch.tensor([[float(set(text) <= own) for own in known] for text in shown])
    return hits / hits.sum(1, keepdim=True)


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
    stage = Stage("clip", args, accelerator, [model], args.steps, args.learning_rate, 0.05)
    network = stage.modules[0]

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        pictures, captions = source.epoch(epoch_of(step, args.batch_size, source))
        rows = torch.randint(len(pictures), (args.batch_size,), generator=generator).sort().values.tolist()
        images = to_model_range(pictures[rows], accelerator.device)
        own = [captions[row] for row in rows]
        shown = [some_parts(caption, generator) for caption in own]
        ids = architecture.tokenize(tokenizer, [BEGINNING + AND.join(text) for text in shown]).to(
            accelerator.device
        )
        with accelerator.autocast():
            found = network(input_ids=ids, pixel_values=images.contiguous())
        texts, seen = (F.normalize(e.float(), dim=-1) for e in (found.text_embeds, found.image_embeds))
        scale = accelerator.unwrap_model(network).logit_scale.clamp(max=4.6)  # 100, as in CLIP
        return contrast(texts, seen, scale, matches(shown, own).to(accelerator.device))

    def report(step: int, averaged: CLIPModel) -> None:
        export(args.output / "model", averaged, tokenizer)

    stage.run(loss_of_step, report)
    stage.ema.copy_to(stage.parameters)
    return accelerator.unwrap_model(network).eval(), stage


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
    tokenizer = architecture.build_tokenizer(source.words)
    model, _ = train_clip(
        args, accelerator, build_clip(args.size, args.patch, len(tokenizer)), tokenizer, source
    )
    if accelerator.is_main_process:
        folder = export(args.output / "model", model, tokenizer)
        megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        accelerator.print(f"exported {folder} ({megabytes:.1f} MB of fp16 safetensors)")


if __name__ == "__main__":
    main()
