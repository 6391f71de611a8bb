"""A step of molecular dynamics with CHGNet, which needs no stress: its own calculator against Rootstock.

Three ways in one run, each on one thread: CHGNet's stock calculator in process, which computes the stress all the
same; the environment file's calculator in process, which does not; and `RootstockCalculator`. In process means a Python
of the build's own environment. They take turns of some steps, the order rotating, so that whatever else the machine
does meets all three. Figures are medians over the turns; the first turn is not counted.

    python benchmarks/md_without_stress.py --root ROOT [--repeat 1 2] [--rounds 20] [--steps 50]
                                           [--device cpu] [--json FILE]

In process, ASE multiplies CHGNet's forces in single precision; Rootstock's are the same numbers in double. So the
energies part in their last digit after some tens of steps.

CHGNet must be built in ROOT. The structure is its reference, LiMnO2 of 8 atoms, repeated in all directions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import record
from ase import Atoms, units

from rootstock import RootstockCalculator
from rootstock.client.resolve import resolve
from rootstock.reports.overhead import InProcess
from rootstock.root.layout import RootLayout
from rootstock.worker.dynamics import Dynamics

STOCK = """
def setup(model, device):
    from chgnet.model import CHGNetCalculator
    return CHGNetCalculator(use_device=device)
"""
TEMPERATURE_K, TIMESTEP_FS = 300.0, 1.0
WAYS = ("stock", "file", "rootstock")


def structure(root: Path, repeat: int) -> Atoms:
    source = resolve(RootLayout(root), "chgnet").source
    atoms: Atoms = Atoms(**source.references()[0].structure).repeat(repeat)
    width = np.sqrt(atoms.get_masses() * units.kB * TEMPERATURE_K)
    atoms.set_momenta(width[:, None] * np.random.default_rng(0).standard_normal((len(atoms), 3)))
    return atoms


def measure(root: Path, atoms: Atoms, rounds: int, steps: int, device: str) -> dict[str, object]:
    """Return seconds of a step for each way, the ratios, and how far the energies are apart after all steps."""
    launch = resolve(RootLayout(root), "chgnet", device, "build").launch(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stock.py")
        file.write_text(STOCK)
        with (
            InProcess(replace(launch, environment_file=file), "", device, atoms) as stock,
            InProcess(launch, "", device, atoms) as unchanged,
            RootstockCalculator("chgnet", root=root, device=device, threads=1, launch="build") as calc,
        ):
            atoms.calc = calc
            through = Dynamics(atoms, TIMESTEP_FS)
            through.energy()
            sides = {"stock": stock, "file": unchanged, "rootstock": through}
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(rounds + 1):
                for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                    times[way].append(sides[way].run(steps))
            energies = [stock.energy, unchanged.energy, through.energy()]
    times = {way: seconds[1:] for way, seconds in times.items()}
    row: dict[str, object] = {"atoms": len(atoms), "rounds": rounds, "steps": steps}
    row |= {way: statistics.median(seconds) for way, seconds in times.items()}
    for way in ("stock", "file"):
        ratios = [outside / inside for outside, inside in zip(times["rootstock"], times[way], strict=True)]
        row[f"rootstock / {way}"] = statistics.median(ratios)
        row[f"all steps, rootstock / {way}"] = sum(times["rootstock"]) / sum(times[way])
    return row | {"energy difference": max(energies) - min(energies)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="where to write the figures, in seconds and eV")
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    results = record.new("md_without_stress", device=arguments.device)
    for repeat in arguments.repeat:
        # About as long for a large structure as for a small one.
        steps = max(1, arguments.steps // repeat**3)
        row = measure(root, structure(root, repeat), arguments.rounds, steps, arguments.device)
        results["rows"].append(row)
        print(
            f"{row['atoms']:>4} atoms, {arguments.rounds * steps} steps: "
            + ", ".join(f"{way} {1e3 * row[way]:.2f} ms" for way in WAYS)  # type: ignore[operator]
            + f"; rootstock / stock {row['rootstock / stock']:.3f}, / file {row['rootstock / file']:.3f}"
            + f"; all steps {row['all steps, rootstock / stock']:.3f}, {row['all steps, rootstock / file']:.3f}"
            + f"; energies {row['energy difference']:.1e} eV apart",
            flush=True,
        )
    record.write(results, arguments.json)


if __name__ == "__main__":
    main()
