"""``rootstock-site new-env`` and ``check-env``: for those who write an environment file."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import Command
from rootstock.cli.common import json_option, named_cluster, refuse_unused, show_json
from rootstock.cli.parameter_types import CLUSTER, DEVICE, Place
from rootstock.cli.plans import PlanOptions, admin_context
from rootstock.config.model_string import is_environment_name
from rootstock.errors import ConfigurationError, RootstockError, SiteError
from rootstock.root.disk_usage import number_of

if TYPE_CHECKING:
    from rootstock.reports.envfile_lint import Finding
    from rootstock.root.verification_records import Verification


@click.command("new-env", cls=Command)
@click.argument("name")
@click.option("-o", "--output", type=Place(path_type=Path), metavar="FILE",
              help="Where to write it; its name must be NAME.py [default: here].")  # fmt: skip
def new_env(name: str, output: Path | None) -> None:
    """Write NAME.py, an environment file to start from.

    It works as it is, and its comments say what to change. A file that is there is never replaced.

    \b
    Examples:
      rootstock-site new-env mymodel
      rootstock-site new-env mymodel -o environments/mymodel.py
    """
    from rootstock.config.templates import render_template

    if not is_environment_name(name) or name.endswith(".py"):
        raise ConfigurationError(
            f"{name!r} cannot name an environment: it becomes a file and a folder.",
            "Use letters, digits and . _ - such as mymodel; without .py.",
        )
    path = output or Path(f"{name}.py")
    if path.name != f"{name}.py":
        raise ConfigurationError(
            f"An environment is called as its file: {path} would not be {name!r}.",
            f"Give -o {path.with_name(f'{name}.py')}, or another NAME.",
        )
    _write_new(path, render_template("environment.py.j2", {"name": name}, ()))
    click.echo(f"Wrote {path}. Change it, then: rootstock-site check-env {path} --build")


def _write_new(path: Path, text: str) -> None:
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise ConfigurationError(f"{path} exists, and is left as it is.", "Name another file with -o.") from None
    except OSError as error:
        raise SiteError(f"Cannot write {path}: {error.strerror}.", "Name a file elsewhere with -o.") from error
    try:
        with file:
            file.write(text)
    except OSError as error:
        path.unlink(missing_ok=True)  # no half of it
        raise SiteError(f"Cannot write {path}: {error.strerror}.", "Name a file elsewhere with -o.") from error


@click.command("check-env", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=Place(path_type=Path))
@click.option("--build", is_flag=True, help="If no error is found, build and verify it in a root that is then removed.")
@click.option("--cluster", type=CLUSTER, default="local", show_default=True, metavar="NAME",
              help="With --build: the cluster whose settings hold.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="With --build: a setting of the cluster file, such as uv.cache=/path.")  # fmt: skip
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="With --build: where to verify it.")
@json_option
def check_env(
    files: tuple[Path, ...], build: bool, cluster: str, settings: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Say all that is wrong with environment files.

    They are not executed. Their aliases are compared with each other's, and with those of the files that ship with
    Rootstock. Errors end with 3; warnings alone are no failure. With --build a file is then installed where nobody
    uses it, and its references are computed; that ends as `rootstock-site install` would.

    \b
    Examples:
      rootstock-site check-env mymodel.py
      rootstock-site check-env environments/*.py
      rootstock-site check-env mymodel.py --build --set uv.cache=/scratch/me/uv
    """
    from rootstock.reports.envfile_lint import alias_clashes

    if not build:
        refuse_unused(dict.fromkeys(("cluster", "settings", "device"), "is for --build."))
    if build and len(files) > 1:
        raise ConfigurationError("--build is for one file at a time.", f"For example: check-env {files[0]} --build")
    clashes = alias_clashes(files)
    reports = [_check(file, clashes[file], tell=not as_json) for file in dict.fromkeys(files)]
    errors = sum(report["errors"] for report in reports)
    try:
        if build and not errors:
            run, room = _build(files[0], cluster, settings, device)
            reports[0]["build"] = {"passed": run.passed, "not_run": run.not_run, "checks": run.checks, "room": room}
            if not as_json:
                passed = number_of(run.passed, "check")
                click.echo(f"{files[0]}: built; {passed} passed, {run.not_run} not run ({device})")
                click.echo("For the header: room = {{ megabytes = {megabytes}, files = {files} }}".format(**room))
    except RootstockError as error:
        reports[0]["build"] = {"error": error.message}
        raise
    finally:
        if as_json:
            show_json(reports[0] if len(reports) == 1 else {"schema": 1, "errors": errors, "files": reports})
    if errors:
        sys.exit(ConfigurationError.exit_code)


def _check(file: Path, clashes: list[Finding], *, tell: bool) -> dict[str, Any]:
    """Check one file, and return what was found for programs."""
    from rootstock.reports.envfile_lint import ERROR, batch_methods, check_environment

    findings, methods = [*check_environment(file), *clashes], batch_methods(file)
    errors = sum(finding.severity == ERROR for finding in findings)
    if tell:
        for finding in findings:
            where = file if finding.line is None else f"{file}:{finding.line}"
            click.echo(f"{where}: {finding.severity}: {finding.text}")
        if "calculate_batch" in methods:
            found = ", ".join(
                f"{name} (line {line})" for name, line in sorted(methods.items(), key=lambda each: each[1])
            )
            click.echo(f"{file}: supports batches: {found}")
        click.echo(f"{file}: {errors} errors, {len(findings) - errors} warnings")
    return {
        "schema": 1, "file": str(file), "errors": errors, "warnings": len(findings) - errors,
        "findings": [asdict(finding) for finding in findings], "batch": methods,
    }  # fmt: skip


def _build(file: Path, cluster: str, settings: tuple[str, ...], device: str) -> tuple[Verification, dict[str, int]]:
    """Install an environment into a root that is removed again; return what was verified, and what the build takes."""
    from rootstock.admin.install_plan import plan_install
    from rootstock.config.site import find_site
    from rootstock.reports.catalogue import read_environment
    from rootstock.root.permissions import remove_tree

    folder = Path(tempfile.mkdtemp(prefix="rootstock-check-"))
    try:
        site = find_site(named_cluster(cluster), folder / "root", settings)
        plan = plan_install(site, [str(file.absolute())], device=device, client=False)
        with admin_context(PlanOptions()) as admin:
            plan.apply(admin)
        environment = read_environment(site.layout, file.stem)
        verification, record = environment.verification, environment.record
        assert verification is not None  # it has just written both
        assert record is not None
        return verification, {"megabytes": -(-record.bytes // 10**6), "files": record.files}
    finally:
        remove_tree(folder)
