#!/usr/bin/env bash
#SBATCH --job-name=vision-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@180
# Train on Slurm, one torchrun a node, in a directory that all nodes see:
#   sbatch params/launch/slurm.sh full --output-dir /shared/full
# Three minutes before the time is up the step is finished and a checkpoint written; submit again with
# `--set training.resume=true` to go on. GPUS is the number of GPUs of a node, where Slurm does not say.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${GPUS:-${SLURM_GPUS_ON_NODE:-8}}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:${PORT:-29500}" -m nbhelpers.training "$@"
