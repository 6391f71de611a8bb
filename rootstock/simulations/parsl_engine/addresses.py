"""Under which addresses compute nodes may reach the program that hands out work."""

from __future__ import annotations

import socket

import psutil

from rootstock.errors import ConfigurationError


def own_addresses(interface: str | None = None) -> set[str]:
    """Return this node's addresses, as others may reach it; that for itself alone if it has no other one.

    Parameters
    ----------
    interface : str, optional
        Of which network; by default of all.

    Raises
    ------
    ConfigurationError
        If there is no such network here.
    """
    all_of_them = psutil.net_if_addrs()
    if interface is not None and interface not in all_of_them:
        raise ConfigurationError(
            f"This node has no network interface {interface!r}; it has {', '.join(sorted(all_of_them))}.",
            "jobs.batch.interface in the cluster's file names it. Or start this on another login node.",
        )
    named = [interface] if interface is not None else [*all_of_them]
    found = {each.address for name in named for each in all_of_them[name] if each.family == socket.AF_INET}
    if interface is None:
        found = {address for address in found if not address.startswith("127.")}
    return found or {"127.0.0.1"}
