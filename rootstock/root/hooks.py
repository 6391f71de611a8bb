"""A site's own programs, which run before and after a change of the root.

``{root}/hooks/pre-COMMAND`` and ``post-COMMAND`` are run if they are there and executable. One that fails stops what
it stands before. Whoever may write there may run code as whichever admin comes next, as with everything in a root; but
root runs what is root's only.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from rootstock.errors import HookError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import AdminContext
from rootstock.root.ownership import Admins, check_owner, statuses
from rootstock.root.reachability import user_of


def run_hook(layout: RootLayout, moment: str, name: str, cluster: str, admin: AdminContext) -> None:
    """Run a hook of the site, if there is one.

    Parameters
    ----------
    layout : RootLayout
    moment : {'pre', 'post'}
    name : str
        The command: ``install``, ``default``, ``rollback``, ``gc`` or ``uninstall``.
    cluster : str
    admin : AdminContext
        Their command line is in the hook's variable ``ROOTSTOCK_COMMAND``; what it prints goes to their log.

    Raises
    ------
    HookError
        If it cannot be run, or fails; with its last lines. If somebody else could have written it.
    """
    hook = layout.hook(moment, name)
    if not hook.exists():
        return
    check_hook(layout, hook)
    if not os.access(hook, os.X_OK):
        raise HookError(f"The site's hook {hook} is not executable.", f"chmod u+x {hook}, or rename it.")
    admin.report(f"running {hook.relative_to(layout.root)}")
    variables = os.environ | {
        "ROOTSTOCK_ROOT": str(layout.root), "ROOTSTOCK_CLUSTER": cluster, "ROOTSTOCK_COMMAND": admin.command,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [hook], cwd=layout.root, env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise HookError(f"The site's hook {hook} does not run: {error.strerror}.", "Has it a #! line?") from error
    lines = done.stdout.splitlines()
    for line in lines:
        admin.log(line)
    if done.returncode:
        outcome = "Nothing was changed." if moment == "pre" else f"The {name} itself is done."
        tail = "".join(f"\n  | {line}" for line in lines[-15:])
        raise HookError(f"The site's hook {hook} failed (exit code {done.returncode}). {outcome}{tail}")


def check_hook(layout: RootLayout, hook: Path) -> None:
    """Check that the caller may run a hook. Root runs its own ones only, that nobody else can write to.

    Parameters
    ----------
    layout : RootLayout
    hook : Path

    Raises
    ------
    HookError
        If somebody else could have written it.
    """
    found, admins = statuses(hook), Admins.of(layout)
    if not found or admins is None:
        return
    if os.geteuid() != 0:
        for path in (hook, layout.hooks):
            check_owner(layout, path, admins)
        return
    found += statuses(layout.hooks)
    remedy = f"Look at it, then: chown -h root {layout.hooks} {hook} && chmod go-w {layout.hooks} {hook}"
    if others := [status for status in found if status.st_uid != 0]:
        name = user_of(others[0].st_uid)
        hint = f"Do this as {name}; or make it root's. {remedy}"
        raise HookError(f"Root does not run the site's hook {hook}: it belongs to {name}, or its folder does.", hint)
    if any(status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode) for status in found):
        raise HookError(f"Root does not run the site's hook {hook}: others can write to it, or to its folder.", remedy)
