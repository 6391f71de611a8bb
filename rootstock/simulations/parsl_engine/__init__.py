"""Parsl as an engine: its executor as a cluster file says, and what its workers compute."""

from __future__ import annotations

from rootstock.errors import ConfigurationError


def require_parsl() -> None:
    """Refuse to go on without Parsl, which only an extra of this package needs.

    Raises
    ------
    ConfigurationError
        With the command that installs it.
    """
    try:
        import parsl  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Parsl is not installed for this Python.",
            "Install it: pip install 'rootstock[parsl]'. In a site's root: rootstock-site install --set "
            "client.extras=parsl",
        ) from error
