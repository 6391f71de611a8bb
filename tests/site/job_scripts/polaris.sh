#!/bin/bash -l
#PBS -N rs-0123abcd
#PBS -S /bin/bash
#PBS -j oe
#PBS -k doe
#PBS -o /home/ann/many-relaxed.run/jobs/0001/
#PBS -r y
#PBS -l walltime=02:00:00
#PBS -l select=16:system=polaris
#PBS -l place=scatter
#PBS -l filesystems=home:eagle
#PBS -A chem

# Rendered by Rootstock VERSION. To see what would be submitted: the same command with --dry-run.

cd "$PBS_O_WORKDIR" || exit 1


# By the clock of this node: what is unfinished is recorded before the job ends.
ROOTSTOCK_DEADLINE=$(($(date +%s) + 7200))
export ROOTSTOCK_DEADLINE
# The scheduler's signals reach the command, because it takes this shell's place.
exec mpiexec -n 16 --ppn 1 --depth=64 --cpu-bind depth \
    /bin/bash -c 'exec /opt/rootstock/client/VERSION/bin/rootstock run continue /home/ann/many-relaxed.run --workers auto --grace 8 --element $((${PALS_RANKID:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:?no rank}}} + 1))/16 --exit-zero'
