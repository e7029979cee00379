"""A server that speaks what `policy.vllm.served` uses of `vllm serve` 0.26, with transformers in the place of vLLM.

Started as a module with vLLM's own words, `python -m ... serve MODEL --port N ...`, it serves the embedded model.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Refused(Exception):
    """(HTTP status, sentence)."""


class ServedPolicy:
    """The embedded model with the adapters that it was given, by name; what it was asked is in `asked`."""

    def __init__(self, max_lora_rank=16):
        from stand_in_engine import engine_for
        from tiny_policy import policy_with_adapter

        self.policy, self.lock, self.asked = policy_with_adapter(std=0.0), threading.Lock(), []
        self.engine, self.adapters, self.max_lora_rank = engine_for(self.policy), {}, max_lora_rank

    def answer(self, path, body):
        self.asked.append((path, body))
        return {
            "/health": lambda: None,
            "/v1/models": lambda: {"data": [{"id": "base"}, *({"id": name} for name in self.adapters)]},
            "/v1/load_lora_adapter": lambda: self.load(body["lora_name"], Path(body["lora_path"])),
            "/v1/unload_lora_adapter": lambda: self.adapters.pop(body["lora_name"]) and "Success",
            "/v1/chat/completions/render": lambda: self.render(body),
            "/inference/v1/generate": lambda: self.generate(body),
        }[path]()

    def load(self, name, folder):
        from safetensors.torch import load_file

        if name in self.adapters:
            raise Refused(400, f"The lora adapter '{name}' has already been loaded.")
        if not folder.is_dir():
            raise Refused(404, f"No adapter found for {folder}")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > self.max_lora_rank:
            raise Refused(500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}.")
        self.adapters[name] = load_file(folder / "adapter_model.safetensors")
        return "Success"

    def render(self, body):
        (part,) = body["messages"][0]["content"]
        picture = part["image_url"]["url"].removeprefix("data:image/png;base64,")
        name = hashlib.sha256(picture.encode()).hexdigest()
        places = {"image": [{"offset": 4, "length": 260}]}  # of this conversation, of no use for another
        return {"token_ids": [1], "features": {
            "mm_hashes": {"image": [name]}, "mm_placeholders": places, "kwargs_data": {"image": [picture]},
        }}  # fmt: skip

    def generate(self, body):
        import torch
        from peft import set_peft_model_state_dict
        from PIL import Image

        ids, options, policy = body["token_ids"], body["sampling_params"], self.policy
        (place,) = body["features"]["mm_placeholders"]["image"]
        token = policy.processor.tokenizer.image_token_id
        inside = ids[place["offset"] : place["offset"] + place["length"]]
        if set(inside) != {token} or ids.count(token) != len(inside):
            raise Refused(400, "the picture does not stand where its tokens are")
        if options.get("output_kind") != 2:
            raise Refused(400, "of several completions the last alone would come back")
        if body["model"] not in ("base", *self.adapters):
            raise Refused(404, f"The model `{body['model']}` does not exist.")
        image = Image.open(io.BytesIO(base64.b64decode(body["features"]["kwargs_data"]["image"][0])))
        self.engine.stop_ids = options["stop_token_ids"]
        self.engine.banned_ids = [int(token) for token in options["logit_bias"]]
        # Whichever request comes first, each draws the same: a step in which no answer differs would teach nothing.
        drawn = hashlib.sha256(json.dumps([ids, body["features"]["mm_hashes"], options.get("seed")]).encode()).digest()
        with self.lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(drawn[:7], "big"))
            if body["model"] != "base":
                set_peft_model_state_dict(policy.model, self.adapters[body["model"]])
            with policy.without_adapter() if body["model"] == "base" else contextlib.nullcontext():
                found, logps = self.engine.generate(
                    [ids], [image.convert("RGB")], n=options["n"], max_tokens=options["max_tokens"],
                    temperature=options.get("temperature", 1.0) or 1e-4,  # 0: the likeliest token
                )  # fmt: skip
        choices = [
            {"index": index, "token_ids": tokens, "logprobs": {"content": [
                {"token": f"token_id:{token}", "logprob": value} for token, value in zip(tokens, row, strict=True)
            ]}}
            for index, (tokens, row) in enumerate(zip(found, logps, strict=True))
        ]  # fmt: skip
        return {"choices": choices[::-1]}


@contextlib.contextmanager
def serving(served, port=0):
    """Inside, `served` answers; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            try:
                status, said = 200, served.answer(self.path, body)
            except ConnectionResetError:
                linger = struct.pack("ii", 1, 0)  # closing resets
                return self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            except Refused as refused:
                status, said = refused.args[0], {"error": {"message": refused.args[1]}}
            text = said if isinstance(said, str) else "" if said is None else json.dumps(said)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 2048  # uvicorn's

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    if sys.argv[1] != "serve" or "--model" in sys.argv:
        raise SystemExit("vllm serve takes its model by its place")
    with serving(ServedPolicy(), int(sys.argv[sys.argv.index("--port") + 1])):
        threading.Event().wait()
