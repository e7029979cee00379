"""One vLLM for all processes of a run, on a GPU of its own: `vllm serve`, to which the adapter alone goes, as a LoRA.

TRL 1.14.2 sends a server every weight, with the adapter merged in, over NCCL (`vllm_mode="server"`; its `trl
vllm-serve` is deprecated and starts `vllm serve` as well). Here the server keeps the base weights that it was started
with. Prompts go to it as the trainer's own token ids, each with its picture as vLLM's processor prepared it, and tokens
with their log-probs come back (`/v1/chat/completions/render`, `/inference/v1/generate`, `/v1/load_lora_adapter` of vLLM
0.26).
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.policy.processes import end_group, environment_apart, with_last_lines
from nbhelpers.policy.vllm.hand_over import adapted_modules
from nbhelpers.policy.vllm.setup import GenerationError, cache_folder, free_port, prepare_environment

# Where the server is that a process of this run has started already: the others find it here.
SERVER = "NBHELPERS_VLLM_SERVER"
_AT_ONCE, _PATIENCE, _START = 64, 1800.0, 600.0  # requests, seconds for one of them, seconds for the start
_TRIES = 3  # after the first: a server under load may reset a connection
_FINAL_ONLY = 2  # vllm.sampling_params.RequestOutputKind: the default gives of n completions those that end last


@dataclass
class ServedEngine:
    """A vLLM server, with the interface of `Engine`; each process of a run has one of these.

    The adapter's name on the server is that of its content. So whichever process comes first loads it, the others find
    it there, and keys and values of another adapter are never taken for its own.

    Attributes:
        url: of the server, which sees this machine's `cache_folder()`, where the adapter is written.
        base: the server's name for the base model.
        stop_ids, banned_ids: tokens that end a completion, and that none may hold.
        image_id: the token that stands for a picture's features.
        request: the adapter's name there; None for the base model.
    """

    url: str
    base: str
    stop_ids: list[int]
    banned_ids: list[int]
    image_id: int
    request: str | None = None
    llm: Any = None  # as `Engine` has one
    _loaded: str | None = None  # by this process

    def take_adapter(self, model: Any) -> None:
        """Generate with the adapter's present values from now on.

        Raises:
            GenerationError: the server does not take it, or a part of it lies outside the language layers.
        """
        name, folder = _write_adapter(model)
        if name == self.request:
            return
        asked = {"lora_name": name, "lora_path": str(folder)}
        try:
            self._post("/v1/load_lora_adapter", asked)
        except GenerationError as error:
            if "already been loaded" not in str(error):
                raise GenerationError(
                    f"{error} It has to be started with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and to "
                    f"see {folder}; NBHELPERS_CACHE sets a folder that both machines see."
                ) from error
        else:
            before, self._loaded = self._loaded, name
            if before:  # every process has gone on from it
                with contextlib.suppress(GenerationError):
                    self._post("/v1/unload_lora_adapter", {"lora_name": before})
                shutil.rmtree(folder.with_name(before), ignore_errors=True)
        self.request = name

    def drop_adapter(self) -> None:
        """Generate with the base model from now on."""
        self.request = None

    def generate(
        self, prompts: Sequence[list[int]], images: Sequence[Any] | None, *, n: int = 1,
        seeds: Sequence[int] | None = None, **sampling: Any,
    ) -> tuple[list[list[int]], list[list[float]]]:  # fmt: skip
        """Complete each prompt `n` times; as `Engine.generate`."""
        options = {"logprobs": 0, "detokenize": False, "output_kind": _FINAL_ONLY, "stop_token_ids": self.stop_ids}
        options |= {"logit_bias": {str(token): -100.0 for token in self.banned_ids} or None, **sampling, "n": n}
        seeds = seeds or [options.pop("seed", None)] * len(prompts)
        images = [None] * len(prompts) if images is None else list(images)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            pictures = {id(image): image for image in images if image is not None}
            prepared = dict(zip(pictures, pool.map(self._prepared, pictures.values()), strict=True))
            features = [prepared.get(id(image)) for image in images]
            asked = zip(prompts, features, seeds, strict=True)
            answers = list(pool.map(lambda row: self._complete(*row, options), asked))
        choices = [choice for answer in answers for choice in answer]
        ids = [choice["token_ids"] for choice in choices]
        logps = [[place["logprob"] for place in choice["logprobs"]["content"]] for choice in choices]
        if any(len(row) != len(tokens) for row, tokens in zip(logps, ids, strict=True)):
            raise GenerationError(f"{self.url} gave tokens without their log-probs.")
        return ids, logps

    def _prepared(self, image: Any) -> dict[str, Any]:
        """A picture as vLLM's processor prepares it; where it stands in a prompt is said later."""
        file = io.BytesIO()
        image.save(file, format="PNG")
        source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": source}}]
        messages = [{"role": "user", "content": content}]
        asked = {"model": self.base, "messages": messages, "max_tokens": 1}
        return self._post("/v1/chat/completions/render", asked)["features"]

    def _complete(self, ids: list[int], features: dict | None, seed: int | None, options: dict) -> list[dict]:
        if features is not None:
            features = {**features, "mm_placeholders": {"image": [place_of_picture(ids, self.image_id)]}}
        asked = {"model": self.request or self.base, "token_ids": list(ids), "features": features}
        answer = self._post("/inference/v1/generate", {**asked, "sampling_params": {**options, "seed": seed}})
        return sorted(answer["choices"], key=lambda choice: choice["index"])

    def _post(self, path: str, body: dict) -> Any:
        return _asked(self.url + path, json.dumps(body).encode())


def place_of_picture(ids: Sequence[int], image_id: int) -> dict[str, int]:
    """Where a prompt's one picture stands: `offset` and `length` of its run of tokens."""
    places = [place for place, token in enumerate(ids) if token == image_id]
    if not places or places[-1] - places[0] + 1 != len(places):
        raise GenerationError(f"a prompt has to hold one picture's tokens in a row, and one of {len(ids)} has not.")
    return {"offset": places[0], "length": len(places)}


def served_engine(url: str, stop_ids: list[int], banned_ids: list[int], image_id: int) -> ServedEngine:
    """The server at `url`.

    Raises:
        GenerationError: nothing answers there.
    """
    url = url.rstrip("/")
    base = _asked(f"{url}/v1/models")["data"][0]["id"]
    return ServedEngine(url, base, stop_ids, banned_ids, image_id)


def _write_adapter(model: Any) -> tuple[str, Path]:
    """The adapter's name and folder, written where it is not there yet; the values as vLLM holds them, in bfloat16."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    adapted_modules(model)  # refuses what vLLM cannot hold
    state = get_peft_model_state_dict(model)
    content = save({name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in state.items()})
    name = f"adapter-{hashlib.sha256(content).hexdigest()[:16]}"
    place = cache_folder() / "adapters"
    folder = place / name
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=place, prefix=f".{name}."))
        unfinished.chmod(0o755)
        model.peft_config["default"].save_pretrained(str(unfinished))
        (unfinished / "adapter_model.safetensors").write_bytes(content)
        try:
            unfinished.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished, ignore_errors=True)
    return name, folder


@functools.cache
def _connections() -> Any:
    """This process's connections, kept open between requests."""
    import urllib3

    return urllib3.PoolManager(maxsize=_AT_ONCE, timeout=_PATIENCE)


def _asked(url: str, body: bytes | None = None) -> Any:
    """The answer to a request, from JSON where it is some.

    Raises:
        GenerationError: what the server said, or that it did not answer.
    """
    import urllib3

    # Every request may be made twice: an adapter that is there already is no error. A status is an answer, and stays.
    again = urllib3.Retry(_TRIES, status=0, redirect=0, backoff_factor=0.2, allowed_methods=None)
    method, headers = "GET" if body is None else "POST", {"Content-Type": "application/json"}
    try:
        answer = _connections().request(method, url, body=body, headers=headers, retries=again)
    except urllib3.exceptions.HTTPError as error:
        why = getattr(error, "reason", None) or error
        raise GenerationError(f"The vLLM server does not answer at {url} ({why}). Is it running?") from error
    text = answer.data.decode(errors="replace")
    if answer.status >= 300:
        raise GenerationError(f"The vLLM server refused {url} ({answer.status}): {' '.join(text.split())[:500]}")
    try:
        return json.loads(text)
    except ValueError:
        return text


# starting one


def serve_command(source: str, arguments: dict[str, Any], port: int) -> list[str]:
    """The line that serves `source` with these arguments of `vllm.LLM`."""
    words = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", source]
    words += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning"]
    for key, value in arguments.items():
        if key == "model":  # `serve` takes it by its place alone
            continue
        flag = "--" + key.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def url_of_server(source: str, arguments: dict[str, Any], gpu: str) -> str:
    """Where the run's own server is, started now if no process of the run has yet. It ends with the process that
    started it.

    Args:
        source: folder or hub id of the base weights.
        arguments: of `vllm.LLM`.
        gpu: what the server's CUDA_VISIBLE_DEVICES is.

    Raises:
        GenerationError: it ended before it was ready; with its last lines.
    """
    if url := os.environ.get(SERVER):
        return url
    prepare_environment()
    port = free_port()
    log = cache_folder() / f"vllm-server-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = environment_apart() | {"CUDA_VISIBLE_DEVICES": gpu, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with open(log, "wb") as file:
        child = subprocess.Popen(
            serve_command(source, arguments, port), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=env | {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}, start_new_session=True, preexec_fn=_ends_with_parent(),
        )  # fmt: skip
    atexit.register(_end, child)
    url = f"http://127.0.0.1:{port}"
    _wait_until_ready(child, url, log)
    os.environ[SERVER] = url
    return url


def _wait_until_ready(child: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + _START
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(GenerationError):
            _asked(f"{url}/health")
            return
        time.sleep(1)
    how = f"ended with exit code {child.returncode}" if child.returncode is not None else f"needs more than {_START} s"
    _end(child)
    raise GenerationError(with_last_lines(f"The vLLM server {how}.", log))


def _ends_with_parent() -> Any:
    """What the server's process does first: Linux ends it when this process is killed."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return None
    control = ctypes.CDLL(None).prctl
    return lambda: control(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _end(child: subprocess.Popen) -> None:
    end_group(child, 15)
    os.environ.pop(SERVER, None)
