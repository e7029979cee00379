#!/usr/bin/env bash
# Train on all GPUs of this host, without a notebook:
#   params/launch/one_host.sh full --output-dir outputs/full
# GPUS=4 takes four of them. `nbhelpers run full --set training.num_processes=auto` does the same with notebooks.
set -euo pipefail
exec accelerate launch --multi_gpu --num_processes "${GPUS:-$(nvidia-smi --list-gpus | wc -l)}" --num_machines 1 \
    --mixed_precision no --dynamo_backend no --main_process_port 0 -m nbhelpers.training "$@"
