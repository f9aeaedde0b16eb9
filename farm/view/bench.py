"""What `farm bench` has measured, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from farm.view.summary import facts_table, list_table, present

if TYPE_CHECKING:
    from farm.engine.events import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a model takes at best here, and what a mixed run made of it."""

    model: str
    device: str
    dtype: str
    width: int
    height: int
    network: Mapping[int, float]
    """Milliseconds a row of the denoiser, by batch size, with nothing else going on."""
    decoder: Mapping[int, float]
    """Milliseconds a picture of the decoder, likewise."""
    report: RunReport
    """Of a run that mixes guidance, samplers and seeds, inline."""
    efficiency: float
    """Of that run, held against the isolated times."""
    write_seconds: float
    """Processor time of encoding and writing its images, beside the rendering."""

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "width": self.width,
            "height": self.height,
            "network_ms": {str(rows): ms for rows, ms in self.network.items()},
            "decoder_ms": {str(rows): ms for rows, ms in self.decoder.items()},
            "t_net_ms": min(self.network.values()),
            "t_decode_ms": min(self.decoder.values()),
            "efficiency": self.efficiency,
            "write_seconds": self.write_seconds,
            "run": self.report.to_json(),
        }


def print_bench(bench: Bench) -> None:
    """Print what a model takes at best here, and what a run made of it."""
    present(bench_view(bench))


def bench_view(bench: Bench) -> RenderableType:
    """Return measurements, for a terminal: times by batch size, then where a run's time went."""
    head = Text.assemble(
        (bench.model, "bold"),
        f" {bench.width}x{bench.height}, {bench.dtype} on {bench.device}",
    )
    times = list_table("rows", "network", "decoder", right=("rows", "network", "decoder"))
    for rows in sorted({*bench.network, *bench.decoder}):
        times.add_row(
            f"{rows}",
            _milliseconds(bench.network.get(rows)),
            _milliseconds(bench.decoder.get(rows)),
        )
    report = bench.report
    spent = list_table("spent on", "share", right=("share",))
    for name, share in report.time_shares.items():
        spent.add_row(name, f"{share:.1%}")
    spent.add_row("encoding, beside it", f"{bench.write_seconds / report.seconds:.1%}")
    facts = [
        ("t_net", f"{min(bench.network.values()):.2f} ms a row"),
        ("t_decode", f"{min(bench.decoder.values()):.2f} ms a picture"),
        ("run", f"{report.rendered:,} images in {report.seconds:.1f} s"),
        ("evaluations", f"{report.denoiser_evaluations:,}, {report.shared_evaluations:,} shared"),
        ("efficiency", f"{bench.efficiency:.0%} of the isolated times"),
    ]
    return Group(
        head, "", Padding(times, (0, 0, 0, 2)), "", facts_table(facts), "",
        Padding(spent, (0, 0, 0, 2)),
    )  # fmt: skip


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms"
