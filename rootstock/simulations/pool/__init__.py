"""Several drivers on one node, each with a worker of its own."""
