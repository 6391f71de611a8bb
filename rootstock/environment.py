"""How workers are started."""

from rootstock.client.launch import EnvironmentManager

__all__ = ["EnvironmentManager"]
