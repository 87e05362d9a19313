"""`python -m tests.wire.stand_in serve DIR --host H --port N ...` takes the place of `vllm`.

The value of `--stand-in` selects the behaviour: `fails` (ends with a message), `hangs` (is never healthy),
`stubborn` (ignores SIGTERM), `light` (healthy, but no model), `model` (answers, with a small model).
The stand-in writes its process id and that of a child to the file named by STAND_IN_PIDS. A file `broken`
beside that file makes the stand-in end at once.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--stand-in", default="light")
    asked, _ = parser.parse_known_args()
    pids = Path(os.environ["STAND_IN_PIDS"])
    if pids.with_name("broken").exists():
        sys.exit("RuntimeError: the GPU is broken")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pids.write_text(f"{os.getpid()} {child.pid}")
    if asked.stand_in == "fails":
        sys.exit(f"ValueError: no such model; the key is {os.environ['VLLM_API_KEY']}")
    if asked.stand_in == "hangs":
        threading.Event().wait()
    if asked.stand_in == "model":
        # Loads torch, which the others do without.
        from tests.wire.vllm import serve_vllm

        updates = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1"
        with serve_vllm(asked.model, port=asked.port, key=os.environ["VLLM_API_KEY"], updates=updates):
            threading.Event().wait()
    if asked.stand_in == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ThreadingHTTPServer((asked.host, asked.port), _Health).serve_forever()


if __name__ == "__main__":
    main()
