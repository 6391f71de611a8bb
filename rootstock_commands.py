"""Where the command lines begin: they refuse to run another project's package of our name.

Package indexes know another project as ``rootstock``. Where Python finds that one before ours, say by ``PYTHONPATH``,
only a module of another name can tell.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def rootstock() -> None:
    """Run ``rootstock``."""
    _run("rootstock")


def rootstock_site() -> None:
    """Run ``rootstock-site``."""
    _run("rootstock_site")


def _run(name: str) -> None:
    ours, spec = Path(__file__).with_name("rootstock"), find_spec("rootstock")
    found = Path(spec.origin).parent if spec and spec.origin else None
    if found is None or found.resolve() != ours.resolve():
        sys.stderr.write(
            f"Error: This command belongs to the package rootstock in {ours}; Python imports "
            f"{found or 'none'} instead.\n"
            "That is another project, or another version. Run 'unset PYTHONPATH', or remove that folder.\n"
        )
        raise SystemExit(3)
    from rootstock import cli

    getattr(cli, name)()
