#!/bin/bash
# One training on several machines of a SLURM cluster. Submit it from the repository, with the recipe and its flags:
#   sbatch --nodes 2 --gpus-per-node 4 recipes/accelerate/slurm.sh recipes/wav2vec2_cls.py --dataset iemocap
# The folder of the repository, the corpus and the caches must be the same on all machines. For folds side by side see
# `ser-hf cv --launcher`.
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-gpu=8
#SBATCH --ntasks-per-node=1
set -euo pipefail
export FIRST_MACHINE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PORT=$((20000 + SLURM_JOB_ID % 20000))  # jobs may share a machine

# accelerate starts once on each machine, where its shell fills in $SLURM_NODEID, and starts a process for each GPU.
srun bash -c 'exec accelerate launch --config_file recipes/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --main_process_ip "$FIRST_MACHINE" --main_process_port "$PORT" "$@"' slurm.sh "$@"
