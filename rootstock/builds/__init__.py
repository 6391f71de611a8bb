"""From an environment file to an immutable build: plan, lock, interpreter, files, bytecode."""
