"""Programs of this package in another process, with the Python and the package of this one."""

from __future__ import annotations

import sys

from rootstock.config.packaged import PACKAGE

_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from {module} import {function}; {function}()"


def own_python(module: str, function: str) -> list[str]:
    """Return the command that calls a function of this package; what follows it are the function's ``sys.argv[1:]``.

    Nothing is imported from the folder that somebody happens to be in. Our package may lie where a Python does not look
    by itself.

    Parameters
    ----------
    module, function : str
    """
    safe = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, safe, "-c", _PROGRAM.format(module=module, function=function), str(PACKAGE.parent)]
