-- Rendered by Rootstock 2026.12.0 for Lmod; do not edit. To change it, put a modulefile.lua.j2 that extends
-- "rootstock/modulefile.lua.j2" into the root's folder "templates" and run `rootstock-site render`.

whatis("Name: rootstock")
whatis("Version: 2026.12.0")
whatis("Category: chemistry, materials science")
whatis("Keywords: machine-learned interatomic potentials, molecular dynamics, ASE")
whatis("URL: https://researchcomputing.princeton.edu/systems/della")
whatis("Description: Machine-learned interatomic potentials, each in its own environment, as one ASE calculator")

help(table.concat({
    "Rootstock 2026.12.0: machine-learned interatomic potentials, each in its own environment.",
    "",
    "    module load rootstock/2026.12.0",
    "    python",
    "    >>> from rootstock import RootstockCalculator; calc = RootstockCalculator(model=\"mace\")",
    "",
    "`rootstock list` shows the installed models, `rootstock why-not MODEL` what keeps one from running here.",
    "Installed for: Princeton Research Computing, Della",
}, "\n"))

-- One version at a time: Lmod swaps them.
family("rootstock")
conflict("rootstock")

setenv("ROOTSTOCK_ROOT", "/scratch/gpfs/SHARED/rootstock")
setenv("ROOTSTOCK_CLUSTER", "della")
setenv("ROOTSTOCK_VERSION", "2026.12.0")
prepend_path("PATH", "/scratch/gpfs/SHARED/rootstock/client/2026.12.0/bin")
