"""The worker: runs inside a model's environment, and computes what a client asks for.

These modules, `rootstock.worker.channel` and `rootstock.errors` import the standard library, numpy and ase, and nothing
else: a model's environment holds no more for certain. They run on Python 3.10, which a model may need.
"""
