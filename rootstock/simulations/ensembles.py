"""Ensembles of molecular dynamics: what each needs of the atoms, and ASE's integrator for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase
import numpy as np
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.units import GPa, fs

from rootstock.errors import ConfigurationError
from rootstock.simulations.relax import has_whole_cell

if TYPE_CHECKING:
    from rootstock.simulations.dynamics import Dynamics


def check_ensemble(atoms: Atoms, settings: Dynamics) -> None:
    """Refuse an ensemble that is not for these atoms.

    Parameters
    ----------
    atoms : ase.Atoms
    settings : Dynamics

    Raises
    ------
    ConfigurationError
    """
    ensemble = settings.ensemble
    if ensemble == "npt-mtk" and not has_whole_cell(atoms):
        raise ConfigurationError(
            "npt-mtk is for atoms that are periodic in all three directions: what is vacuum would shrink.",
            "Use an ensemble of fixed cell.",
        )
    if ensemble in ("nvt-nh", "npt-mtk") and atoms.constraints:
        raise ConfigurationError(
            f"{ensemble} knows of no constraints: atoms that do not move would be counted as if they did.",
            "Use nvt or nvt-csvr, or take the constraints away.",
        )
    if ensemble in ("nvt-csvr", "nvt-nh", "npt-mtk") and not settings.temp > 0:
        raise ConfigurationError(f"{ensemble} needs a temperature above 0 K.")


def make_integrator(atoms: Atoms, s: Dynamics, rng: np.random.Generator) -> Any:
    """Return ASE's integrator.

    Parameters
    ----------
    atoms : ase.Atoms
    s : Dynamics
    rng : numpy.random.Generator
        Of thermostats that draw random numbers.

    Raises
    ------
    ConfigurationError
        If there is none of that name in this version of ASE, or it is not for these atoms.
    """
    try:
        return _integrator(atoms, s, rng)
    except ImportError as error:
        raise ConfigurationError(f"ASE {ase.__version__} has no {s.ensemble}.", "Install a later version.") from error
    except (ArithmeticError, ValueError, NotImplementedError) as error:  # ASE's own refusals
        raise ConfigurationError(
            f"ASE refuses {s.ensemble} for these atoms: {error}", "Use another --ensemble."
        ) from error


def _integrator(atoms: Atoms, s: Dynamics, rng: np.random.Generator) -> Any:
    step = s.timestep * fs
    temperature: dict[str, Any] = {"temperature_K": s.temp}
    if s.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if s.ensemble == "nvt":
        # Keeping the centre of mass would not sample the right distribution, as ASE says.
        return Langevin(atoms, step, friction=s.friction / fs, fixcm=False, rng=rng, **temperature)
    # Older versions of ASE lack some or all of these.
    if s.ensemble == "nvt-csvr":
        from ase.md.bussi import Bussi

        return Bussi(atoms, step, taut=s.taut * fs, rng=rng, **temperature)
    if s.ensemble == "nvt-nh":
        from ase.md.nose_hoover_chain import NoseHooverChainNVT

        return NoseHooverChainNVT(atoms, step, tdamp=s.thermostat_time * fs, **temperature)
    if s.ensemble == "npt-mtk":
        from ase.md.nose_hoover_chain import IsotropicMTKNPT

        times: dict[str, Any] = {"tdamp": s.thermostat_time * fs, "pdamp": s.barostat_time * fs}
        return IsotropicMTKNPT(atoms, step, pressure_au=s.pressure * GPa, **times, **temperature)
    raise ConfigurationError(f"There is no ensemble {s.ensemble!r}.")
