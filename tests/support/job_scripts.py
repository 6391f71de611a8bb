"""The job scripts of all known clusters, as the project keeps them in ``tests/site/job_scripts``.

To write them anew: ``python -m tests.support.job_scripts``
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rootstock.config.clusters import Cluster, cluster_from, cluster_names, packaged_scopes
from rootstock.config.job_scripts import RunJob, render_run_job
from rootstock.config.site import Site
from rootstock.root.layout import RootLayout
from rootstock.simulations.submission.plan import Request, plan_jobs

FOLDER = Path(__file__).parents[1] / "site" / "job_scripts"
_RUN = "/home/ann/many-relaxed.run"
_GPUS = 64
# No known cluster has Flux.
_FLUX = Cluster(
    "flux", {}, root="/opt/rootstock", scheduler="flux", accelerator="rocm", whole_nodes=True, gpus_per_node=4,
    cpus_per_gpu=24, partition="pbatch", account="chem",
)  # fmt: skip


def rendered() -> dict[str, str]:
    """Return the script of a run of many structures, by the name of the cluster."""
    registry = packaged_scopes()
    known = [cluster_from(registry, name) for name in cluster_names(registry)]
    return {cluster.name: _script(cluster) for cluster in [*known, _FLUX] if cluster.scheduler != "none"}


def _script(cluster: Cluster) -> str:
    site = Site(RootLayout(Path("/opt/rootstock")), replace(cluster, account=cluster.account or "chem"))
    plan = plan_jobs(site.cluster, Request(_GPUS, walltime="2h"), 10**6)
    command = ["/opt/rootstock/client/VERSION/bin/rootstock", "run", "continue", _RUN, "--workers", "auto"]
    job = RunJob(
        [*command, "--grace", f"{plan.grace:g}"], plan.shares, plan.nodes, plan.seconds, plan.options, "rs-0123abcd",
        Path(_RUN, "jobs", "0001"),
    )  # fmt: skip
    return render_run_job(site, job, version="VERSION")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / f"{name}.sh").write_text(text)
