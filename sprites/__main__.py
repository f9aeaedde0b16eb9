"""The recipe's commands, in the order of ``sprites/README.md``: ``python -m sprites COMMAND``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from sprites import autoencoder, data, denoiser, evaluate, export, networks, tokens
from sprites.catalogue import STYLES
from sprites.evaluate import Score
from sprites.files import write_json
from sprites.training import Budget

HERE = Path(__file__).parent
log = logging.getLogger("sprites")

MODEL = HERE.parent / "farm" / "render" / "builtin" / "sprites"
SHEETS = HERE.parent / "docs" / "images"


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
    start = _start(arguments)
    model = start.vae if start else networks.new_autoencoder()
    result = autoencoder.train_autoencoder(
        masters,
        Budget(arguments.minutes, arguments.seed, arguments.work / "autoencoder.pt"),
        model,
        lr=arguments.lr or 2e-3,
        subjects=arguments.subjects,
    )
    log.info("%s; PSNR %s", result, autoencoder.psnr(masters, model.eval(), arguments.seed))


def _redraw(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    tokenizer = tokens.build(masters.subjects.values())
    text_encoder, unet = denoiser.load_trained(arguments.work, tokenizer)
    denoiser.redraw(
        masters,
        arguments.work,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        seed=arguments.seed,
    )


def _decoder(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    start = _start(arguments)
    model = autoencoder.load_trained(arguments.work, start and start.vae)
    result = autoencoder.train_decoder(
        masters,
        Budget(arguments.minutes, arguments.seed, arguments.work / "decoder.pt"),
        model,
        denoiser.read_redrawn(arguments.work),
        lr=arguments.lr or 1e-3,
        subjects=arguments.subjects,
    )
    log.info("%s; PSNR %s", result, autoencoder.psnr(masters, model.eval(), arguments.seed))


def _encode(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    start = _start(arguments)
    denoiser.encode(
        masters,
        autoencoder.load_trained(arguments.work, start and start.vae),
        arguments.work,
        subjects=arguments.subjects,
        variants=arguments.variants,
        seed=arguments.seed,
    )


def _denoiser(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    tokenizer = tokens.build(masters.subjects.values())
    start = _start(arguments)
    if start:
        text_encoder, unet = start.text_encoder, start.unet
    else:
        text_encoder, unet = networks.new_text_encoder(tokenizer), networks.new_denoiser()
    result = denoiser.train_denoiser(
        masters,
        arguments.work,
        Budget(arguments.minutes, arguments.seed, arguments.work / "denoiser.pt"),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        lr=arguments.lr or 2e-3,
    )
    log.info("%s", result)


def _export(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    tokenizer = tokens.build(masters.subjects.values())
    text_encoder, unet = denoiser.load_trained(arguments.work, tokenizer)
    start = _start(arguments)
    size = export.export(
        arguments.model,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        denoiser=unet,
        autoencoder=autoencoder.load_trained(arguments.work, start and start.vae),
        deviation=denoiser.read_latents(arguments.work)[2],
    )
    log.info("%s: %.1f MB", arguments.model, size / 1e6)


def _evaluate(arguments: argparse.Namespace) -> None:
    masters = data.load(arguments.work)
    result = evaluate.evaluate(
        masters,
        data.load(arguments.work, "strangers"),
        arguments.model,
        subjects=arguments.subjects,
        count=arguments.count,
        seed=arguments.seed,
    )
    write_json(arguments.model / "evaluation.json", result)
    print(evaluate.table({name: Score(**found) for name, found in result["scores"].items()}))
    shots = evaluate.sheet_shots(list(masters.subjects))
    evaluate.sheet(arguments.model, shots, arguments.sheets / "sprites-sheet.jpg", columns=10)
    known = arguments.sheets / "sprites-known.jpg"
    evaluate.sheet(arguments.model, evaluate.known_shots(), known, columns=2 * len(STYLES))


def _start(arguments: argparse.Namespace) -> networks.Pipeline | None:
    """The model folder that a training without checkpoints goes on from, if one was named."""
    return networks.load_pipeline(arguments.init_from) if arguments.init_from else None


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "data": _data,
    "autoencoder": _autoencoder,
    "encode": _encode,
    "denoiser": _denoiser,
    "redraw": _redraw,
    "decoder": _decoder,
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
    for name in ("autoencoder", "encode", "decoder", "evaluate"):
        made[name].add_argument(
            "--subjects", type=int, default=48, help="how many of the catalogue, from its head"
        )
    for name in ("autoencoder", "denoiser", "decoder"):
        made[name].add_argument(
            "--minutes", type=float, required=True, help="of processor time, in all runs"
        )
        made[name].add_argument("--lr", type=float, help="the highest learning rate")
    for name in ("autoencoder", "encode", "denoiser", "decoder", "export"):
        made[name].add_argument(
            "--init-from", type=Path, help="a model folder to start from without a checkpoint"
        )
    made["encode"].add_argument(
        "--variants", type=int, default=12, help="shots a subject and style"
    )
    for name in ("export", "evaluate"):
        made[name].add_argument("--model", type=Path, default=MODEL, help="the model folder")
    made["evaluate"].add_argument("--count", type=int, default=128, help="pictures to score")
    made["evaluate"].add_argument(
        "--sheets", type=Path, default=SHEETS, help="the folder for the two sheets"
    )
    return parser


if __name__ == "__main__":
    main()
