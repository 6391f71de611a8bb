#!/bin/bash -l
#SBATCH --job-name=rs-0123abcd
#SBATCH --output=/home/ann/many-relaxed.run/jobs/0001/%j.out
#SBATCH --time=02:00:00
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --no-kill
#SBATCH --nodes=8
#SBATCH --gpus-per-node=8
#SBATCH --account=chem

# Rendered by Rootstock VERSION. To see what would be submitted: the same command with --dry-run.

# What srun starts gets this shell's variables, also where jobs do not get those of the login node.
unset SLURM_EXPORT_ENV


# By the clock of this node: what is unfinished is recorded before the job ends.
ROOTSTOCK_DEADLINE=$(($(date +%s) + 7200))
export ROOTSTOCK_DEADLINE
# The scheduler's signals reach the command, because it takes this shell's place.
exec srun --nodes=8 --ntasks=8 --ntasks-per-node=1 --cpus-per-task=56 --cpu-bind=none --no-kill --kill-on-bad-exit=0 \
    /bin/bash -c 'exec /opt/rootstock/client/VERSION/bin/rootstock run continue /home/ann/many-relaxed.run --workers auto --grace 24 --element $((SLURM_PROCID + 1))/8 --exit-zero'
