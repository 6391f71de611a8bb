#!/bin/bash -l
#SBATCH --job-name=rs-0123abcd
#SBATCH --output=/home/ann/many-relaxed.run/jobs/0001/%A_%a.out
#SBATCH --time=02:00:00
#SBATCH --array=0-63
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --account=chem

# Rendered by Rootstock VERSION. To see what would be submitted: the same command with --dry-run.


# By the clock of this node: what is unfinished is recorded before the job ends.
ROOTSTOCK_DEADLINE=$(($(date +%s) + 7200))
export ROOTSTOCK_DEADLINE
# The scheduler's signals reach the command, because it takes this shell's place.
exec /opt/rootstock/client/VERSION/bin/rootstock run continue /home/ann/many-relaxed.run --workers auto --grace 24 --element $((SLURM_ARRAY_TASK_ID + 1))/64
