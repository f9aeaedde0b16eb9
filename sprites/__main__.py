"""The recipe's commands: ``python -m sprites data|autoencoder|encode|denoiser|export|evaluate``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from sprites import autoencoder, data, denoiser, evaluate, export, networks, tokens
from sprites.files import write_json
from sprites.training import Budget

HERE = Path(__file__).parent
log = logging.getLogger("sprites")

MODEL = HERE.parent / "farm" / "render" / "builtin" / "sprites"
SHEET = HERE.parent / "docs" / "images" / "sprites-sheet.jpg"


def main() -> None:
    """Run one command."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    _COMMANDS[arguments.command](arguments)


def _data(arguments: argparse.Namespace) -> None:
    data.prepare(arguments.work)


def _autoencoder(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    checkpoint = "autoencoder.pt" if arguments.part == "both" else "decoder.pt"
    if arguments.init_from:
        model = networks.load_pipeline(arguments.init_from).vae
    elif arguments.part == "decoder":
        model = autoencoder.load_trained(arguments.work)
    else:
        model = networks.new_autoencoder()
    result = autoencoder.train_autoencoder(
        masters,
        Budget(arguments.minutes, arguments.seed, arguments.work / checkpoint),
        model,
        lr=arguments.lr or 2e-3,
        part=arguments.part,
    )
    log.info("%s; PSNR %s", result, autoencoder.psnr(masters, model.eval(), arguments.seed))


def _encode(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    model = autoencoder.load_trained(arguments.work)
    denoiser.encode(
        masters, model, arguments.work, variants=arguments.variants, seed=arguments.seed
    )


def _denoiser(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    tokenizer = tokens.build(masters.subjects.values())
    if arguments.init_from:
        pipeline = networks.load_pipeline(arguments.init_from)
        text_encoder, unet = pipeline.text_encoder, pipeline.unet
    else:
        text_encoder, unet = networks.new_text_encoder(tokenizer), networks.new_denoiser()
    result = denoiser.train_denoiser(
        masters,
        arguments.work,
        Budget(arguments.minutes, arguments.seed, arguments.work / "denoiser.pt"),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        subjects=arguments.subjects,
        lr=arguments.lr or 2e-3,
    )
    log.info("%s", result)


def _export(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    tokenizer = tokens.build(masters.subjects.values())
    text_encoder, unet = denoiser.load_trained(arguments.work, tokenizer)
    size = export.export(
        arguments.model,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        denoiser=unet,
        autoencoder=autoencoder.load_trained(arguments.work),
        deviation=denoiser.read_latents(arguments.work)[2],
    )
    log.info("%s: %.1f MB", arguments.model, size / 1e6)


def _evaluate(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    result = evaluate.evaluate(
        masters,
        arguments.model,
        subjects=arguments.subjects,
        count=arguments.count,
        seed=arguments.seed,
    )
    write_json(arguments.model / "evaluation.json", result)
    evaluate.sheet(masters, arguments.model, arguments.sheet)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "data": _data,
    "autoencoder": _autoencoder,
    "encode": _encode,
    "denoiser": _denoiser,
    "export": _export,
    "evaluate": _evaluate,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sprites", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name) for name in _COMMANDS}
    for command in made.values():
        command.add_argument("--work", type=Path, default=HERE / "work", help="the work folder")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name in ("denoiser", "evaluate"):
        made[name].add_argument(
            "--subjects", type=int, default=32, help="how many of the catalogue, from its head"
        )
    for name in ("autoencoder", "denoiser"):
        made[name].add_argument(
            "--minutes", type=float, required=True, help="of training in all, resumed runs included"
        )
        made[name].add_argument("--lr", type=float, help="the highest learning rate")
        made[name].add_argument(
            "--init-from", type=Path, help="a model folder to start from without a checkpoint"
        )
    made["autoencoder"].add_argument("--part", choices=("both", "decoder"), default="both")
    made["encode"].add_argument(
        "--variants", type=int, default=12, help="shots a subject and style"
    )
    for name in ("export", "evaluate"):
        made[name].add_argument("--model", type=Path, default=MODEL, help="the model folder")
    made["evaluate"].add_argument("--count", type=int, default=128, help="pictures to score")
    made["evaluate"].add_argument("--sheet", type=Path, default=SHEET)
    return parser


if __name__ == "__main__":
    main()
