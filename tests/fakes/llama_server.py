"""llama.cpp's own HTTP server as a process: `python llama_server.py IDLE_S MODEL_FILE NAME…`. Prints its URL once it can answer.

After IDLE_S seconds with nothing to do it frees its model's memory until it is asked again; with -1 it never does.

It runs until it is killed; that is what some tests do with it.
"""

import os
import sys
import threading

os.environ["OMP_WAIT_POLICY"] = "passive"  # before the import: its threads would spin while they wait

import xllamacpp


def main(idle_s: str, path: str, *names: str) -> None:
    parameters = xllamacpp.CommonParams()
    parameters.sleep_idle_seconds = int(idle_s)
    parameters.model.path = path
    parameters.model_alias = set(names)
    parameters.n_ctx = 2048
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = 1
    parameters.use_jinja = True
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    server.handle_metrics()
    print(f"serving on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
