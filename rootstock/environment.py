"""How workers are started."""

from rootstock.client.uv_run import EnvironmentManager

__all__ = ["EnvironmentManager"]
