"""Settings that go into a registry which somebody has written or edited."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rootstock.config.clusters import Scope, cluster_from
from rootstock.config.registry_text import merge_registry
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout

OTHER = '# theirs\n[clusters.other]\nroot = "/x"  # there\n'
RENDERED = """\
# head
default = "hill"

[clusters."hill"]
# mine
description = "x" # so
jobs.scheduler = "slurm"
uv.constraints = [
    "torch==2.8.0",
]

"""


def merged(text: str, **settings: object) -> str:
    scopes = [Scope("file", tomllib.loads(text).get("clusters", {})), Scope("argument", {"hill": settings})]
    site = Site(RootLayout(Path("/r")), cluster_from(scopes, "hill"))
    after = merge_registry(site, text.encode()).decode()
    assert merge_registry(site, after.encode()).decode() == after
    read = tomllib.loads(after)
    assert read["default"] == "hill"
    assert cluster_from([Scope("file", read["clusters"])], "hill").said() == {**site.cluster.said(), "root": "/r"}
    assert read["clusters"].get("other") == tomllib.loads(text).get("clusters", {}).get("other")
    return after


def test_comments_in_a_list_stay() -> None:
    text = '[clusters.hill]\nenvironments = [\n    "emt",  # everybody\n    "orb",  # nobody\n    "lj",\n]\n'
    after = merged(text, environments=["emt", "lj", "chgnet"])
    assert '"emt",  # everybody\n' in after and '"chgnet"' in after and "orb" not in after


@pytest.mark.parametrize(
    "text",
    [
        RENDERED,
        '[clusters.hill.jobs.batch.walltime-max]\n"9" = "9h" # nine\n"1" = "8h"\n' + OTHER,
        '[clusters.hill.jobs.batch]\nwalltime-max = { "9" = "9h" } # nine\n' + OTHER,
        '[clusters.hill.jobs.batch]\nwalltime-max = "9h" # nine\n' + OTHER,
    ],
)
def test_a_table_goes_in(text: str) -> None:
    after = merged(text, **{"jobs.batch.walltime-max": {"1": "2h", "92": "6h"}})
    assert tomllib.loads(after)["clusters"]["hill"]["jobs"]["batch"]["walltime-max"] == {"1": "2h", "92": "6h"}


@pytest.mark.parametrize(
    "text",
    [
        RENDERED + OTHER,
        f'[clusters.hill]\ncontact = "a"\n[clusters.hill.jobs]\nscheduler = "slurm"\n\n{OTHER}',
        '[clusters.hill.jobs]\nscheduler = "slurm"\n[clusters.other]\n[clusters.hill]\ncontact = "a"\n# end\n',
        '[clusters.hill]\ncontact = "a"\n[clusters.other]\n# other\n[clusters.hill.jobs]\nscheduler = "slurm"\n',
        '[clusters]\nhill = { contact = "a", jobs = { scheduler = "slurm" } }\nother = { root = "/x" }\n',
        'clusters = { hill = { contact = "a" } }\n',
        "[\"clusters\".'hill'.access]\nreaders = 'group'\n",
        '[clusters.hill]\npython.interpreter = "auto"\n',
        '[clusters.hill]\r\ncontact = "a"\r\n\r\n# end\r\n',
        f"[clusters.hill]\n\n{OTHER}",
        f'default = "hill"\n\n{OTHER}',
        'default = "other"\n',
        "# nothing\n",
        "",
    ],
)
def test_what_was_there_stays(text: str) -> None:
    settings = {"contact": "b\"'\\", "jobs.network": "none", "uv.constraints": ["a", "b"], "access.readers": "owner"}
    after = merged(text, **settings)
    comments = [line.strip() for line in text.splitlines() if line.startswith("#")]
    assert [line.strip() for line in after.splitlines() if line.startswith("#")] == comments
    assert OTHER in after or OTHER not in text  # a comment stays with what it is of


def test_a_table_with_a_header_takes_new_keys_beside_dotted_ones() -> None:
    """As where somebody has added it to a file that was rendered."""
    added = "[clusters.hill.jobs.batch]\npartition = 'gpu' # ours\n"
    after = merged(RENDERED + added, **{"jobs.scheduler": "slurm", "jobs.batch.account": "chem"})
    again = merged(after, **{"jobs.batch.kill-wait": 60, "jobs.network": "none"})
    assert added + 'account = "chem"\nkill-wait = 60\n' in again


def test_one_value() -> None:
    assert merged(RENDERED + OTHER, description="y", root="/r") == (RENDERED + OTHER).replace(
        '"x" # so', '"y" # so'
    ).replace("]\n\n# theirs", ']\nroot = "/r"\n\n# theirs')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[clusters.hill]\ncontact = "a\n', r"/r/clusters.toml is not valid TOML: .*\(at line 2, column 13\)"),
        ('[clusters.hill]\ncontact = "\udcff"\n', "/r/clusters.toml is not valid TOML: 'utf-8' codec can't decode"),
        (
            'clusters.hill.contact = "a"\nclusters.hill.jobs.scheduler = "slurm"\nclusters.other.root = "/x"\n',
            'in a way that no key can be put into.\nWrite into its table of .hill.:\n  uv.cache = "b"\n  root = "/r"',
        ),
    ],
)
def test_what_cannot_be_merged_is_refused(text: str, message: str) -> None:
    site = Site(RootLayout(Path("/r")), cluster_from([Scope("argument", {"hill": {"uv.cache": "b"}})], "hill"))
    with pytest.raises(ConfigurationError, match=message):
        merge_registry(site, text.encode(errors="surrogateescape"))
