"""Environment files as tests write them."""

from __future__ import annotations

import json

# ASE asks for matplotlib, whose installation takes a third of the time and which no test draws with: a requirement
# that holds nowhere, in the words of uv's `override-dependencies`.
NO_MATPLOTLIB = "matplotlib ; sys_platform == 'never'"
# The same, for environments that are packaged: an option of `rootstock-site install`.
WITHOUT_MATPLOTLIB = ("--set", f"uv.overrides={NO_MATPLOTLIB}")


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
        lines.insert(lines.index("[tool.uv]") + 1, f"override-dependencies = [{json.dumps(NO_MATPLOTLIB)}]")
    return "# /// script\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines) + "# ///\n"
