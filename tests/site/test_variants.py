"""Builds of one environment for several machines and accelerators, beside each other in one root."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.builds.uv_scripts import recipe_text
from rootstock.client.resolve import resolve
from rootstock.config.clusters import get_cluster
from rootstock.errors import ConfigurationError, RootError
from rootstock.reports.catalogue import read_catalogue
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from rootstock.root.variants import fitting_build
from tests.support.commands import ASKING, ROOTSTOCK, SITE, ordinary, run
from tests.support.needs import need
from tests.support.tiny_root import TinyRoot, make_wheel, write_wheel

HERE = platform.machine()


@pytest.fixture
def tiny_site(site, tmp_path):
    """Return a root whose one environment takes its packages from a folder, and how to run a command on it."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")

    def command(word, *arguments, prefix=(), check=True):
        yes = ["--yes"] if word in ASKING else []
        return run(*prefix, *ordinary(), SITE, word, *yes, "--root", root.path, *arguments, check=check)

    command("install", "--cluster", "local", *INSTALL)
    return root, command


INSTALL = ("--env", "tiny", "--no-client")


def links(root):
    return {path.name: path.resolve().name for path in root.layout.all_active.iterdir()}


def test_a_build_for_another_accelerator_goes_beside_the_main_one(tiny_site):
    root, command = tiny_site
    main = root.active().name
    done = command("install", *INSTALL, "--accelerator", "cuda")
    assert f"build tiny+{HERE}-cuda with Python" in done.stdout
    assert links(root).keys() == {"tiny", f"tiny+{HERE}-cuda"}
    assert links(root)["tiny"] == main
    cuda = links(root)[f"tiny+{HERE}-cuda"]
    assert read_build(root.layout.build("tiny", cuda)).accelerator == "cuda"
    for more in ((), ("--accelerator", "cuda"), ("--accelerator", "cpu")):
        assert "nothing to do" in command("install", *INSTALL, *more).stdout
    # The same requirements share a lock.
    assert [path.name for path in root.layout.environments.glob("*.lock")] == ["tiny.py.lock"]
    (environment,) = json.loads(command("status", "--json").stdout)["environments"]
    assert (environment["digest"], environment["variants"]) == (
        main,
        {f"{HERE}-cuda": {"build": cuda, "computes_on": "cpu"}},
    )
    assert f"environment tiny for {HERE}-cuda computing on cpu: build {cuda}\n" in command("status").stdout
    files = command("verify", "--files").stdout
    assert f"tiny, {HERE}-cpu (main): as published" in files
    assert f"tiny, {HERE}-cuda computing on cpu: as published" in files
    (model,) = read_catalogue(root.layout).models
    assert model.built_for == (f"{HERE} cpu",)  # its packages know no GPU, whatever it was made for
    devices = ("", "cpu", "cuda", "cuda:1", "xpu")
    chosen = {device: resolve(root.layout, "tiny", device, "build").build.name for device in devices}
    assert chosen == {"": main, "cpu": main, "cuda": cuda, "cuda:1": cuda, "xpu": main}


def test_rollback_and_gc_know_variants(tiny_site):
    root, command = tiny_site
    command("install", *INSTALL, "--accelerator", "cuda")
    both = links(root)
    command("rollback")
    assert links(root) == {"tiny": both["tiny"]}
    command("rollback", "--to", 2)
    assert links(root) == both
    # What is in use stays; what is not goes, though it is of the same environment.
    root.require("rsbeta")
    command("install", *INSTALL, "--accelerator", "cuda")
    after = links(root)
    assert (after["tiny"], after[f"tiny+{HERE}-cuda"] != both[f"tiny+{HERE}-cuda"]) == (both["tiny"], True)
    command("gc", "--keep", 1, "--older-than", 0, "--yes")
    assert {path.name for path in root.layout.builds("tiny").iterdir()} == set(after.values())


def test_a_build_for_another_processor(tiny_site):
    need(HERE == "x86_64", "a processor that setarch can make another of")
    root, command = tiny_site
    main = root.active().name
    other = ("setarch", "i686")
    assert "build tiny+i686-cpu with Python" in command("install", *INSTALL, prefix=other).stdout
    assert links(root)["tiny"] == main
    assert "nothing to do" in command("install", *INSTALL, prefix=other).stdout
    assert "nothing to do" in command("install", *INSTALL).stdout
    ask = "import sys; from pathlib import Path; from rootstock.client.resolve import resolve\n"
    ask += "from rootstock.root.layout import RootLayout\n"
    ask += "print(resolve(RootLayout(Path(sys.argv[1])), 'tiny', 'cpu').build.name)"
    said = [run(*prefix, sys.executable, "-c", ask, root.path, check=True).stdout.strip() for prefix in ((), other)]
    assert said == [main, links(root)["tiny+i686-cpu"]]
    # Without a build for this machine, the error says which there are.
    root.layout.active("tiny").unlink()
    with pytest.raises(RootError) as error:
        RootstockCalculator("tiny", root=root.path, device="cuda").get_property("energy", bulk("Cu"))
    assert error.value.message == (
        f"Environment 'tiny' has no build in {root.path} for device 'cuda' on x86_64. It has: i686-cpu."
    )
    assert error.value.hint == (
        f"An admin adds one, on such a machine: rootstock-site install --root {root.path} --env tiny"
    )


def with_torch(root, built_for):
    """Let an environment have a torch that is built for such GPUs; it cannot be imported."""
    flags = {name: "'12.8'" if name == built_for else "None" for name in ("cuda", "hip", "xpu")}
    text = "".join(f"{name}: Optional[str] = {value}\n" for name, value in flags.items())
    write_wheel(root.wheels, "torch", "2.9.0", {"torch/__init__.py": b"", "torch/version.py": text.encode()})
    root.require("rsalpha", "torch")


@pytest.mark.parametrize(("built_for", "label"), [("cuda", "cuda"), ("", "cpu"), ("hip", "rocm")])
def test_a_build_is_labelled_by_what_its_torch_computes_on(tiny_site, built_for, label):
    root, command = tiny_site
    with_torch(root, built_for)
    done = command("install", *INSTALL, "--set", "hardware.accelerator=cuda")
    remark = f"made for cuda, its packages compute on {label}"
    assert (remark in done.stderr) == (label != "cuda")
    record = read_build(root.layout.active("tiny", f"{HERE}-cuda").resolve())
    assert (record.accelerator, record.computes_on) == ("cuda", label)
    (model,) = read_catalogue(root.layout).models
    assert f"{HERE} {label}" in model.built_for
    assert f"tiny: built for {HERE} {label}" in run(ROOTSTOCK, "doctor", "--root", root.path).stdout
    assert "nothing to do" in command("install", *INSTALL).stdout


def test_a_gpu_of_another_kind_is_not_served(tiny_site):
    root, command = tiny_site
    link = root.layout.active("tiny")
    with_torch(root, "cuda")
    command("install", *INSTALL, "--accelerator", "cuda")
    link.unlink()
    (root.layout.all_active / f"tiny+{HERE}-cuda").rename(link)
    assert fitting_build(root.layout, "tiny", "cpu") == fitting_build(root.layout, "tiny", "cuda:0") == link.resolve()
    with pytest.raises(RootError, match=rf"for device 'xpu' on {HERE}\. It has: {HERE}-cuda \(main\)\.") as error:
        fitting_build(root.layout, "tiny", "xpu")
    assert error.value.hint.endswith("--env tiny --accelerator xpu")


def test_the_same_numbers_from_a_variant(site, like_root, tmp_path):
    base = tmp_path / "root"
    for more in ((), ("--accelerator", "cuda")):
        site("install", "--cluster", "local", "--root", base, "--env", "emt", "--no-client", *like_root, *more)
    energies = set()
    for device in ("cpu", "cuda"):
        with RootstockCalculator("emt", root=base, device=device) as calculator:
            energies.add(calculator.get_property("energy", bulk("Cu")))
    assert len(energies) == 1
    builds = [active_build(path) for path in RootLayout(base).all_active.iterdir()]
    assert sorted(read_build(build).accelerator for build in builds) == ["cpu", "cuda"]
    assert all(read_build(build).verification for build in builds)


def index_of(folder, *names, version="1.0", needs=()):
    """Make a package index that has some packages."""
    for name in names:
        wheels = folder / name
        wheels.mkdir(parents=True)
        wheel = make_wheel(wheels, name.replace("-", "_"), version, needs=needs)
        (wheels / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return folder.as_uri()


def index_of_torch(folder, version):
    """Make a package index that has torch and what it needs for a GPU."""
    return index_of(folder, "torch", "triton-rocm", version=version)


def test_packages_of_the_torch_index_are_known_however_they_are_spelt():
    rocm = replace(
        get_cluster("local"), accelerator="rocm", torch_rocm="file:///rocm", torch_packages=("triton_rocm", "other")
    )

    def locked(*dependencies):
        recipe = recipe_text({"dependencies": list(dependencies)}, rocm, "rocm")
        header = tomllib.loads("\n".join(line[2:] for line in recipe.splitlines()[1:-1]))
        return header["dependencies"], "index" in header.get("tool", {}).get("uv", {})

    wanted = ["Torch>=2; sys_platform != 'win32'", "Triton.ROCm"]
    assert locked(*wanted) == ([*wanted, "other"], True)
    assert locked("pytorch") == (["pytorch"], False)
    assert locked("torch of some kind") == (["torch of some kind"], False)  # uv says what is wrong with it


def test_torch_comes_from_the_index_for_the_accelerator(tiny_site, tmp_path):
    root, command = tiny_site
    indexes = {name: index_of_torch(tmp_path / name, f"2.0+{name}") for name in ("cpu", "rocm")}
    command(
        "install", *INSTALL, "--set", "hardware.accelerator=rocm", "--set", "uv.torch-packages=triton-rocm",
        *(f"--set=uv.torch-index.{name}={url}" for name, url in indexes.items()),
    )  # fmt: skip
    for path in root.layout.all_active.iterdir():
        path.unlink()
    text = root.layout.environment_file("tiny").read_text()
    # Found in the folder of wheels too, and there newer.
    make_wheel(root.wheels, "torch", "3.0")
    # In place of PyPI, which has a torch too: an index that has nothing.
    (tmp_path / "nothing").mkdir()
    nothing = f'index-url = "{(tmp_path / "nothing").as_uri()}"'
    for old, new in (('["rsalpha"]', '["rsalpha", "torch"]'), ("no-index = true", nothing)):
        assert old in text
        text = text.replace(old, new)
    root.layout.environment_file("tiny").write_text(text)
    command("install", *INSTALL)
    command("install", *INSTALL, "--accelerator", "cpu")
    found = {name: read_build(path.resolve()) for path in root.layout.all_active.iterdir() for name in [path.name]}
    assert found["tiny"].packages == {"rsalpha": "1.0", "torch": "2.0+rocm", "triton_rocm": "2.0+rocm"}
    assert found[f"tiny+{HERE}-cpu"].packages == {"rsalpha": "1.0", "torch": "2.0+cpu"}
    locks = {path.name: path.read_text() for path in root.layout.environments.glob("*.lock")}
    assert locks.keys() == {"tiny.py.lock", "tiny+cpu.py.lock"}
    assert {p["version"] for p in tomllib.loads(locks["tiny+cpu.py.lock"])["package"]} == {"1.0", "2.0+cpu"}
    for more in ((), ("--accelerator", "cpu")):
        assert "nothing to do" in command("install", *INSTALL, *more).stdout
    assert command("lock", "--check").returncode == 0
    os.unlink(root.layout.lock_file("tiny", "cpu"))
    assert "environments/tiny+cpu.py.lock" in command("lock", "--check", check=False).stdout


def test_a_damaged_build_does_not_keep_the_others_from_serving(tiny_site):
    root, command = tiny_site
    with_torch(root, "cuda")
    command("install", *INSTALL)
    command("install", *INSTALL, "--accelerator", "cuda")
    main, cuda = (root.layout.active(*of).resolve() for of in (["tiny"], ["tiny", f"{HERE}-cuda"]))

    def damage(build):
        record = build / "build.json"
        for path in (build, record):
            path.chmod(0o700)
        text = record.read_text()
        record.write_text("{")
        return lambda: record.write_text(text)

    mend = damage(cuda)
    assert fitting_build(root.layout, "tiny", "cpu") == fitting_build(root.layout, "tiny", "cuda") == main
    mend()
    damage(main)
    assert fitting_build(root.layout, "tiny", "cuda") == fitting_build(root.layout, "tiny", "") == cuda
    with pytest.raises(RootError, match=rf"Cannot read {main}/build\.json") as error:
        fitting_build(root.layout, "tiny", "xpu")
    assert error.value.hint.endswith(f"rootstock-site repair --root {root.layout.root} --env tiny")
    damage(cuda)
    with pytest.raises(RootError, match="Cannot read"):
        fitting_build(root.layout, "tiny", "")


def accelerated(root, **accelerators):
    """Give the environment of a tiny root what builds for some accelerators have besides."""
    path = root.layout.environment_file("tiny")
    tables = [
        f"# [tool.rootstock.accelerators.{name}]\n"
        + "".join(f"# {key} = {json.dumps(value)}\n" for key, value in part.items())
        for name, part in accelerators.items()
    ]
    head, _, rest = path.read_text().partition("# ///\ndef")
    path.write_text(f"{head}{''.join(tables)}# ///\ndef{rest}")


def test_an_accelerator_has_packages_of_its_own(tiny_site, tmp_path):
    root, command = tiny_site
    for version in ("1.0", "2.0"):
        make_wheel(root.wheels, "rsforcpu", version)
    cuda = index_of(tmp_path / "cuda", "rsforcuda", needs=("rsbeta",))
    accelerated(
        root,
        cpu={"dependencies": ["rsforcpu>=1", "rsalpha<9"], "overrides": ["rsforcpu==1.0"]},
        cuda={
            "dependencies": ["rsforcuda"],
            "indexes": [cuda],
            "overrides": ["rsbeta ; sys_platform == 'never'"],
        },
        rocm={"indexes": ["relative/simple"]},
    )
    text = root.layout.environment_file("tiny").read_text().replace("# no-index = true\n", "")
    nothing = (tmp_path / "nothing").as_uri()
    (tmp_path / "nothing").mkdir()
    root.layout.environment_file("tiny").write_text(text)
    command("install", *INSTALL, "--set", f"uv.default-index={nothing}")
    command("install", *INSTALL, "--accelerator", "cuda")
    packages = {path.name: read_build(path.resolve()).packages for path in root.layout.all_active.iterdir()}
    assert packages == {
        "tiny": {"rsalpha": "1.0", "rsforcpu": "1.0"},
        f"tiny+{HERE}-cuda": {"rsalpha": "1.0", "rsforcuda": "1.0"},
    }
    locks = {path.name: path.read_text() for path in root.layout.environments.glob("*.lock")}
    assert locks.keys() == {"tiny.py.lock", "tiny+cuda.py.lock"}
    assert "rsforcuda" not in locks["tiny.py.lock"] and "rsforcpu" not in locks["tiny+cuda.py.lock"]
    for more in ((), ("--accelerator", "cuda")):
        assert "nothing to do" in command("install", *INSTALL, *more).stdout
    assert command("lock", "--check").returncode == 0
    done = command("install", *INSTALL, "--accelerator", "rocm", check=False)
    assert (
        "[tool.rootstock.accelerators.rocm] in an environment file names 'relative/simple', a relative path"
        in done.stderr
    )
    # Where uv makes an environment, it is for the accelerator of the cluster.
    launch = resolve(root.layout, "tiny", mode="uv-run").launch()
    recipe = Path(launch.command[-1]).read_text()
    assert "rsforcpu" in recipe and "rsforcuda" not in recipe


def test_an_accelerator_that_nobody_knows_is_refused(tiny_site):
    root, command = tiny_site
    accelerated(root, gpu={"dependencies": ["rsbeta"]})
    done = command("install", *INSTALL, check=False)
    assert done.returncode == ConfigurationError.exit_code and "'gpu', which is no accelerator" in done.stderr
    assert "Known accelerators: cpu, cuda, rocm, xpu." in done.stderr
