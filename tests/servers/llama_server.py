"""Run llama.cpp's own HTTP server, which the package `xllamacpp` holds as a library, until it is told to end.

    python llama_server.py MODEL PORT

It runs in the environment of that server, which has nothing of this project.
"""

import signal
import sys

import xllamacpp  # type: ignore[import-not-found]


def main(model: str, port: str) -> None:
    """Serve a file of weights on the loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 8192
    params.n_parallel = 1
    # Its threads wait for one another without sleeping: beside other work two took 1.1 s a token, and one 20 ms.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main(*sys.argv[1:])
