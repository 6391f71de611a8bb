"""Many nodes by Parsl: its configuration for a cluster, and structures that its workers compute."""

from rootstock.simulations.parsl_engine import require_parsl

require_parsl()  # before anything is imported that needs it

from rootstock.simulations.parsl_engine.cluster_config import config  # noqa: E402
from rootstock.simulations.parsl_engine.evaluate import evaluate  # noqa: E402
from rootstock.simulations.parsl_engine.warm import kept_calculator  # noqa: E402

__all__ = ["config", "evaluate", "kept_calculator"]
