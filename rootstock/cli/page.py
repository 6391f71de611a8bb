"""``rootstock-site page``: what a root offers, for a web server or a browser."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.command import Command
from rootstock.cli.common import json_option, show_json, site_options, tell_problems
from rootstock.cli.parameter_types import Place
from rootstock.config.site import Site


@click.command(cls=Command)
@site_options
@click.option("--output", "-o", type=Place(file_okay=False, path_type=Path), required=True, metavar="DIR",
              help="Write DIR/index.html and DIR/status.json.")  # fmt: skip
@click.option("--sizes", is_flag=True, help="Measure what each part of the root takes; looks at every file.")
@json_option
def page(site: Site, output: Path, sizes: bool, as_json: bool) -> None:
    """Write a page of the models that a root offers.

    It has their exact names, versions, licences, verification, and how to load them. The page is one file that needs no
    server and no network, and status.json is the same for programs. Run it after each change, for example from
    {root}/hooks/post-install. The page names no users.

    \b
    Examples:
      rootstock-site page --root ~/rootstock -o /tmp/models
      rootstock-site page --cluster della -o /var/www/html/models --sizes
    """
    from rootstock.reports.page import read_page, write_page
    from rootstock.root.disk_usage import number_of

    content = read_page(site, sizes=sizes)
    html, data = write_page(content, output.absolute(), site.templates)
    tell_problems(content.problems, "not on the page")
    if as_json:
        show_json({"schema": 1, "html": str(html), "json": str(data), "problems": content.to_json()["problems"]})
    else:
        models = number_of(len(content.models), "model")
        environments = number_of(len(content.environments), "environment")
        click.echo(f"{html}: {models} of {environments}")
        click.echo(str(data))
