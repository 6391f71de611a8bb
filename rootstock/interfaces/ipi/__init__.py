"""The i-PI protocol, for peers that are not ours.

i-PI calls *server* the program that moves atoms and asks for forces, and *driver* or *client* the one that computes
them. Both sides are here. ``rootstock worker`` is a driver: i-PI, or whatever else is a server, asks a Rootstock
model. `IPICalculator` is a server: ASE asks LAMMPS, or whatever else is a driver.

`messages` are the messages as values, `codec` turns them into bytes and back, `states` and `server` say what may
follow what on either side, `cells` which cells may be sent. None of them does input or output. `driver` connects to
a server and answers it; `listener`, `candidates`, `process`, `connection` and `clients` are how a server gets and keeps
its driver.

The protocol is described in i-PI's documentation, "Distributed execution", and in V. Kapil et al., Comput. Phys.
Commun. 236, 214 (2019), doi:10.1016/j.cpc.2018.09.020.
"""
