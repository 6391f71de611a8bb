"""Checks of what a user brings along: variables, other environments, threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rootstock import __version__
from rootstock.config.packaged import PACKAGE
from rootstock.config.site import installed_versions
from rootstock.reports.doctor.finding import DoctorContext, Finding, check, ok, warning
from rootstock.root.records import read_marker


@check
def variables(context: DoctorContext) -> Iterator[Finding]:
    """Check that the variables fit the root, and that none is set that disturbs."""
    warnings = [*_of_rootstock(context), *_of_others(), *_of_import(context)]
    yield from warnings
    if not warnings:
        loaded = f"version {os.environ['ROOTSTOCK_VERSION']} is loaded" if "ROOTSTOCK_VERSION" in os.environ else (
            "no module is loaded, none is needed"
        )  # fmt: skip
        yield ok(f"nothing disturbs; {loaded}")


def _of_rootstock(context: DoctorContext) -> Iterator[Finding]:
    marker, again = read_marker(context.layout), "Load the module anew: module load rootstock"
    root = os.environ.get("ROOTSTOCK_ROOT")
    if root and os.path.realpath(root) != os.path.realpath(context.layout.root):
        yield warning(f"ROOTSTOCK_ROOT is {root}, and another root is looked at", f"{again}; or leave out --root.")
        return
    cluster = os.environ.get("ROOTSTOCK_CLUSTER")
    if root and cluster and cluster != marker["cluster"]:
        yield warning(f"ROOTSTOCK_CLUSTER is {cluster}, and the root is that of {marker['cluster']}", f"{again}.")
    version = os.environ.get("ROOTSTOCK_VERSION")
    if version and version not in installed_versions(context.layout):
        yield warning(f"ROOTSTOCK_VERSION is {version}, which the root does not hold", f"{again}.")
    elif version and version != __version__:
        program = shutil.which("rootstock")
        yield warning(
            f"the module is of version {version}, and this is rootstock {__version__} ({program})",
            "Something stands before the module's bin folder in PATH: load the module last.",
        )


def _of_others() -> Iterator[Finding]:
    if os.environ.get("PYTHONPATH"):
        yield warning(
            f"PYTHONPATH is set ({os.environ['PYTHONPATH']}): what lies there comes before your Python's packages. "
            "Workers ignore it",
            "unset PYTHONPATH",
        )
    # A container finds the GPU's driver by this variable.
    folders = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if os.path.isdir(path)]
    if folders := [path for path in folders if not Path(path, "libcuda.so.1").exists()]:
        yield warning(
            f"LD_LIBRARY_PATH is set ({':'.join(folders)}): libraries there replace those of a build, in workers too",
            "unset LD_LIBRARY_PATH, or unload the modules that set it (CUDA and compilers are not needed)",
        )
    if os.environ.get("LD_PRELOAD"):
        yield warning(f"LD_PRELOAD is set ({os.environ['LD_PRELOAD']}): workers load it too", "unset LD_PRELOAD")
    conda, python = os.environ.get("CONDA_PREFIX"), shutil.which("python") or ""
    if conda and Path(conda) in Path(python).parents:
        yield warning(
            f"python is conda's, {python}, and not the module's",
            "conda deactivate, then load the module; or install Rootstock's wheel into that environment",
        )


def _of_import(context: DoctorContext) -> Iterator[Finding]:
    """Look at the package that scripts import: package indexes know another project by our name."""
    python = shutil.which("python") or shutil.which("python3")
    if python is None:
        return
    code = "from importlib.util import find_spec; print(getattr(find_spec('rootstock'), 'origin', None) or '')"
    done = subprocess.run([python, "-B", "-c", code], capture_output=True, text=True, check=False)
    file = Path(done.stdout.strip())
    if done.returncode or file.name != "__init__.py" or file.parent.resolve() == PACKAGE.resolve():
        return
    version = re.search(r'^__version__ = "(.+)"', file.read_text(errors="replace"), re.MULTILINE)
    ours = (file.parent / "worker" / "channel").is_dir()
    if not ours or not version or version[1] != __version__:
        yield warning(
            f"{python} imports {f'rootstock {version[1]}' if ours and version else 'another project named rootstock'} "
            f"from {file.parent}, and this is {__version__}",
            "Load the module last, or install the root's wheel there: "
            f"{python} -m pip install --no-deps --no-index {context.layout.runtimes}/{__version__}/rootstock-*.whl",
        )


@check
def threads(context: DoctorContext) -> Iterator[Finding]:  # noqa: ARG001  # every check is given the context
    """Check that the threads of workers fit the processors of this job."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    omp = os.environ.get("OMP_NUM_THREADS", "")
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if omp.split(",")[0].isdigit() and int(omp.split(",")[0]) > processors:
        yield warning(
            f"OMP_NUM_THREADS is {omp}, and this job may use {processors} processors: threads wait for each other",
            f"unset OMP_NUM_THREADS, or set it to {processors}; Rootstock shares the processors among its workers",
        )
    elif slurm.isdigit() and int(slurm) > processors:
        yield warning(
            f"the job was given {slurm} CPUs for each task, and this process may use {processors}",
            "Start it with: srun --cpus-per-task=$SLURM_CPUS_PER_TASK, which newer versions of Slurm need",
        )
    else:
        yield ok(f"{processors} processors; OMP_NUM_THREADS is {omp or 'not set: Rootstock shares them out'}")
