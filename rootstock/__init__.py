"""Machine-learned interatomic potentials for a whole cluster, each in an environment of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "2026.12.0"

if TYPE_CHECKING:
    from rootstock.config.clusters import CLUSTER_REGISTRY, get_root_for_cluster
    from rootstock.config.model_string import parse_model_string
    from rootstock.interfaces.calculator import RootstockCalculator
    from rootstock.simulations.comparison.compare import compare
    from rootstock.simulations.comparison.comparison import Comparison
    from rootstock.simulations.lockstep.relax_many import relax_many
    from rootstock.simulations.lockstep.relaxed import Relaxed
    from rootstock.simulations.relax import Relaxation
    from rootstock.simulations.runs.background import Run

__all__ = [
    "CLUSTER_REGISTRY",
    "Comparison",
    "Relaxation",
    "Relaxed",
    "RootstockCalculator",
    "Run",
    "__version__",
    "compare",
    "get_root_for_cluster",
    "parse_model_string",
    "relax_many",
]

# Names are looked up when first used (PEP 562): `import rootstock` costs nothing, and the worker, which imports
# this package in environments that hold numpy and ase only, never meets what the client needs.
_HOME = {
    "CLUSTER_REGISTRY": "rootstock.config.clusters",
    "Comparison": "rootstock.simulations.comparison.comparison",
    "Relaxation": "rootstock.simulations.relax",
    "Relaxed": "rootstock.simulations.lockstep.relaxed",
    "RootstockCalculator": "rootstock.interfaces.calculator",
    "Run": "rootstock.simulations.runs.background",
    "compare": "rootstock.simulations.comparison.compare",
    "get_root_for_cluster": "rootstock.config.clusters",
    "parse_model_string": "rootstock.config.model_string",
    "relax_many": "rootstock.simulations.lockstep.relax_many",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rootstock' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
