"""The i-PI protocol, for peers that are not ours.

i-PI calls *server* the program that moves atoms and asks for forces, and *driver* or *client* the one that computes
them. What drives a Rootstock model over this protocol is a server; ``rootstock worker`` is its driver.

`messages` are the messages as values, `codec` turns them into bytes and back, `states` says what may follow what.
None of them does input or output. `driver` connects to a server and answers it.

The protocol is described in i-PI's documentation, "Distributed execution", and in V. Kapil et al., Comput. Phys.
Commun. 236, 214 (2019), doi:10.1016/j.cpc.2018.09.020.
"""
