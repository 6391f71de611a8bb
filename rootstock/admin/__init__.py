"""What changes a root: a module for each command of ``rootstock-site``, which plans (reads only) and then applies."""
