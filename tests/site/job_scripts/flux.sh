#!/bin/bash -l
#flux: --job-name=rs-0123abcd
#flux: --output=/home/ann/many-relaxed.run/jobs/0001/{{id}}.out
#flux: --time-limit=7200s
#flux: --nodes=16
#flux: --exclusive
#flux: --queue=pbatch
#flux: --bank=chem

# Rendered by Rootstock VERSION. To see what would be submitted: the same command with --dry-run.

# What this job starts has numbers of an instance of its own; by this one the site's instance knows the job.
ROOTSTOCK_JOB_ID=$(flux getattr jobid)
export ROOTSTOCK_JOB_ID


# By the clock of this node: what is unfinished is recorded before the job ends.
ROOTSTOCK_DEADLINE=$(($(date +%s) + 7200))
export ROOTSTOCK_DEADLINE
# The scheduler's signals reach the command, because it takes this shell's place.
exec flux run --nodes=16 --ntasks=16 --exclusive -o cpu-affinity=off -o exit-timeout=none \
    /bin/bash -c 'exec /opt/rootstock/client/VERSION/bin/rootstock run continue /home/ann/many-relaxed.run --workers auto --grace 4 --element $((FLUX_TASK_RANK + 1))/16 --exit-zero'
