"""Several workers of one node compute a run: one driver process for each GPU, or each group of processors.

The pool hands out indices of structures. A driver has a worker, steps optimizers, and records results in parts of its
own. Each has a pair of sockets with the pool, and nothing that two of them share can be broken by the end of one.
"""
