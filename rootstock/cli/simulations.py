"""``rootstock singlepoint|relax``: structure files in, structure files out, with a model of a root."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import Command
from rootstock.cli.common import Decorated, cluster_options, merge_options, options, refuse_unused
from rootstock.cli.parameter_types import DEVICE, FORMAT, MODEL, Finite, Place, Whole, Word
from rootstock.cli.progress_line import show_rarely
from rootstock.cli.run_arguments import claim_outputs, setup_arguments
from rootstock.cli.run_options import NewRun, run_options
from rootstock.client.threads import keep_to_one_thread
from rootstock.errors import ConfigurationError, NotConvergedError
from rootstock.simulations.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from ase import Atoms

    from rootstock.root.lock import Report


def device_option(default: str | None, said: str) -> Decorated:
    """Return the option that says what computes.

    Parameters
    ----------
    default : str or None
    said : str
        The default in words.
    """
    return click.option(
        "--device", type=DEVICE, default=default,
        help=f"Device to run the model on: cuda, cuda:1, xpu or cpu [default: {said}].",
    )  # fmt: skip


threads_option = click.option(
    "--threads", type=Whole(1), metavar="N",
    help="CPU threads of the model [default: $OMP_NUM_THREADS, or the available processors].",
)  # fmt: skip
calculator_options = options(
    cluster_options,
    device_option("cuda", "cuda"),
    threads_option,
    click.option("--calc-kwargs", metavar="DICT", help="Further arguments of the environment's setup(), such as "
                 "\"{'default_dtype': 'float64'}\"."),
    merge_options("calculator", lambda **options: functools.partial(_calculator, **options),
                  "cluster", "root", "device", "threads", "calc_kwargs"),
)  # fmt: skip
format_option = click.option(
    "--format", "file_format", type=FORMAT, metavar="NAME",
    help="ASE's name of the format of the input files, such as vasp or lammps-data "
    "[default: recognised from name and content].",
)  # fmt: skip
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing output files.")


def out_option(ending: str) -> Decorated:
    """Return the option that says where results go.

    Parameters
    ----------
    ending : str
        Of the name that they have otherwise.
    """
    return click.option(
        "--out", "-o", type=Place(dir_okay=False, path_type=Path), metavar="FILE",
        help="Output file for structures and results, in any format that ASE writes. Formats other than .extxyz, "
        ".traj, .db and .json cannot hold results: NAME.results.extxyz is then written as well "
        f"[default: STRUCTURE-{ending}.extxyz in this folder].",
    )  # fmt: skip


EXIT_ZERO = "rootstock.exit_zero"  # in the context of a command that ends with 0 whatever it says
exit_zero_option = click.option(
    "--exit-zero", is_flag=True, expose_value=False,
    callback=lambda context, _, given: context.meta.update({EXIT_ZERO: True} if given else {}),
    help="End with 0, also if something failed or a signal came: for processes of one job, of which none is to end the "
    "others.",
)  # fmt: skip


class Simulation(Command):
    """A command that computes; what it leaves behind when it is interrupted, it says itself."""

    interrupted = "Interrupted."

    def invoke(self, context: click.Context) -> Any:
        """Run the command, before which numpy is not loaded."""
        keep_to_one_thread()
        try:
            return super().invoke(context)
        except click.exceptions.Exit:
            if EXIT_ZERO in context.meta:
                context.exit(0)
            raise


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option(
    "--properties",
    multiple=True,
    metavar="NAMES",
    help="Properties to compute, separated by commas; repeatable [default: energy, forces, and stress of periodic "
    "structures].",
)
@format_option
@out_option("results")
@overwrite_option
@run_options
@calculator_options
def singlepoint(
    model: str, structures: tuple[str, ...], properties: tuple[str, ...], run: NewRun | None, **rest: Any
) -> None:
    """Compute energy, forces and stress of structures.

    STRUCTURE is a file in any format that ASE reads. FILE@INDEX selects frames, as in ASE. Each result names the file
    and frame that it belongs to (rootstock_source).

    \b
    Examples:
      rootstock singlepoint mace-medium slab.cif
      rootstock singlepoint chgnet candidates.extxyz 'run.traj@::10' --out results.extxyz
      rootstock singlepoint chgnet big.extxyz more/*.cif --run screening
    """
    from rootstock.simulations.relax import singlepoint as evaluate

    def compute(atoms: Atoms, calc: Any, show: Report) -> Atoms:
        show("computing")
        return evaluate(atoms, calc, properties)

    properties = tuple(name.strip() for names in properties for name in names.split(","))
    if run is not None:
        run.compute("singlepoint", model, structures, {"properties": list(properties)}, **rest)
        return
    _compute_each(model, structures, "results", compute, properties=properties, **rest)


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option("--optimizer", type=Word(OPTIMIZERS), default="LBFGS", show_default=True, help="ASE optimizer.")
@click.option(
    "--fmax",
    type=Finite(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Convergence criterion: largest force on any atom, in eV/Å; where the cell is relaxed, on any coordinate of "
    "ASE's FrechetCellFilter.",
)
@click.option(
    "--steps",
    type=Whole(0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Maximum number of steps per structure.",
)
@click.option("--opt-cell-lengths", is_flag=True, help="Also relax the lengths of the cell vectors, not the angles.")
@click.option("--opt-cell-fully", is_flag=True, help="Also relax lengths and angles of the cell.")
@click.option(
    "--pressure",
    type=Finite(),
    default=0.0,
    show_default=True,
    help="External pressure in GPa (with --opt-cell-lengths or --opt-cell-fully only).",
)
@click.option(
    "--traj",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write each step to this file: .extxyz or .traj.",
)
@format_option
@out_option("relaxed")
@overwrite_option
@run_options
@calculator_options
def relax(
    model: str, structures: tuple[str, ...], optimizer: str, fmax: float, steps: int, opt_cell_lengths: bool,
    opt_cell_fully: bool, pressure: float, traj: Path | None, run: NewRun | None, **rest: Any,
) -> None:  # fmt: skip
    """Relax structures.

    STRUCTURE is a file in any format that ASE reads. FILE@INDEX selects frames, as in ASE. Each result says whether it
    is converged, and which file and frame it belongs to (rootstock_source). If a structure does not converge, all
    results are written, and the exit code is 21.

    \b
    Examples:
      rootstock relax mace-medium start.cif --fmax 0.01 --out relaxed.cif
      rootstock relax chgnet candidates.extxyz --opt-cell-fully --traj steps.extxyz
      rootstock relax chgnet big.extxyz --opt-cell-fully --run relaxations
    """
    if opt_cell_lengths and opt_cell_fully:
        raise ConfigurationError("Give either --opt-cell-lengths or --opt-cell-fully.")
    cell = "full" if opt_cell_fully else "lengths" if opt_cell_lengths else "fixed"
    if cell == "fixed":
        refuse_unused({"pressure": "is for a cell that is relaxed: --opt-cell-lengths or --opt-cell-fully."})
    from rootstock.simulations.relax import Relaxation

    relaxation = Relaxation(optimizer, fmax, steps, cell, pressure)
    if run is not None:
        refuse_unused({"traj": "is not possible with --run, which keeps the last step of each structure."})
        run.compute("relax", model, structures, dataclasses.asdict(relaxation), **rest)
        return

    def compute(atoms: Atoms, calc: Any, show: Report) -> Atoms:
        def on_step(step: int, atoms: Atoms, force: float) -> None:
            show(f"step {step}, energy {atoms.get_potential_energy():.6f} eV, largest force {force:.4f} eV/Å")

        return relaxation.run(atoms, calc, on_step=on_step, trajectory=traj)

    results, path = _compute_each(model, structures, "relaxed", compute, traj=traj, **rest)
    if late := [number for number, atoms in enumerate(results, 1) if not atoms.info["converged"]]:
        raise NotConvergedError(
            f"{len(late)} of {len(results)} structures did not reach {fmax} eV/Å in {steps} steps: number "
            f"{', '.join(map(str, late[:10]))}{' ...' if len(late) > 10 else ''}. All are in {path}.",
            "Go on from there with more --steps, or look at them.",
        )


def _compute_each(
    model: str, names: tuple[str, ...], ending: str, compute: Callable[[Atoms, Any, Report], Atoms], *,
    calculator: Callable[[str], Any], out: Path | None, overwrite: bool, file_format: str | None,
    traj: Path | None = None, properties: tuple[str, ...] = (),
) -> tuple[list[Atoms], Path]:  # fmt: skip
    """Do one thing with each structure of some files, in one worker, and show how far it is.

    What `traj` holds from before is taken away when all that was asked for is known to be possible.
    """
    from rootstock.root.disk_usage import number_of
    from rootstock.simulations.driver import collect_results, open_structures, output_file
    from rootstock.simulations.output import target_of
    from rootstock.simulations.provenance import SOURCE
    from rootstock.simulations.structures import results_file

    path = output_file(names, out, ending)
    if out is None and path.exists() and not overwrite:
        another = _another_name(names[0], path)
        raise ConfigurationError(f"{path} exists.", f"Write another file: --out {another}; or replace it: --overwrite")
    claim_outputs(path, results_file(path), *([traj] if traj else []))
    images = open_structures(
        names, path, overwrite=overwrite, steps=traj, properties=properties, format=file_format
    )  # fmt: skip
    tell = functools.partial(click.echo, err=True)
    with collect_results(path, tell) as results, calculator(model) as calc:
        if traj is not None:
            target_of(traj).unlink(missing_ok=True)
        for number, atoms in enumerate(images, 1):
            title = f"{number} of {len(images)}, {atoms.info[SOURCE]}, {atoms.get_chemical_formula()}"
            with show_rarely(f"{title}: ") as show:
                results.append(compute(atoms, calc, show))
            click.echo(f"{title}: {_summary(results[-1])}")
    click.echo(f"{path}: {number_of(len(results), 'structure')}")
    return results, path


def _another_name(name: str, taken: Path) -> str:
    """Return a name for results that no file has: of another folder's structure, with that folder's name."""
    folder = Path(name).parent.name
    names = [f"{folder}-{taken.name}"] if folder else []
    names += [f"{taken.stem}-{number}{taken.suffix}" for number in range(2, 1000)]
    return shlex.quote(next(each for each in names if not Path(each).exists()))


def _summary(atoms: Any) -> str:
    results = atoms.calc.results
    parts = []
    if "energy" in results:
        parts.append(f"energy {results['energy']:.6f} eV")
    if "forces" in results:
        parts.append(f"largest force {(atoms.get_forces() ** 2).sum(axis=1).max() ** 0.5:.4f} eV/Å")
    if "converged" in atoms.info:
        parts.append("converged" if atoms.info["converged"] else "NOT converged")
    return ", ".join(parts or results)


def _calculator(model: str, *, calc_kwargs: str | None, **arguments: Any) -> Any:
    """Return the calculator that `calculator_options` ask for."""
    from rootstock.interfaces.calculator import RootstockCalculator

    return RootstockCalculator(model=model, setup_kwargs=setup_arguments(calc_kwargs), **arguments)
