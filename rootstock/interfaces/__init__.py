"""How other programs reach a model: ASE, i-PI both ways, LAMMPS."""
