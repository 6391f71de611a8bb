"""A home that cannot be read, as in a batch job whose ticket has expired: what is elsewhere is read, and serves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.root.layout import RootLayout
from tests.support.commands import Done
from tests.support.folders import open_to_readers
from tests.support.readers import need_readers, run_as_reader

UID = 54323  # has no account on this machine
NOTE = "Note: Cannot read the cluster registry {home}/.config/rootstock/clusters.toml: Permission denied. Its settings"
READING = (
    "rootstock list",
    "rootstock show emt",
    "rootstock why-not emt",
    "rootstock doctor --device cpu --wait 200",
    "rootstock singlepoint emt {structure} --device cpu -o {output}",
    "rootstock-site status",
    "rootstock-site verify --files",
    "rootstock-site page -o {output}.d",
    "rootstock-site lock --check",
    "rootstock-site repair --dry-run",
    "rootstock-site gc --dry-run",
    "rootstock-site default {version} --dry-run",
)
# The root is somebody else's, or has no generation before 1 where: they fail for that alone.
REFUSED = {
    "rootstock-site install --dry-run": "You may not change ",
    "rootstock-site render --check": "You may not change ",
    "rootstock-site warm --dry-run": "You may not change ",
    "rootstock-site uninstall --dry-run": "Only root can remove ",
    "rootstock-site rollback --dry-run": "has no generation before 1 where",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder of the user with a home that lets nobody in, and a structure."""
    need_readers()
    open_to_readers(tmp_path)
    home = tmp_path / "home"
    for folder in (tmp_path / "output", home, home / ".config", home / ".config/rootstock"):
        folder.mkdir()
        os.chown(folder, UID, UID)
    (tmp_path / "atom.xyz").write_text("1\n\nCu 0 0 0\n")
    home.chmod(0)
    return tmp_path


@pytest.fixture
def ask(place: Path, root: Path) -> Callable[..., Done]:
    """Return the function that runs a command as the user of the home."""
    programs = RootLayout(root).client(__version__) / "bin"

    def run_command(*words: str | Path, **variables: str) -> Done:
        variables = {"HOME": str(place / "home")} | variables
        return run_as_reader(UID, [programs / words[0], *words[1:]], place, **variables)

    return run_command


@pytest.mark.parametrize("named", ["option", "variable"])
@pytest.mark.parametrize("line", [*READING, *REFUSED])
def test_commands_do_not_need_it(ask, place, root, line, named):
    words = line.format(structure=place / "atom.xyz", output=place / "output/x.xyz", version=__version__).split()
    done = ask(*words, "--root", root) if named == "option" else ask(*words, ROOTSTOCK_ROOT=str(root))
    assert done.stderr.count("Cannot read the cluster registry") <= 1
    if line in REFUSED:
        assert (done.returncode, REFUSED[line] in done.stderr) == (10, True), done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_told_once(ask, place, root):
    done = ask("rootstock-site", "status", "--root", root, PYTHONWARNINGS="error")
    assert done.stderr == NOTE.format(home=place / "home") + " are not used.\n"
    assert "are not used" not in ask("rootstock", "list", "--root", root).stderr  # it reads no registry


def test_registries_elsewhere_serve(ask):
    done = ask("rootstock", "cluster", "list")
    assert (done.returncode, "\nmodal  " in done.stdout) == (0, True)
    assert ask("rootstock", "cluster", "show", "della").returncode == 0


def test_a_cluster_that_may_be_known_from_there_alone(ask, place):
    done = ask("rootstock", "list", "--cluster", "hill")
    assert done.returncode == 3
    assert "\nError: Unknown cluster 'hill'. Known clusters: alps, " in done.stderr
    said = NOTE.format(home=place / "home").removeprefix("Note: ").removesuffix(" Its settings")
    assert done.stderr.splitlines()[2] == said


def test_a_root_of_ones_own_in_it(ask, place):
    done = ask("rootstock", "warm", "emt", "--dry-run")
    assert done.returncode == 10
    assert done.stderr == (
        f"Error: Cannot use {place}/home/.local/share/rootstock as a root: Permission denied.\n"
        "Name another folder with --root.\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[clusters.local\n", "clusters.toml is not valid TOML: "),
        ('colour = "red"\n', "clusters.toml: unknown key 'colour'"),
        (None, ""),  # a file in place of its folder
    ],
)
def test_a_registry_of_ones_own_that_is_broken(ask, place, root, text, said):
    folder = place / "home/.config/rootstock"
    (place / "home").chmod(0o755)
    if text is None:
        folder.rmdir()
        folder.touch()
    else:
        (folder / "clusters.toml").write_text(text)
    for command in (["show", "emt", "--root", root], ["cluster", "show", "local"]):
        done = ask("rootstock", *command)
        assert (done.returncode, done.stderr.count("Note: "), said in done.stderr) == (0, bool(said), True), done.stderr


def test_a_cluster_of_ones_own_that_is_broken_hides_no_other(ask, place, root):
    (place / "home").chmod(0o755)
    text = '[clusters.local]\nnotes = 3\n[clusters.hill]\nroot = "/hill"\nhosts = ["*"]\n'
    (place / "home/.config/rootstock/clusters.toml").write_text(text)
    done = ask("rootstock", "cluster", "list")
    assert (done.returncode, "\nhill  " in done.stdout, "\nlocal" in done.stdout) == (0, True, False)
    assert done.stderr.startswith("Note: Cluster local is left out: ")
    assert "notes must be a list of strings, not 3.\n" in done.stderr
    assert ask("rootstock", "cluster", "show", "auto").stdout.startswith("[hill]\n")
    code = "from rootstock import CLUSTER_REGISTRY as known; print(known['hill'], 'local' in [*known])"
    done = ask("python", "-W", "ignore", "-c", code)
    assert (done.stdout, done.stderr) == ("/hill False\n", "")


def test_a_calculator(ask, root):
    code = (
        "from ase import Atoms; from rootstock import RootstockCalculator, get_root_for_cluster\n"
        "with RootstockCalculator(model='emt', device='cpu', {}) as calc:\n"
        "    print(Atoms('Cu', calculator=calc).get_potential_energy() > 0)\n"
    )
    done = ask("python", "-W", "error", "-c", code.format(f"root={str(root)!r}"))
    assert (done.stdout, done.stderr) == ("True\n", "")
    done = ask("python", "-W", "error", "-c", code.format(""), ROOTSTOCK_ROOT=str(root))
    assert (done.stdout, done.stderr) == ("True\n", "")
    done = ask("python", "-c", "import rootstock; print([rootstock.get_root_for_cluster('modal') for _ in 'ab'][1])")
    assert done.stdout == "/vol/rootstock\n"
    assert done.stderr.count("RegistryWarning: Cannot read the cluster registry ") == 1


def test_no_home_at_all(place, root):
    """HOME is not set, and there is no account: ASE alone could not even be imported."""
    programs = RootLayout(root).client(__version__) / "bin"
    without = ["env", "--unset=HOME"]
    for line in ("rootstock why-not emt", "rootstock show emt", "rootstock-site verify --files"):
        name, *words = line.split()
        done = run_as_reader(UID, [*without, programs / name, *words, "--root", root], place)
        assert done.returncode == 0, done.stderr
    done = run_as_reader(UID, [*without, programs / "rootstock", "list", "--root", "~nobody-here/root"], place)
    assert (done.returncode, done.stderr) == (
        3,
        "Error: ~nobody-here/root: this machine knows no home folder for ~nobody-here.\n"
        "Set HOME, or write the path without ~.\n",
    )
