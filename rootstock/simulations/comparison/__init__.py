"""The same structures with several models: how far their energies, forces and stresses agree."""
