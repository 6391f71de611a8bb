"""``rootstock md``: molecular dynamics of a structure, or of many, which can be stopped and continued."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rootstock.cli.command import INTERRUPTED
from rootstock.cli.common import refuse_unused
from rootstock.cli.parameter_types import MODEL, Finite, Place, Whole, Word
from rootstock.cli.progress_line import show_rarely, stop_gently
from rootstock.cli.run_arguments import claim_outputs
from rootstock.cli.run_options import NewRun, run_options
from rootstock.cli.simulations import Simulation, calculator_options, format_option, overwrite_option
from rootstock.errors import ConfigurationError

_ENSEMBLES = ("nve", "nvt", "nvt-csvr", "nvt-nh", "npt-mtk")
_ONLY_FOR = {
    "pressure": ("npt-mtk",), "friction": ("nvt",), "taut": ("nvt-csvr",), "thermostat_time": ("nvt-nh", "npt-mtk"),
    "barostat_time": ("npt-mtk",),
}  # fmt: skip
_ALL = "simulate each of them: --run FOLDER"
_ANOTHER = "Continue with --restart, write other files with --file-prefix, or replace these with --overwrite."


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option(
    "--ensemble",
    type=Word(_ENSEMBLES),
    required=True,
    help="nve: velocity Verlet; nvt: Langevin thermostat; nvt-csvr: stochastic velocity rescaling (Bussi); nvt-nh: "
    "Nose-Hoover chain; npt-mtk: isotropic barostat (Martyna-Tobias-Klein).",
)
@click.option("--steps", type=Whole(0), required=True, metavar="N", help="Total number of steps.")
@click.option("--timestep", type=Finite(0, min_open=True), default=1.0, show_default=True, help="Time step in fs.")
@click.option("--temp", type=Finite(0), default=300.0, show_default=True, help="Temperature in K.")
@click.option(
    "--pressure", type=Finite(), default=0.0, show_default=True, help="Target pressure in GPa (npt-mtk only)."
)
@click.option(
    "--friction",
    type=Finite(0),
    default=0.005,
    show_default=True,
    help="Friction coefficient in 1/fs (nvt only).",
)
@click.option(
    "--taut",
    type=Finite(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Time constant of the thermostat in fs (nvt-csvr only).",
)
@click.option(
    "--thermostat-time",
    type=Finite(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Time constant of the thermostat in fs (nvt-nh and npt-mtk only).",
)
@click.option(
    "--barostat-time",
    type=Finite(0, min_open=True),
    default=1000.0,
    show_default=True,
    help="Time constant of the barostat in fs (npt-mtk only).",
)
@click.option(
    "--seed",
    type=Whole(0),
    metavar="N",
    help="Random seed for velocities and thermostat [default: random; printed].",
)
@click.option(
    "--stats-every",
    type=Whole(1),
    default=100,
    show_default=True,
    metavar="STEPS",
    help="Steps between lines of PREFIX-stats.dat.",
)
@click.option(
    "--traj-every",
    type=Whole(1),
    default=100,
    show_default=True,
    metavar="STEPS",
    help="Steps between frames of PREFIX-traj.extxyz.",
)
@click.option(
    "--restart-every",
    type=Whole(1),
    default=1000,
    show_default=True,
    metavar="STEPS",
    help="Steps between updates of PREFIX-restart.json.",
)
@click.option("--restart", is_flag=True, help="Continue from PREFIX-restart.json; start anew if there is no such file.")
@click.option(
    "--file-prefix",
    metavar="PREFIX",
    help="How the names of all output files begin; it may contain a folder [default: STRUCTURE-ENSEMBLE].",
)
@click.option(
    "--out",
    "-o",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --run: output file for the final structures [default: FOLDER.extxyz, beside FOLDER].",
)
@format_option
@overwrite_option
@run_options
@calculator_options
def md(
    model: str, structures: tuple[str, ...], restart: bool, file_prefix: str | None, overwrite: bool, seed: int | None,
    file_format: str | None, calculator: Callable[..., Any], out: Path | None, run: NewRun | None, **settings: Any,
) -> None:  # fmt: skip
    """Run molecular dynamics.

    STRUCTURE is a file in any format that ASE reads. FILE@INDEX selects a frame, as in ASE. If it holds no
    velocities, they are drawn at random and scaled to exactly the temperature.

    The command writes PREFIX-stats.dat, PREFIX-traj.extxyz, PREFIX-restart.json, and at the end PREFIX-final.extxyz.
    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the simulation after the current step and write a restart file for
    that step. With --restart the same command continues there, bit for bit as if the simulation had never stopped: a
    job that may be requeued runs one line that never changes.

    With --run, each structure of all files is simulated; FOLDER/md holds the files of each, whose names begin with its
    index. The seed of each is made from --seed and its index.

    \b
    Examples:
      rootstock md mace-medium start.cif --ensemble nvt --temp 600 --steps 100000 --restart
      rootstock md chgnet 'run.traj@-1' --ensemble nve --steps 5000 --timestep 0.5 --file-prefix run2
      rootstock md mace-medium starts.xyz --ensemble nvt --steps 10000 --seed 5 --run melts
    """
    refuse_unused({
        name: f"is for {' and '.join(ensembles)}; {settings['ensemble']} does not use it."
        for name, ensembles in _ONLY_FOR.items() if settings["ensemble"] not in ensembles
    })  # fmt: skip
    if run is not None:
        refuse_unused({
            "restart": "is for one structure: with --run, the same command always goes on.",
            "file_prefix": f"is for one structure: with --run, the files are in {run.folder}/md.",
        })  # fmt: skip
        drawn = {} if seed is not None else {"seed": secrets.randbits(32)}
        run.compute(
            "md", model, structures, settings | ({} if seed is None else {"seed": seed}), drawn=drawn,
            calculator=calculator, out=out, overwrite=overwrite, file_format=file_format,
        )  # fmt: skip
        return
    refuse_unused({"out": "is for --run; without, the names of files begin with --file-prefix."})
    if len(structures) > 1:
        raise ConfigurationError(
            f"Without --run, md simulates one structure, and {len(structures)} files were given.",
            f"Give one of them, or {_ALL}",
        )
    _simulate_one(
        model, structures[0], settings, seed, calculator, prefix=file_prefix, restart=restart, overwrite=overwrite,
        file_format=file_format,
    )  # fmt: skip


def _simulate_one(
    model: str, structure: str, settings: dict[str, Any], seed: int | None, calculator: Callable[..., Any], *,
    prefix: str | None, restart: bool, overwrite: bool, file_format: str | None,
) -> None:  # fmt: skip
    """Simulate the one structure of a file."""
    from rootstock.simulations import dynamics as run
    from rootstock.simulations.output import check_writable
    from rootstock.simulations.structures import check_output, check_there, read_structures, results_stem
    from rootstock.simulations.writing import check_structures

    check_there(structure)
    prefix = prefix or f"{results_stem(structure)}-{settings['ensemble']}"
    files = run.files_of(prefix)
    claim_outputs(*files.values())
    resumed = restart and files["restart"].exists()
    if not resumed:
        anew = overwrite or (restart and _never_began(files["stats"]))
        for path in (files["stats"], files["restart"]):  # of formats that ASE does not know
            check_writable(path)
            if path.exists() and not anew:
                raise ConfigurationError(f"{path} exists.", _ANOTHER)
        check_output(files["traj"], overwrite=anew)
        check_output(files["final"], overwrite=overwrite)
    images = read_structures([structure], file_format)
    if len(images) > 1:
        raise ConfigurationError(
            f"{structure} holds {len(images)} structures.", f"Pick one, such as '{structure}@-1'; or {_ALL}"
        )
    check_structures(files["traj"], images)
    dynamics = run.Dynamics(seed=seed if seed is not None else secrets.randbits(32), **settings)
    with calculator(model) as calc, stop_gently() as stopped:
        if resumed:
            simulation = run.Simulation.resume(calc, dynamics, prefix, start=images[0], seed=seed)
            click.echo(f"Going on after step {simulation.step}, from {files['restart']}.", err=True)
        else:
            simulation = run.Simulation(images[0], calc, dynamics, prefix)
            drawn = f"drawn for {dynamics.temp} K with seed {dynamics.seed}"
            click.echo(f"Velocities: {drawn if simulation.drawn else 'those of the file'}.", err=True)
        finished = _run(simulation, stopped)
    if not finished:
        click.echo(f"Stopped after step {simulation.step}. The same command with --restart goes on there.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    click.echo(f"Step {simulation.step} of {dynamics.steps}: {files['final']}")


def _never_began(stats: Path) -> bool:
    """Tell whether a simulation was cut off before its first restart file, so that there is nothing to go on from."""
    return not stats.exists() or len(stats.read_bytes().splitlines()) <= 2


def _run(simulation: Any, stopped: Callable[[], bool]) -> bool:
    """Go on until the end or a signal, and show how far it is."""
    begun, first, steps = time.monotonic(), simulation.step, simulation.settings.steps
    with show_rarely() as show:

        def on_step(now: Any) -> bool:
            pace = (time.monotonic() - begun) / (now.step - first)
            show(
                f"step {now.step} of {steps}, {now.atoms.get_temperature():.0f} K, {pace * 1e3:.1f} ms a step, "
                f"{pace * (steps - now.step) / 60:.0f} min left"
            )
            return not stopped()

        return bool(simulation.run(on_step=on_step))
