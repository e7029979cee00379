#!/usr/bin/env bash
# One vLLM for all processes of a run, on a GPU of this host, for `model.vllm_server`:
#   CUDA_VISIBLE_DEVICES=7 params/launch/serve.sh unsloth/gemma-3-4b-it              # in one terminal
#   CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6 nbhelpers run full --set training.num_processes=auto \
#       --set model.load_in_4bit=false --set model.vllm_server=http://127.0.0.1:8000   # in another
# `--set model.vllm_server=auto` does the same by itself. From another host, HOST=0.0.0.0 lets everybody in who reaches
# it, and NBHELPERS_CACHE has to be a folder that both hosts see: the adapter is written there. PORT (8000); RANK_OF_LORA
# (16) is at least lora.r; what else follows goes to `vllm serve`, as `--quantization bitsandbytes` for load_in_4bit.
set -euo pipefail
model=$1
shift
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
exec vllm serve "$model" --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" --dtype bfloat16 --max-model-len 2048 \
    --limit-mm-per-prompt '{"image": 1}' --logprobs-mode processed_logprobs \
    --enable-lora --max-loras 1 --max-cpu-loras 2 --max-lora-rank "${RANK_OF_LORA:-16}" "$@"
