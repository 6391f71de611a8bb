"""A run folder: the results of many structures, recorded one by one, so that a run goes on after whatever ended it.

::

    screening/
      run.json                     what the run is bound to; written last, so a folder that has it is complete
      input.npz                    where each structure of the input is
      input.extxyz                 the input, if that is not one plain file in extended XYZ
      part-TOKEN.extxyz            structures with results; it only grows
      part-TOKEN.failed.jsonl      failures, one a line
      part-TOKEN.index             one record of fixed size for each result or failure
      computing-1-of-4.json        who computes, as long as they do

A structure is *recorded* when its frame, and then its index record, are on the disk (``fsync``). Each process writes
parts of its own, and never changes a part of another one.
"""
