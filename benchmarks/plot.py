"""Draw what the benchmarks beside this file wrote with ``--json``, each as an SVG of its name.

    python benchmarks/plot.py FILE... [--output FOLDER]

Needs matplotlib, which ASE brings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

# Okabe and Ito's colours can be told apart with any colour vision; markers and labels say the same again.
INK, PAPER = "#1a1a1a", "#ffffff"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = "osD^"
LABELS = {
    "ipc_overhead": {"in process": "in process", "rootstock": "Rootstock", "ase socket": "ASE's socket calculator"},
    "ipi_overhead": {
        "in process": "in process",
        "rootstock": "Rootstock, both ends",
        "ase client": "Rootstock's server, ASE's client",
        "ase both": "ASE, both ends",
    },
}
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and scaled
    "svg.hashsalt": "rootstock",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,  # opaque, so that it can be read on a dark page
    "axes.facecolor": PAPER,
}


def calls(axes: Axes, record: dict[str, Any]) -> None:
    """Draw the cost of a call over the number of atoms."""
    rows = record["rows"]
    atoms = [row["atoms"] for row in rows]
    for (name, label), colour, marker in zip(LABELS[record["benchmark"]].items(), COLOURS, MARKERS, strict=False):
        axes.plot(atoms, [row[name] for row in rows], marker + "-", color=colour, label=label, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="number of atoms", ylabel="one call [µs]")
    axes.set_xticks(atoms, [f"{n:,}" for n in atoms])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color="#d9d9d9", linewidth=0.6)


def start_up(axes: Axes, record: dict[str, Any]) -> None:
    """Draw the parts of a start, one bar for each model and way."""
    rows = [row for row in record["rows"] if "parts" in row][::-1]
    names = [f"{row['model']}, {'as a worker' if row['way'] == 'worker' else 'alone'}" for row in rows]
    left = [0.0] * len(rows)
    for part, colour in zip(rows[0]["parts"], COLOURS, strict=True):
        widths = [row["parts"][part] for row in rows]
        axes.barh(names, widths, left=left, height=0.6, color=colour, edgecolor=PAPER, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for name, end in zip(names, left, strict=True):
        axes.text(end, name, f" {end:.2f} s", va="center")
    axes.set(xlabel="time since the start [s]", xlim=(0, 1.15 * max(left)))
    axes.tick_params(axis="y", length=0)


def scale(axes: Axes, record: dict[str, Any]) -> None:
    """Draw how many times faster a batch is than one by one, over its size; and what `evaluate_many` makes of it."""
    for row, colour, marker in zip(record["rows"], COLOURS, MARKERS, strict=False):
        cpu = row["cpu"]
        sizes = sorted(int(way.removeprefix("batch of ")) for way in cpu if way.startswith("batch of "))
        faster = [cpu["loop"] / cpu[f"batch of {size}"] for size in sizes]
        axes.plot(sizes, faster, marker + "-", color=colour, label=f"{row['model']}: in process", markersize=5)
        found = row["evaluate_many / loop"]
        axes.plot(row["together"], found, marker, color=colour, label=f"{row['model']}: evaluate_many", markersize=11,
                  markerfacecolor="none")  # fmt: skip
    axes.set(xscale="log", xlabel="structures computed together", ylabel="times faster than one by one", ylim=(0, None))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(axis="y", color="#d9d9d9", linewidth=0.6)


DRAW: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "ipc_overhead": calls, "ipi_overhead": calls, "start_up": start_up, "scale": scale,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    for file in arguments.files:
        record = json.loads(file.read_text(encoding="utf-8"))
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(7.2, 4.2), layout="constrained")
            DRAW[record["benchmark"]](figure.add_subplot(), record)
            figure.legend(loc="outside upper left", ncols=2 if record["benchmark"] == "scale" else 3, frameon=False)
            path = arguments.output / f"{record['benchmark']}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        print(path)


if __name__ == "__main__":
    main()
