"""Velocities that a simulation begins with: those of the file, or drawn ones, of atoms that can move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.units import kB
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError

if TYPE_CHECKING:
    from rootstock.simulations.dynamics import Dynamics

Momenta = NDArray[np.float64]
_ROUNDING = 1e-10  # less is none


def set_velocities(atoms: Atoms, settings: Dynamics, rng: np.random.Generator) -> bool:
    """Give atoms the velocities that a simulation begins with.

    Parameters
    ----------
    atoms : ase.Atoms
        Keep their momenta, without those that constraints do not allow. Without any they get drawn ones.
    settings : Dynamics
    rng : numpy.random.Generator

    Returns
    -------
    bool
        Whether they were drawn.

    Raises
    ------
    ConfigurationError
        If no atom can move, or no velocities can have this temperature.
    """
    for name, shape in (("momenta", (len(atoms), 3)), ("masses", (len(atoms),))):
        _require_numbers(atoms, name, shape)
    if not (atoms.get_masses() > 0).all():
        raise ConfigurationError("Molecular dynamics needs masses above zero: those of the structure are not.")
    try:
        _require_motion(atoms)
        kept = _allowed(atoms, atoms.get_momenta())
        drawn = not kept.any()
        atoms.set_momenta(thermal_momenta(atoms, settings, rng) if drawn else kept, apply_constraint=False)
    except ConfigurationError:
        raise
    except Exception as error:  # every constraint has errors of its own
        raise ConfigurationError(
            f"Molecular dynamics is not possible with the constraints of this structure: "
            f"{error or type(error).__name__}.",
            "Take them away, or use others.",
        ) from error
    return drawn


def thermal_momenta(atoms: Atoms, settings: Dynamics, rng: np.random.Generator) -> Momenta:
    """Return momenta of a Maxwell-Boltzmann distribution, scaled to exactly the temperature.

    The centre of mass does not move, as far as nothing holds the atoms in place. One atom that nothing holds would
    not move at all then: it keeps its velocity in ``nvt``, where the thermostat moves the centre of mass, too.

    Parameters
    ----------
    atoms : ase.Atoms
    settings : Dynamics
    rng : numpy.random.Generator

    Returns
    -------
    array of shape (n, 3)
        In ASE's units. With them ``atoms.get_temperature()`` is ``settings.temp``.

    Raises
    ------
    ConfigurationError
        If that is not possible.
    """
    masses = atoms.get_masses()[:, None]
    random = _allowed(atoms, rng.standard_normal((len(atoms), 3)) * np.sqrt(masses))
    momenta = random - masses * _free_directions(atoms) * random.sum(axis=0) / masses.sum()
    if not settings.temp > 0:
        return np.zeros_like(momenta)
    energy = _kinetic_energy(momenta, masses)
    if energy < _ROUNDING * _kinetic_energy(random, masses):
        if settings.ensemble != "nvt":
            raise ConfigurationError(
                f"{settings.ensemble} of one atom that nothing holds: without motion of the centre of mass it does not "
                "move, and has no temperature.",
                "Use more atoms, nvt, or a structure with momenta.",
            )
        momenta, energy = random, _kinetic_energy(random, masses)
    wanted = 0.5 * kB * settings.temp * atoms.get_number_of_degrees_of_freedom()
    return np.asarray(momenta * np.sqrt(wanted / energy))


def _require_numbers(atoms: Atoms, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of a file that ASE's methods would not have let in."""
    array = atoms.arrays.get(name)
    if array is None:
        return
    problem = ""
    if array.dtype.kind not in "biuf" or array.shape != shape:
        problem = f"are of type {array.dtype} and shape {array.shape}; numbers of shape {shape} were expected"
    elif not np.isfinite(array).all():
        problem = "hold NaN or infinity"
    if problem:
        raise ConfigurationError(
            f"The {name} of the structure {problem}.",
            "Remove them from the file: masses of the elements and random velocities are used then.",
        )


def _require_motion(atoms: Atoms) -> None:
    momenta = np.random.default_rng(0).standard_normal((len(atoms), 3))
    if np.abs(_allowed(atoms, momenta)).max() < _ROUNDING:
        raise ConfigurationError(
            "No atom of this structure can move: its constraints hold all of them.", "Take some of them away."
        )
    if (degrees := atoms.get_number_of_degrees_of_freedom()) <= 0:
        raise ConfigurationError(
            f"The constraints of this structure overlap: they leave {degrees} degrees of freedom, although atoms move.",
            "Hold each atom with one constraint.",
        )


def _allowed(atoms: Atoms, momenta: Momenta) -> Momenta:
    """Return what constraints leave of some momenta."""
    if not atoms.constraints:
        return momenta
    copy: Any = atoms.copy()
    copy.set_momenta(momenta)
    return np.asarray(copy.get_momenta())


def _free_directions(atoms: Atoms) -> NDArray[np.bool_]:
    """Return for x, y and z whether all atoms can move along it together: then the centre of mass is held at rest."""
    drifts = [atoms.get_masses()[:, None] * unit for unit in np.eye(3)]
    return np.array([np.allclose(_allowed(atoms, drift), drift, atol=_ROUNDING) for drift in drifts])


def _kinetic_energy(momenta: Momenta, masses: Momenta) -> float:
    return float((momenta**2 / masses).sum() / 2)
