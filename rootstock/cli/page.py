"""``rootstock-site page``: what a root offers, for a web server or a browser."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.common import Command, cluster_options, found, json_option, show_json
from rootstock.config.site import find_site


@click.command(cls=Command)
@cluster_options
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR",
              help="Write DIR/index.html and DIR/status.json.")  # fmt: skip
@click.option("--sizes", is_flag=True, help="Measure what each part of the root takes; looks at every file.")
@json_option
def page(cluster: str | None, root: Path | None, output: Path, sizes: bool, as_json: bool) -> None:
    """Write a page of the models that a root offers.

    It has their exact names, versions, licences, verification, and how to load them. The page is one file that needs no
    server and no network, and status.json is the same for programs. Run it after each change, for example from
    {root}/hooks/post-install. Names of users are not on it.

    \b
    Examples:
      rootstock-site page --root ~/rootstock -o /tmp/models
      rootstock-site page --cluster della -o /var/www/html/models --sizes
    """
    from rootstock.reports.page import read_page, write_page
    from rootstock.root.disk_usage import number_of

    site = found(find_site(cluster, root, installed=True))
    read = read_page(site, sizes=sizes)
    html, data = write_page(read, output.absolute(), site.template_dirs)
    for name, problem in read.problems.items():
        click.echo(f"Environment {name} is not on it: {problem}", err=True)
    if as_json:
        show_json({"schema": 1, "html": str(html), "json": str(data), "problems": dict(read.problems)})
    else:
        click.echo(
            f"{html}: {number_of(len(read.models), 'model')} of {number_of(len(read.environments), 'environment')}"
        )
        click.echo(str(data))
