"""From a model string to a running worker process, and one question to it at a time."""
