"""The builds of one environment that a root holds beside each other: for other processors and accelerators.

The first one that is made of an environment is its main one, ``active/NAME``. A build for another machine goes beside
it as ``active/NAME+PROCESSOR-ACCELERATOR``. A worker gets the one that fits its machine and its device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import RootError
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.records import active_build, read_build

# What a device is served by. ROCm's torch calls its devices cuda as well.
_SERVES = {"cuda": ("cuda", "rocm"), "xpu": ("xpu",), "cpu": ("cpu", "cuda", "rocm", "xpu")}
_ROCM_DEVICE = "/dev/kfd"  # there where the kernel has a driver for AMD's GPUs


@dataclass(frozen=True)
class Variant:
    """A build of an environment that is in use.

    Attributes
    ----------
    link : Path
        What points to it.
    build : Path
    platform, accelerator : str
        What it is for.
    main : bool
        Whether it is the environment's main one.
    """

    link: Path
    build: Path
    platform: str
    accelerator: str
    main: bool

    def __str__(self) -> str:
        return f"{self.platform}-{self.accelerator}{' (main)' if self.main else ''}"


def find_variants(layout: RootLayout, name: str) -> list[Variant]:
    """Return the builds of an environment that are in use, the main one first."""
    found = []
    for link in (layout.active(name), *sorted(layout.all_active.glob(f"{name}{VARIANT}*"))):
        build = active_build(link)
        record = read_build(build) if build else None
        if build is not None and record is not None:
            main = link == layout.active(name)
            found.append(Variant(link, build, record.platform, record.accelerator, main))
    return found


def other_variants(layout: RootLayout, name: str) -> list[str]:
    """Return what the builds beside the main one are for, such as ``aarch64 cuda``; no build is looked at."""
    links = layout.all_active.glob(f"{name}{VARIANT}*")
    return sorted(link.name.partition(VARIANT)[2].replace("-", " ") for link in links)


def variant_link(layout: RootLayout, name: str, machine: str, accelerator: str) -> Path:
    """Return what points to the build of an environment for such a machine: the main link, if none has it yet."""
    main = next((variant for variant in find_variants(layout, name) if variant.main), None)
    if main is None or (main.platform, main.accelerator) == (machine, accelerator):
        return layout.active(name)
    return layout.active(name, f"{machine}-{accelerator}")


def main_accelerator(layout: RootLayout, name: str) -> str:
    """Return what an environment's main build is for; empty if there is none."""
    return next((variant.accelerator for variant in find_variants(layout, name) if variant.main), "")


def client_link(layout: RootLayout, version: str, machine: str) -> Path:
    """Return what points to the client's environment for such a processor."""
    main = active_build(layout.client(version))
    record = read_build(main) if main else None
    return layout.client(version, "" if record is None or record.platform == machine else machine)


def fitting_build(layout: RootLayout, name: str, device: str) -> Path | None:
    """Return the build of an environment that serves a device of this machine; None if the environment has no build.

    For a GPU, that is the build for such GPUs; else one for CPUs, since a package can serve both. For the CPU it is
    the build for CPUs, or any.

    Parameters
    ----------
    layout : RootLayout
    name : str
    device : str
        As a calculator is asked for it, such as ``cuda:1``; empty for any.

    Raises
    ------
    RootError
        If all builds are for other machines. It says which there are.
    """
    variants = find_variants(layout, name)
    if not variants:
        return None
    here = [variant for variant in variants if variant.platform == platform.machine()]
    ranks = _ranks(device)
    fitting = [variant for variant in here if not ranks or variant.accelerator in ranks]
    if fitting:
        return min(fitting, key=lambda variant: ranks.index(variant.accelerator) if ranks else 0).build
    kind = device.partition(":")[0]
    flag = f" --accelerator {kind}" if here and kind in _SERVES else ""
    raise RootError(
        f"Environment {name!r} has no build in {layout.root} for device {device!r} on {platform.machine()}. "
        f"It has: {', '.join(map(str, variants))}.",
        f"An admin adds one, on such a machine: rootstock-site install --root {layout.root} --env {name}{flag}",
    )


def _ranks(device: str) -> Sequence[str]:
    """Return the accelerators whose builds serve a device, best first; empty for a device that we know nothing of."""
    kind = device.partition(":")[0]
    served = _SERVES.get(kind, ())
    if kind == "cuda" and os.path.exists(_ROCM_DEVICE):
        served = served[::-1]
    return served if kind == "cpu" or not served else (*served, "cpu")
