"""A server with the wire format of vLLM 0.32.0 and a small real model behind it: ids, logprobs, adapters.

Shapes, statuses and messages are those of vLLM's source. Logprobs are computed from one whole forward
pass a token, by code that the policies under test do not share.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

Reply = tuple[int, Any]


@dataclass
class FakeVllm:
    """The server's state, received requests and faults."""

    base: Path
    url: str = ""
    version: str = "0.32.0"
    key: str | None = None
    mode: str = "processed_logprobs"
    gives_ids: bool = True
    scores_ids: bool = True
    updates: bool = True
    """True if adapters may be loaded, as with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""
    replicas: int = 1
    max_rank: int = 16
    faults: list[Reply] = field(default_factory=list)
    """Answers to the next requests for completions."""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    """Path and body of each POST."""
    adapters: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _models: dict[str | None, Any] = field(default_factory=dict)

    def posts(self, path: str) -> list[Any]:
        """Bodies that came to a path."""
        return [body for asked, body in self.asked if asked == path]

    def get(self, path: str) -> Reply:
        """Answer a GET."""
        if path == "/health":
            return 200, ""
        if path == "/version":
            return 200, {"version": self.version}
        if path == "/metrics":
            return 200, "".join(
                f'vllm:num_requests{{engine="{rank}",model="m"}} 0.0\n' for rank in range(self.replicas)
            )
        if path == "/v1/models":
            cards = [{"id": str(self.base), "root": str(self.base), "parent": None, "max_model_len": 512}]
            cards += [{"id": name, "root": root, "parent": str(self.base)} for name, root in self.adapters.items()]
            return 200, {"object": "list", "data": cards}
        return 404, {"detail": "Not Found"}

    def post(self, path: str, body: Any) -> Reply:
        """Answer a POST; requests wait for each other."""
        with self._lock:
            self.asked.append((path, body))
            if path == "/v1/completions":
                return self.faults.pop(0) if self.faults else self._complete(body)
            if path == "/v1/load_lora_adapter" and self.updates:
                return self._load(body["lora_name"], body["lora_path"])
            if path == "/v1/unload_lora_adapter" and self.updates:
                if self.adapters.pop(body["lora_name"], None) is None:
                    return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
                return 200, "Success"
            return 404, {"detail": "Not Found"}

    def _load(self, name: str, path: str) -> Reply:
        if name in self.adapters:
            return _error(
                400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter ..."
            )
        config = Path(path) / "adapter_config.json"
        if not config.is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        if (rank := json.loads(config.read_text())["r"]) > self.max_rank:
            return _error(500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _model(self, name: str) -> Any:
        """The model that a name stands for, read when it is first asked for."""
        root = self.adapters.get(name)
        if root not in self._models:
            bare: Any = AutoModelForCausalLM.from_pretrained(self.base)
            model: Any = bare if root is None else PeftModel.from_pretrained(bare, root)
            self._models[root] = model.eval()
        return self._models[root]

    def _complete(self, body: Any) -> Reply:
        if body["model"] != str(self.base) and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist. Valid aliases: {self.base}.")
        if any(len(ids) + body["max_tokens"] > 512 for ids in body["prompt"]):
            return _error(400, "This model's maximum context length is 512 tokens.", param="input_tokens")
        model = self._model(body["model"])
        with torch.inference_mode():
            choices = [self._continue(model, ids, body, at) for at, ids in enumerate(body["prompt"])]
        return 200, {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices}

    def _continue(self, model: Any, prompt: list[int], body: Any, index: int) -> dict[str, Any]:
        noise = torch.Generator().manual_seed(body["seed"])
        output: list[int] = []
        logprobs: list[float] = []
        tops: list[dict[str, float]] = []
        while len(output) < body["max_tokens"]:
            logit_V = model(input_ids=torch.tensor([prompt + output])).logits[0, -1].float()
            scaled_V = torch.log_softmax(logit_V / body["temperature"], -1)
            shown_V = scaled_V if self.mode == "processed_logprobs" else torch.log_softmax(logit_V, -1)
            token = int(torch.multinomial(scaled_V.exp(), 1, generator=noise))
            wanted = [token, *(body.get("logprob_token_ids", ()) if self.scores_ids else ())]
            output.append(token)
            logprobs.append(float(shown_V[token]))
            tops.append({f"token_id:{one}": float(shown_V[one]) for one in wanted})
            if token in body.get("stop_token_ids", ()):
                break
        choice: dict[str, Any] = {
            "index": index,
            "text": "",
            "finish_reason": "length" if len(output) == body["max_tokens"] else "stop",
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": tops, "tokens": [], "text_offset": []},
        }
        if body.get("return_token_ids") and self.gives_ids:
            choice |= {"token_ids": output, "prompt_token_ids": prompt}
        if "prompt_logprobs" in body:
            logprob_TV = torch.log_softmax(model(input_ids=torch.tensor([prompt])).logits[0].float(), -1)
            after = [
                {str(token): {"logprob": float(logprob_TV[at, token]), "rank": 1, "decoded_token": "?"}}
                for at, token in enumerate(prompt[1:])
            ]
            choice["prompt_logprobs"] = [None, *after]
        return choice


def _error(status: int, message: str, param: str | None = None) -> Reply:
    return status, {"error": {"message": message, "type": "Error", "param": param, "code": status}}


@contextmanager
def serve_vllm(base: Path, *, port: int = 0, **settings: Any) -> Iterator[FakeVllm]:
    """A running server."""
    fake = FakeVllm(base, **settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*(fake.get(self.path) if self._allowed() else (401, {"error": "Unauthorized"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*(fake.post(self.path, body) if self._allowed() else (401, {"error": "Unauthorized"})))

        def _allowed(self) -> bool:
            known = fake.key is None or self.headers.get("authorization") == f"Bearer {fake.key}"
            return known or not self.path.startswith("/v1")

        def _send(self, status: int, body: Any) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
