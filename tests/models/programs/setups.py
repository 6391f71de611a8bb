"""Call an environment file's setup() several times in one process: FILE CALLS.

CALLS is a JSON list of [model, options, expression]. For each, prints what the expression makes of ``calculator``, or
how setup() failed. One process, because importing a library takes longer than all the rest.
"""

import json
import runpy
import sys

setup = runpy.run_path(sys.argv[1])["setup"]
answers = []
for model, options, expression in json.loads(sys.argv[2]):
    try:
        answers.append(str(eval(expression, {"calculator": setup(model, "cpu", **options)})))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print("RESULT", json.dumps(answers))
