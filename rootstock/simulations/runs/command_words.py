"""The words of command lines that compute what settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def relaxation_words(settings: Mapping[str, Any]) -> list[str]:
    """Return the options of ``rootstock relax``.

    Parameters
    ----------
    settings : Mapping
        Of a `Relaxation`.

    >>> from dataclasses import asdict
    >>> from rootstock.simulations.relax import Relaxation
    >>> " ".join(relaxation_words(asdict(Relaxation(fmax=0.02, cell="full"))))
    '--optimizer LBFGS --fmax 0.02 --steps 1000 --opt-cell-fully --pressure 0.0'
    """
    words = ["--optimizer", settings["optimizer"], "--fmax", str(settings["fmax"]), "--steps", str(settings["steps"])]
    words += {"full": ["--opt-cell-fully"], "lengths": ["--opt-cell-lengths"]}.get(settings["cell"], [])
    return words + (["--pressure", str(settings["pressure"])] if settings["cell"] != "fixed" else [])
