"""``rootstock worker``: a model of a root as a driver for any i-PI server."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.common import cluster_options
from rootstock.cli.parameter_types import DEVICE, MODEL
from rootstock.cli.simulations import Simulation
from rootstock.errors import ConfigurationError


@click.command(cls=Simulation)
@click.argument("model", type=MODEL)
@cluster_options
@click.option(
    "--structure",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The atoms that the server simulates, in any format of ASE: the protocol carries no species.",
)
@click.option("--socket", "path", metavar="PATH", help="Unix socket of the server.")
@click.option("--address", metavar="NAME", help="The same by i-PI's convention: /tmp/ipi_NAME.")
@click.option("--port", type=int, help="TCP port of the server.")
@click.option("--host", default="localhost", show_default=True, help="Its host, with --port.")
@click.option("--device", type=DEVICE, default="cuda", show_default=True, help="Passed to the model.")
@click.option("--no-stress", is_flag=True, help="Send a virial of zero: for simulations at constant volume only.")
@click.option("--wait", default=60.0, show_default=True, metavar="SECONDS", help="How long to wait for the server.")
def worker(
    model: str, cluster: str | None, root: Path | None, structure: Path, path: str | None, address: str | None,
    port: int | None, host: str, device: str, no_stress: bool, wait: float,
) -> None:  # fmt: skip
    """Serve MODEL to an i-PI server.

    That is i-PI itself, ASE's SocketIOCalculator, or what else speaks its protocol. It ends when the server says so
    or hangs up. If the model fails it ends with an error, and sends nothing.

    \b
    Examples:
      rootstock worker mace-medium --structure start.xyz --address driver
      rootstock worker chgnet --structure start.cif --port 31415 --host node7 --device cpu
    """
    where = _where(path, address, port, host)
    from rootstock.interfaces.calculator import RootstockCalculator
    from rootstock.interfaces.ipi.driver import Driver, check_structure, connect
    from rootstock.simulations.structures import read_structures

    atoms = read_structures([str(structure)])[-1]
    check_structure(atoms, not no_stress)
    with RootstockCalculator(model=model, cluster=cluster, root=root, device=device) as calc:
        atoms.calc = calc
        driver = Driver(atoms, use_stress=not no_stress)
        with connect(where, wait) as sock:
            click.echo(f"{model} serves {where}.", err=True)
            driver.serve(sock)
    click.echo(f"The server is done after {driver.steps} evaluations.", err=True)


def _where(path: str | None, address: str | None, port: int | None, host: str) -> str | tuple[str, int]:
    if sum(option is not None for option in (path, address, port)) != 1:
        raise ConfigurationError("Say where the server is: one of --socket PATH, --address NAME and --port N.")
    if port is not None:
        return host, port
    return path or f"/tmp/ipi_{address}"  # noqa: S108  # where i-PI puts it
