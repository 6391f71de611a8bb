"""The command lines. Only here is anything printed, and only here does the process end."""
