"""Environment files as tests write them."""

from __future__ import annotations

import json

# What keeps ASE small, in the words of uv's `override-dependencies` and `constraint-dependencies`. ASE asks for
# matplotlib, whose installation takes a third of the time and which no test draws with: a requirement that holds
# nowhere. And workers with EMT or Lennard-Jones import scipy: with 1.15 they start in a fifth less time than with 1.17.
NO_MATPLOTLIB = "matplotlib ; sys_platform == 'never'"
QUICK_SCIPY = "scipy<1.16 ; python_version < '3.14'"
# The same, for environments that are packaged: settings of a site, and as options of `rootstock-site install`.
SMALL_ASE = (f"uv.overrides={NO_MATPLOTLIB}", f"uv.constraints={QUICK_SCIPY}")
WITH_SMALL_ASE = tuple(word for setting in SMALL_ASE for word in ("--set", setting))


def header(*tables: str, dependencies: tuple[str, ...] = ("ase>=3.23",), python: str = ">=3.10") -> str:
    """Return the header of an environment file (PEP 723), with its last line's end.

    Parameters
    ----------
    *tables : str
        Lines of TOML, or several at once, that follow the requirements, such as ``[tool.rootstock]``.
    dependencies : tuple of str
    python : str
        Which versions of Python will do; no word of it if empty.
    """
    lines = [f"requires-python = {json.dumps(python)}"] if python else []
    lines += [f"dependencies = {json.dumps(list(dependencies))}", *"\n".join(tables).splitlines()]
    if any(each.startswith("ase") for each in dependencies):
        if "[tool.uv]" not in lines:
            lines.append("[tool.uv]")
        at = lines.index("[tool.uv]") + 1
        lines[at:at] = [
            f"override-dependencies = [{json.dumps(NO_MATPLOTLIB)}]",
            f"constraint-dependencies = [{json.dumps(QUICK_SCIPY)}]",
        ]
    return "# /// script\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines) + "# ///\n"
