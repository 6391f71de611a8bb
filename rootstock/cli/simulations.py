"""``rootstock singlepoint|relax|md``: structure files in, structure files out, with a model of a root."""

from __future__ import annotations

import ast
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import INTERRUPTED, Command, cluster_options, options
from rootstock.cli.parameter_types import DEVICE, MODEL
from rootstock.cli.progress_line import shown_rarely, stopped_gently
from rootstock.errors import ConfigurationError, NotConvergedError

if TYPE_CHECKING:
    from ase import Atoms

_OPTIMIZERS = ("LBFGS", "BFGS", "FIRE", "LBFGSLineSearch", "BFGSLineSearch", "QuasiNewton", "GPMin", "MDMin")
_ENSEMBLES = ("nve", "nvt", "nvt-csvr", "nvt-nh", "npt-mtk")


class Finite(click.FloatRange):
    """A number within bounds, and neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number that can be computed with.", param, ctx)
        return found


model_options = options(
    cluster_options,
    click.option("--device", type=DEVICE, default="cuda", show_default=True, help="Passed to the model."),
    click.option("--calc-kwargs", metavar="DICT", help="Further arguments of the environment's setup(), such as "
                 "\"{'default_dtype': 'float64'}\"."),
    click.option("--overwrite", is_flag=True, help="Replace output files that are there."),
)  # fmt: skip
out_option = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                          help="Where results go, in any format of ASE [default: STRUCTURE-NAME.extxyz].")  # fmt: skip


class Simulation(Command):
    """A command that computes; what it leaves behind when it is interrupted, it says itself."""

    interrupted = "Interrupted."


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option(
    "--properties",
    multiple=True,
    metavar="NAME",
    help="What to compute; may be repeated [default: energy, forces, and stress where there is one].",
)
@out_option
@model_options
def singlepoint(
    model: str, structures: tuple[str, ...], properties: tuple[str, ...], out: Path | None, overwrite: bool,
    **where: Any,
) -> None:  # fmt: skip
    """Compute energy, forces and stress of structures.

    \b
    Examples:
      rootstock singlepoint mace-medium slab.cif
      rootstock singlepoint chgnet candidates.extxyz 'run.traj@::10' --out results.extxyz
    """
    from rootstock.simulations.relax import singlepoint as compute

    def one(atoms: Atoms, calc: Any, show: Callable[[str], None]) -> Atoms:
        show("computing")
        return compute(atoms, calc, properties)

    _each(model, structures, out, "results", overwrite, where, one)


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option("--optimizer", type=click.Choice(_OPTIMIZERS), default="LBFGS", show_default=True, help="ASE's name.")
@click.option(
    "--fmax",
    type=Finite(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Largest force of a relaxed structure [eV/Å].",
)
@click.option("--steps", type=click.IntRange(0), default=1000, show_default=True, help="How many steps at most.")
@click.option("--opt-cell-lengths", is_flag=True, help="Relax the size of the cell too, not its shape.")
@click.option("--opt-cell-fully", is_flag=True, help="Relax lengths and angles of the cell too.")
@click.option("--pressure", type=Finite(), default=0.0, show_default=True, help="Pressure on the cell [GPa].")
@click.option(
    "--traj",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Add each step to this file: .extxyz or .traj.",
)
@out_option
@model_options
def relax(
    model: str, structures: tuple[str, ...], optimizer: str, fmax: float, steps: int, opt_cell_lengths: bool,
    opt_cell_fully: bool, pressure: float, traj: Path | None, out: Path | None, overwrite: bool, **where: Any,
) -> None:  # fmt: skip
    """Relax all structures in some files.

    Each result says in its info whether it is converged. If one is not, all are written, and the exit code is 21.

    \b
    Examples:
      rootstock relax mace-medium start.cif --fmax 0.01 --out relaxed.cif
      rootstock relax chgnet candidates.extxyz --opt-cell-fully --traj steps.extxyz
    """
    if opt_cell_lengths and opt_cell_fully:
        raise ConfigurationError("Give either --opt-cell-lengths or --opt-cell-fully.")
    cell = "full" if opt_cell_fully else "lengths" if opt_cell_lengths else "fixed"
    if pressure and cell == "fixed":
        raise ConfigurationError("--pressure is for a cell that is relaxed: --opt-cell-lengths or --opt-cell-fully.")
    from rootstock.simulations.relax import Relaxation
    from rootstock.simulations.structures import check_output

    if traj is not None:
        check_output(traj, overwrite=overwrite, grows=True)
    relaxation = Relaxation(optimizer, fmax, steps, cell, pressure)

    def one(atoms: Atoms, calc: Any, show: Callable[[str], None]) -> Atoms:
        def on_step(step: int, atoms: Atoms, force: float) -> None:
            show(f"step {step}, energy {atoms.get_potential_energy():.6f} eV, largest force {force:.4f} eV/Å")

        return relaxation.run(atoms, calc, on_step=on_step, trajectory=traj)

    done, path = _each(model, structures, out, "relaxed", overwrite, where, one, traj)
    if late := [number for number, atoms in enumerate(done, 1) if not atoms.info["converged"]]:
        raise NotConvergedError(
            f"{len(late)} of {len(done)} structures did not reach {fmax} eV/Å in {steps} steps: number "
            f"{', '.join(map(str, late[:10]))}{' ...' if len(late) > 10 else ''}. All are in {path}.",
            "Go on from there with more --steps, or look at them.",
        )


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structure")
@click.option(
    "--ensemble",
    type=click.Choice(_ENSEMBLES),
    required=True,
    help="nve; nvt: Langevin; nvt-csvr: Bussi; nvt-nh: Nose-Hoover chain; npt-mtk: isotropic barostat.",
)
@click.option("--steps", type=click.IntRange(0), required=True, help="The last step.")
@click.option("--timestep", type=Finite(0, min_open=True), default=1.0, show_default=True, help="[fs]")
@click.option("--temp", type=Finite(0), default=300.0, show_default=True, help="Temperature [K].")
@click.option("--pressure", type=Finite(), default=0.0, show_default=True, help="Of npt-mtk [GPa].")
@click.option("--friction", type=Finite(0), default=0.005, show_default=True, help="Of nvt [1/fs].")
@click.option(
    "--taut", type=Finite(0, min_open=True), default=100.0, show_default=True, help="Time constant of nvt-csvr [fs]."
)
@click.option(
    "--thermostat-time",
    type=Finite(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Of nvt-nh and npt-mtk [fs].",
)
@click.option(
    "--barostat-time", type=Finite(0, min_open=True), default=1000.0, show_default=True, help="Of npt-mtk [fs]."
)
@click.option("--seed", type=click.IntRange(0), help="Of velocities and thermostat [default: drawn, and told].")
@click.option("--stats-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between lines.")
@click.option("--traj-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between frames.")
@click.option(
    "--restart-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps between restart files."
)
@click.option("--restart", is_flag=True, help="Go on from the restart file, if there is one.")
@click.option("--file-prefix", metavar="PREFIX", help="Of all files [default: STRUCTURE-ENSEMBLE].")
@model_options
def md(
    model: str, structure: str, restart: bool, file_prefix: str | None, overwrite: bool, seed: int | None,
    cluster: str | None, root: Path | None, device: str, calc_kwargs: str | None, **settings: Any,
) -> None:  # fmt: skip
    """Run molecular dynamics of a structure.

    It writes PREFIX-stats.dat, PREFIX-traj.extxyz, PREFIX-restart.json, and at the end PREFIX-final.extxyz. Ctrl-C and
    SIGTERM end it after the step it is in, with a restart file for that step. With --restart the same command goes on
    there, bit for bit as if it had never stopped, so a job that may be requeued is one line that never changes.

    \b
    Examples:
      rootstock md mace-medium start.cif --ensemble nvt --temp 600 --steps 100000 --restart
      rootstock md chgnet 'run.traj@-1' --ensemble nve --steps 5000 --timestep 0.5 --file-prefix run2
    """
    from rootstock.simulations import dynamics as run
    from rootstock.simulations.structures import check_output, read_structures

    if settings["pressure"] and settings["ensemble"] != "npt-mtk":
        raise ConfigurationError(f"--pressure is for npt-mtk; {settings['ensemble']} keeps the cell as it is.")
    prefix = file_prefix or f"{_stem(structure)}-{settings['ensemble']}"
    files = run.files_of(prefix)
    resumed = restart and files["restart"].exists()
    if not resumed:
        anew = overwrite or (restart and _never_began(files["stats"]))
        for path in (files["stats"], files["restart"]):  # of formats that ASE does not know
            check_output(path.with_suffix(".xyz"), overwrite=True)
            if path.exists() and not anew:
                raise ConfigurationError(f"{path} exists.", "Go on with --restart, or begin anew with --overwrite.")
        check_output(files["traj"], overwrite=anew)
        check_output(files["final"], overwrite=overwrite)
    images = read_structures([structure])
    if len(images) > 1:
        raise ConfigurationError(f"{structure} holds {len(images)} structures.", f"Pick one, such as '{structure}@-1'.")
    told = seed if seed is not None else secrets.randbits(32)
    dynamics = run.Dynamics(seed=told, **settings)
    with _calculator(model, cluster, root, device, calc_kwargs) as calc, stopped_gently() as stopped:
        if resumed:
            simulation = run.Simulation.resume(calc, dynamics, prefix, start=images[0], seed=seed)
            click.echo(f"Going on after step {simulation.step}, from {files['restart']}.", err=True)
        else:
            simulation = run.Simulation(images[0], calc, dynamics, prefix)
            origin = f"drawn for {dynamics.temp} K with seed {told}" if simulation.drawn else "those of the file"
            click.echo(f"Velocities: {origin}.", err=True)
        finished = _run(simulation, stopped)
    if not finished:
        click.echo(f"Stopped after step {simulation.step}. The same command with --restart goes on there.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    click.echo(f"Step {simulation.step} of {dynamics.steps}: {files['final']}")


def _never_began(stats: Path) -> bool:
    """Tell whether a simulation was cut off before its first restart file, so that there is nothing to go on from."""
    return not stats.exists() or len(stats.read_text().splitlines()) <= 2


def _run(simulation: Any, stopped: Callable[[], bool]) -> bool:
    """Go on until the end or a signal, and show how far it is."""
    begun, first, steps = time.monotonic(), simulation.step, simulation.settings.steps
    with shown_rarely() as show:

        def on_step(now: Any) -> bool:
            pace = (time.monotonic() - begun) / (now.step - first)
            show(
                f"step {now.step} of {steps}, {now.atoms.get_temperature():.0f} K, {pace * 1e3:.1f} ms a step, "
                f"{pace * (steps - now.step) / 60:.0f} min left"
            )
            return not stopped()

        finished: bool = simulation.run(on_step=on_step)
    return finished


def _each(
    model: str, names: tuple[str, ...], out: Path | None, ending: str, overwrite: bool, where: dict[str, Any],
    one: Callable[[Atoms, Any, Callable[[str], None]], Atoms], traj: Path | None = None,
) -> tuple[list[Atoms], Path]:  # fmt: skip
    """Do one thing with each structure of some files, in one worker, and write all results.

    What `traj` holds from before is taken away when all that was asked for is known to be possible.
    """
    from rootstock.simulations.structures import check_output, read_structures, write_structures

    if out is None and len(names) > 1:
        raise ConfigurationError("Where do the results of several files go?", "Say so with --out FILE.")
    path = out or Path(f"{_stem(names[0])}-{ending}.extxyz")
    images = read_structures(names)
    check_output(path, overwrite=overwrite, many=len(images) > 1)
    if traj is not None and traj.resolve() in {each.resolve() for each in (path, *map(_file, names))}:
        raise ConfigurationError(f"{traj} cannot hold the steps: it is another file of this command.")
    done: list[Atoms] = []
    with _calculator(model, **where) as calc:
        if traj is not None:
            traj.unlink(missing_ok=True)
        try:
            for number, atoms in enumerate(images, 1):
                title = f"{number} of {len(images)}, {atoms.get_chemical_formula()}"
                with shown_rarely() as show:
                    done.append(one(atoms, calc, lambda text, title=title: show(f"{title}: {text}")))  # type: ignore[misc]
                click.echo(_line(title, done[-1]))
        except BaseException:
            if done:
                partial = _free(path.with_name(f"{path.stem}.partial{path.suffix}"))
                write_structures(partial, done)
                click.echo(f"The {len(done)} that were done are in {partial}.", err=True)
            raise
    try:
        write_structures(path, done)
    except ConfigurationError as error:
        spare = _free(path.with_name(f"{path.stem}.results.extxyz"))
        write_structures(spare, done)
        raise ConfigurationError(error.message, f"The results are in {spare}.") from error
    click.echo(f"{path}: {len(done)} structure{'s' if len(done) > 1 else ''}")
    return done, path


def _line(title: str, atoms: Any) -> str:
    results = atoms.calc.results
    parts = []
    if "energy" in results:
        parts.append(f"energy {results['energy']:.6f} eV")
    if "forces" in results:
        parts.append(f"largest force {(atoms.get_forces() ** 2).sum(axis=1).max() ** 0.5:.4f} eV/Å")
    if "converged" in atoms.info:
        parts.append("converged" if atoms.info["converged"] else "NOT converged")
    return f"{title}: {', '.join(parts) or ', '.join(results)}"


def _calculator(model: str, cluster: str | None, root: Path | None, device: str, calc_kwargs: str | None) -> Any:
    from rootstock.interfaces.calculator import RootstockCalculator

    try:
        setup = ast.literal_eval(calc_kwargs) if calc_kwargs else {}
        if not isinstance(setup, dict):
            raise ValueError("that is no dict")
    except (ValueError, SyntaxError) as error:
        raise ConfigurationError(
            f"--calc-kwargs {calc_kwargs}: {error}.", "For example: --calc-kwargs \"{'default_dtype': 'float64'}\""
        ) from error
    return RootstockCalculator(model=model, cluster=cluster, root=root, device=device, setup_kwargs=setup)


def _file(name: str) -> Path:
    """Return the file of a structure that may be picked from many."""
    return Path(name if Path(name).exists() else name.rpartition("@")[0] or name)


def _stem(name: str) -> str:
    return _file(name).stem


def _free(path: Path) -> Path:
    """Return a name like this one that no file has."""
    names = (path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 1000)))
    return next((name for name in names if not name.exists()), path)
