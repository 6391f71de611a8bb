"""Time of a build from a warm cache, against uv alone: ``uv venv`` and ``uv sync --compile-bytecode`` of the same lock.

    python benchmarks/build_cost.py [--env emt] [--repeat 3] [--set uv.find-links=/path/to/wheels]

The first installation, which is not counted, fills uv's cache in a temporary root. Then the two take turns, so that
whatever else the machine does meets both.

Ours is ``rootstock-site install`` as a whole, from its start to its end: the plan, the check of the lock, uv's
installation, bytecode, and what uv has none of: every file is hashed and compared with its RECORD, a list of all hashes
and a bill of materials are written, modes are set. Only the verification, which computes with the model, is reported by
itself. What counts is the median of the ratios of all turns.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rootstock.builds.plan import RECIPE
from rootstock.builds.uv import find_uv
from rootstock.builds.variables import clean_variables
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree

LIMIT = 1.5
SITE = Path(sys.executable).with_name("rootstock-site")
# What a step is counted as, by the words that begin the line which tells of it.
PHASES = {
    "locking": "locking", "installing": "installing", "compiling": "compiling", "checking files": "checking files",
    "starting a worker": "verification", "publishing": "publishing", "ready": "the end",
}  # fmt: skip


def install(root: Path, environment: str, options: list[str]) -> dict[str, float]:
    """Run ``rootstock-site install``, and return the seconds of each part of it."""
    command = [str(SITE), "install", "--cluster", "local", "--root", str(root), "--env", environment, "--no-client"]
    command.append("--yes")  # nobody is asked
    begun = time.perf_counter()
    parts, phase, since = dict.fromkeys(["the beginning", *PHASES.values()], 0.0), "the beginning", begun
    lines = []
    with subprocess.Popen(
        [*command, "--yes", *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env=clean_variables(),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            step = re.sub(r"^\S+ \S+: ", "", line)
            if name := next((name for words, name in PHASES.items() if step.startswith(words)), None):
                now = time.perf_counter()
                parts[phase] += now - since
                phase, since = name, now
    parts[phase] += time.perf_counter() - since
    if process.returncode or phase != "the end":
        sys.exit("".join(lines))
    return parts


def uv_alone(build: Path, target: Path, interpreter: str, variables: Mapping[str, str]) -> float:
    """Make the same environment with uv, and return the seconds."""
    begun = time.perf_counter()
    for command, more in (
        (["venv", "--relocatable", "--no-project", "--python", interpreter, str(target)], {}),
        (["sync", "--script", str(build / RECIPE), "--locked", "--active", "--python", interpreter,
          "--compile-bytecode"], {"VIRTUAL_ENV": str(target)}),
    ):  # fmt: skip
        subprocess.run([find_uv(), *command], env={**variables, **more}, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="emt")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    options = [f"--set={setting}" for setting in arguments.settings]
    with tempfile.TemporaryDirectory() as folder:
        layout = RootLayout(Path(folder, "root"))
        install(layout.root, arguments.env, options)
        link, target = layout.active(arguments.env), Path(folder, "uv")
        recipe = Path(folder, "recipe")
        recipe.mkdir()
        for path in link.resolve().glob(f"{RECIPE}*"):
            (recipe / path.name).write_bytes(path.read_bytes())
        interpreter = os.path.realpath(link / "bin" / "python")
        variables = {**clean_variables(), "UV_CACHE_DIR": str(layout.uv_cache), "UV_NO_CONFIG": "1"}
        print(f"{arguments.env}: {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the beginning")
        pairs = []
        for _ in range(arguments.repeat):
            remove_tree(link.resolve())
            link.unlink()
            parts = install(layout.root, arguments.env, options)
            pairs.append((uv_alone(recipe, target, interpreter, variables), parts))
            remove_tree(target)
            print(f"  uv {pairs[-1][0]:.2f} s   install {sum(parts.values()):.2f} s", flush=True)
        remove_tree(layout.root)
    report(pairs)


def report(pairs: list[tuple[float, dict[str, float]]]) -> None:
    """Print medians over all turns."""
    parts = {name: statistics.median(turn[name] for _, turn in pairs) for name in pairs[0][1]}
    verification = parts.pop("verification")
    ratio = statistics.median((sum(turn.values()) - turn["verification"]) / uv for uv, turn in pairs)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    print(f"uv alone       {statistics.median(uv for uv, _ in pairs):.2f} s")
    print(f"install        {sum(parts.values()):.2f} s: {', '.join(f'{n} {s:.2f}' for n, s in parts.items())}")
    print(f"verification   {verification:.2f} s, not counted")
    print(f"ratio          {ratio:.2f}, the limit is {LIMIT}: {'kept' if ratio <= LIMIT else 'MISSED'}")


if __name__ == "__main__":
    main()
