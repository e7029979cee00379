# The GPU series in a container:
#   docker build -t vision-grpo .
#   docker run --gpus all --ipc=host -v "$PWD/outputs:/app/outputs" -v vision-grpo-cache:/cache vision-grpo gemma3_smoke
#   docker run ... vision-grpo full --set training.num_processes=auto --set training.gradient_accumulation_steps=16
# The last line takes all GPUs of the host; --ipc=host is for NCCL.
# /app/outputs has to be writable for the user id 1000; /cache keeps downloaded weights and compiled kernels.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

# A compiler and Python's headers, as Triton and vLLM compile small pieces of C when they start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-dev python3.12-venv gcc g++ ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/venv \
    && install -d -o ubuntu -g ubuntu /app /app/outputs /cache

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    UNSLOTH_VLLM_STANDBY=1

WORKDIR /app

# The packages in a layer of their own, which a change of the code does not rebuild.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['gpu'], sep='\n')" > /tmp/requirements.txt \
    && pip install -r /tmp/requirements.txt

COPY --chown=ubuntu:ubuntu . .
RUN pip install --no-deps -e .

# User id 1000 of the base image; nothing here needs root.
USER ubuntu
VOLUME ["/app/outputs", "/cache"]
EXPOSE 8888

ENTRYPOINT ["nbhelpers", "run"]
CMD ["gemma3_smoke"]
