"""The native channel between a client and its worker.

Both ends are this package, on one machine, and the client starts the worker. So the channel has no name on any file
system and no port: the worker inherits one end of a socket pair and the descriptor of an anonymous memory file.
Arrays lie in that memory (`memory`), in eV and Angstrom as they are. A frame of fixed size on the socket (`frames`)
says what is there, and wakes the other end (`endpoint`).

An evaluation is one round trip: EVALUATE goes out, RESULT or FAILURE comes back with the same sequence number.
"""
