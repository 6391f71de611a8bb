"""The environment of a model that a user names. It loads what starts workers, which lists of models do not need."""

from __future__ import annotations

from rootstock.client.resolve import find_model
from rootstock.errors import ConfigurationError
from rootstock.reports.catalogue import EnvironmentRecord, read_environment
from rootstock.root.layout import RootLayout


def find_environment(layout: RootLayout, model: str) -> tuple[EnvironmentRecord, str]:
    """Return the environment of a model that its file names, and the argument for its ``setup()``.

    Parameters
    ----------
    layout : RootLayout
    model : str
        A model string, or an alias.

    Raises
    ------
    UnknownEnvironmentError
        If the root has no such environment; with models that are spelt like it.
    ConfigurationError
        If the environment has no such model.
    """
    name, argument = find_model(layout, model)
    environment = read_environment(layout, name)
    environment.source.check_model(argument)
    if doubt := environment.source.doubt(argument):
        raise ConfigurationError(doubt)
    return environment, argument
