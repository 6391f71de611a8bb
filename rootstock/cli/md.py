"""``rootstock md``: molecular dynamics of a structure file, which can be stopped and continued."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rootstock.cli.common import INTERRUPTED
from rootstock.cli.parameter_types import MODEL, Finite
from rootstock.cli.progress_line import show_rarely, stop_gently
from rootstock.cli.simulations import Simulation, calculator, claim_outputs, model_options
from rootstock.errors import ConfigurationError

_ENSEMBLES = ("nve", "nvt", "nvt-csvr", "nvt-nh", "npt-mtk")


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

    A structure without velocities gets random ones of exactly the temperature. It writes PREFIX-stats.dat,
    PREFIX-traj.extxyz, PREFIX-restart.json, and at the end PREFIX-final.extxyz. Ctrl-C,
    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 end it after the step it is in, with a restart file for that step. With
    --restart the same command goes on there, bit for bit as if it had never stopped, so a job that may be requeued is
    one line that never changes.

    \b
    Examples:
      rootstock md mace-medium start.cif --ensemble nvt --temp 600 --steps 100000 --restart
      rootstock md chgnet 'run.traj@-1' --ensemble nve --steps 5000 --timestep 0.5 --file-prefix run2
    """
    from rootstock.simulations import dynamics as run
    from rootstock.simulations.output import check_writable
    from rootstock.simulations.structures import check_output, check_structures, read_structures, structure_file

    if settings["pressure"] and settings["ensemble"] != "npt-mtk":
        raise ConfigurationError(f"--pressure is for npt-mtk; {settings['ensemble']} keeps the cell as it is.")
    prefix = file_prefix or f"{structure_file(structure).stem}-{settings['ensemble']}"
    files = run.files_of(prefix)
    claim_outputs(*files.values())
    resumed = restart and files["restart"].exists()
    if not resumed:
        anew = overwrite or (restart and _never_began(files["stats"]))
        for path in (files["stats"], files["restart"]):  # of formats that ASE does not know
            check_writable(path)
            if path.exists() and not anew:
                raise ConfigurationError(f"{path} exists.", "Go on with --restart, or begin anew with --overwrite.")
        check_output(files["traj"], overwrite=anew)
        check_output(files["final"], overwrite=overwrite)
    images = read_structures([structure])
    if len(images) > 1:
        raise ConfigurationError(f"{structure} holds {len(images)} structures.", f"Pick one, such as '{structure}@-1'.")
    check_structures(files["traj"], images)
    dynamics = run.Dynamics(seed=seed if seed is not None else secrets.randbits(32), **settings)
    with calculator(model, cluster, root, device, calc_kwargs) as calc, stop_gently() as stopped:
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
