"""``rootstock worker``: a model of a root as a driver for any i-PI server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rootstock.cli.common import refuse_unused
from rootstock.cli.parameter_types import MODEL, Finite, Whole
from rootstock.cli.simulations import Simulation, calculator_options, format_option
from rootstock.errors import ConfigurationError


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@click.option(
    "--structure",
    required=True,
    metavar="FILE",
    help="File with the atoms that the server simulates: the protocol carries no chemical elements, no charge and no "
    "spin. FILE@INDEX selects a frame [default: the last].",
)
@format_option
@click.option("--socket", "path", metavar="PATH", help="Connect to this Unix socket.")
@click.option("--address", metavar="NAME", help="Connect to the Unix socket /tmp/ipi_NAME, as i-PI names it.")
@click.option("--port", type=Whole(1, 65535), metavar="N", help="Connect to this TCP port.")
@click.option(
    "--host", default="localhost", show_default=True, metavar="NAME", help="Host of the server (with --port only)."
)
@click.option("--no-stress", is_flag=True, help="Send a virial of zero: for simulations at constant volume only.")
@click.option(
    "--wait",
    type=Finite(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for the server to accept the connection.",
)
@calculator_options
def worker(
    model: str, structure: str, file_format: str | None, path: str | None, address: str | None, port: int | None,
    host: str, no_stress: bool, wait: float, calculator: Callable[[str], Any],
) -> None:  # fmt: skip
    """Serve MODEL to an i-PI server.

    The server is i-PI, ASE's SocketIOCalculator, or another program that speaks i-PI's protocol. The command ends when
    the server sends EXIT or closes the connection. If the model fails, the command ends with an error and sends no
    result.

    \b
    Examples:
      rootstock worker mace-medium --structure start.xyz --address driver
      rootstock worker chgnet --structure start.cif --port 31415 --host node7 --device cpu
    """
    where = _where(path, address, port, host)
    from rootstock.interfaces.ipi.driver import Driver, check_structure, connect
    from rootstock.simulations.structures import read_structures

    atoms = read_structures([structure], file_format)[-1]
    check_structure(atoms, not no_stress)
    with calculator(model) as calc:
        atoms.calc = calc
        calc.check_atoms(atoms)  # before a server waits for it
        driver = Driver(atoms, use_stress=not no_stress)
        with connect(where, wait) as sock:
            place = where if isinstance(where, str) else f"{where[0]}:{where[1]}"
            click.echo(f"{model} serves {place}.", err=True)
            driver.serve(sock)
    click.echo(f"The server is done after {driver.steps} evaluations.", err=True)


def _where(path: str | None, address: str | None, port: int | None, host: str) -> str | tuple[str, int]:
    if sum(option is not None for option in (path, address, port)) != 1:
        raise ConfigurationError("Give the server's address by one of --socket PATH, --address NAME and --port N.")
    if port is None:
        refuse_unused({"host": "is for a server at a TCP port: --port."})
    if port is not None:
        return host, port
    return path or f"/tmp/ipi_{address}"  # noqa: S108  # where i-PI puts it
