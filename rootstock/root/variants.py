"""The builds of one environment that a root holds beside each other: for other processors and accelerators.

The first one that is made of an environment is its main one, ``active/NAME``. A build for another machine goes beside
it as ``active/NAME+PROCESSOR-ACCELERATOR``. A worker gets the one that fits its machine and its device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import RootError
from rootstock.root.in_use import build_in_use
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.records import active_build, active_record, read_build

# What a device is served by. ROCm's torch calls its devices cuda as well.
_SERVES = {"cuda": ("cuda", "rocm"), "xpu": ("xpu",), "cpu": ("cpu", "cuda", "rocm", "xpu")}
_ROCM_DEVICE = "/dev/kfd"  # there where the kernel has a driver for AMD's GPUs


@dataclass(frozen=True)
class Variant:
    """A build of an environment that is in use.

    Attributes
    ----------
    build : Path
    platform, accelerator : str
        What it was made for.
    main : bool
        Whether it is the environment's main one.
    computes_on : str
        As of `BuildRecord`.
    """

    build: Path
    platform: str
    accelerator: str
    main: bool
    computes_on: str

    def rank(self, accelerators: Sequence[str]) -> tuple[int, ...]:
        """Return what sorts builds by how well they serve a device, best first; what they were made for decides a tie.

        Parameters
        ----------
        accelerators : sequence of str
            Those that serve it, best first; empty for any.
        """
        kinds = (self.computes_on, self.accelerator)
        return tuple((*accelerators, kind).index(kind) for kind in kinds) if accelerators else ()

    @property
    def kind(self) -> str:
        """What it was made for, and what its packages compute on where that is something else."""
        computes = "" if self.computes_on == self.accelerator else f" computing on {self.computes_on}"
        return f"{self.platform}-{self.accelerator}{computes}"

    def __str__(self) -> str:
        return f"{self.kind}{' (main)' if self.main else ''}"


def find_variants(layout: RootLayout, name: str) -> list[Variant]:
    """Return the builds of an environment that are in use, the main one first.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.

    Raises
    ------
    RootError
        If the record of one cannot be read.
    """
    variants, damages = _read_variants(layout, name)
    if damages:
        raise damages[0]
    return variants


def _read_variants(layout: RootLayout, name: str) -> tuple[list[Variant], list[RootError]]:
    """Return the builds in use, the main one first, and an error for each whose record cannot be read."""
    return _read(layout, name, [layout.active(name), *_others(layout, name)])


def _others(layout: RootLayout, name: str) -> list[Path]:
    return sorted(layout.all_active.glob(f"{name}{VARIANT}*"))


def _read(layout: RootLayout, name: str, links: Iterable[Path]) -> tuple[list[Variant], list[RootError]]:
    variants, damages = [], []
    for link in links:
        try:
            if (build := active_build(link)) and (record := read_build(build)):
                main = link == layout.active(name)
                variants.append(Variant(build, record.platform, record.accelerator, main, record.computes_on))
        except RootError as error:
            damages.append(error)
    return variants, damages


def other_variants(layout: RootLayout, name: str) -> list[str]:
    """Return what the builds beside the main one are for, such as ``aarch64 cuda``.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    """
    variants, _ = _read(layout, name, _others(layout, name))
    return [f"{variant.platform} {variant.computes_on}" for variant in variants]


def variant_link(layout: RootLayout, name: str, machine: str, accelerator: str) -> Path:
    """Return what points to the build of an environment for such a machine: the main link, if none has it yet.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    machine : str
        The processor, as `platform.machine` calls it.
    accelerator : str
        As a cluster file names it, such as ``cuda``.
    """
    main = active_record(layout.active(name))
    if main is None or (main.platform, main.accelerator) == (machine, accelerator):
        return layout.active(name)
    return layout.active(name, f"{machine}-{accelerator}")


def main_accelerator(layout: RootLayout, name: str) -> str:
    """Return the accelerator that an environment's main build is for; empty if there is none.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    """
    main = active_record(layout.active(name))
    return main.accelerator if main else ""


def client_link(layout: RootLayout, version: str, machine: str) -> Path:
    """Return what points to the client's environment for such a processor.

    Parameters
    ----------
    layout : RootLayout
    version : str
        That of Rootstock.
    machine : str
        The processor, as `platform.machine` calls it.
    """
    main = active_record(layout.client(version))
    return layout.client(version, "" if main is None or main.platform == machine else machine)


def fitting_build(layout: RootLayout, name: str, device: str) -> Path | None:
    """Return the build of an environment that serves a device of this machine; None if the environment has no build.

    For a GPU, that is the build for such GPUs; else one for CPUs, since a package can serve both. For the CPU it is
    the build for CPUs, or any. One whose record is damaged does not count while another one serves.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    device : str
        As a calculator is asked for it, such as ``cuda:1``; empty for any.

    Raises
    ------
    RootError
        If all builds are for other machines: it says which there are. If none serves, and one cannot be read or its
        link is gone.
    """
    variants, damages = _read_variants(layout, name)
    runnable = [variant for variant in variants if variant.platform == platform.machine()]
    ranks = _ranks(device)
    fitting = [variant for variant in runnable if not ranks or variant.computes_on in ranks]
    if fitting:
        return min(fitting, key=lambda variant: variant.rank(ranks)).build
    if damages:
        raise damages[0]
    if not variants:
        return build_in_use(layout, name)  # None, unless somebody has removed its link
    kind = device.lower().partition(":")[0]
    flag = f" --accelerator {kind}" if runnable and kind in _SERVES else ""
    raise RootError(
        f"Environment {name!r} has no build in {layout.root} for device {device!r} on {platform.machine()}. "
        f"It has: {', '.join(map(str, variants))}.",
        f"An admin adds one, on such a machine: rootstock-site install --root {layout.root} --env {name}{flag}",
    )


def _ranks(device: str) -> Sequence[str]:
    """Return the accelerators whose builds serve a device, best first; empty for a device that we know nothing of."""
    kind = device.lower().partition(":")[0]
    served = _SERVES.get(kind, ())
    if kind == "cuda" and os.path.exists(_ROCM_DEVICE):
        served = served[::-1]
    return served if kind == "cpu" or not served else (*served, "cpu")


def how_to_build(layout: RootLayout, environment: str | Path) -> str:
    """Say how an environment gets a build.

    Parameters
    ----------
    layout : RootLayout
    environment : str or Path
        Its name, or the path of its file.
    """
    return f"An admin builds it with: rootstock-site install --root {layout.root} --env {environment}"


def environment_of(link: str) -> str:
    """Return the environment's name, given the name of a link to one of its builds.

    >>> environment_of("mace@2024.01.15+aarch64-cuda"), environment_of("mace")
    ('mace@2024.01.15', 'mace')
    """
    return link.partition(VARIANT)[0]
