#!/usr/bin/env bash
# Train on two hosts that see the same run directory. On each of them, at about the same time:
#   HOST=0 FIRST=node-a params/launch/two_hosts.sh full --output-dir /shared/full     # on node-a
#   HOST=1 FIRST=node-a params/launch/two_hosts.sh full --output-dir /shared/full     # on node-b
# FIRST is the first host's name, PORT (29500) a free port there; GPUS=4 takes four GPUs of a host.
set -euo pipefail
exec torchrun --nnodes 2 --node_rank "$HOST" --nproc_per_node "${GPUS:-$(nvidia-smi --list-gpus | wc -l)}" \
    --master_addr "$FIRST" --master_port "${PORT:-29500}" -m nbhelpers.training "$@"
