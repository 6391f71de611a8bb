"""The optimizers of `ase.optimize` that relax structures here; their names load nothing."""

OPTIMIZERS = ("LBFGS", "BFGS", "FIRE", "LBFGSLineSearch", "BFGSLineSearch", "QuasiNewton", "GPMin", "MDMin")
