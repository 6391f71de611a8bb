"""How long a calculator waits unless it is told otherwise, in seconds."""

START_S = 600.0  # from the start of a worker, or of an i-PI client, until it can be asked
EVALUATION_S = 3600.0  # for one evaluation
