"""Starts Python programs as `python PROGRAM` and as torchrun do, by forks of a process that has imported torch.

Importing torch and what an optimizer and DistributedDataParallel load takes seconds in each process, most of the time of a small
program; a fork has them. The program itself imports Feedline, and the tests start each example by its real command once.
"""

import importlib
import json
import multiprocessing.connection
import os
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Ended:
    """A program that ended: the exit code of a process that failed or 0, and what all of them said."""

    code: int
    stdout: str
    stderr: str


class Forks:
    """Runs one program at a time. The first call that names a module in `imports` waits for its import."""

    def __init__(self, folder):
        self.folder, self.runs = Path(folder), 0
        # Threads are counted when torch is loaded.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, program, *args, ranks=None, cwd=None, imports=(), timeout_s=150, **variables):
        """With `ranks` that many processes, which torch.distributed's `env://` brings together; without, one of its own."""
        self.runs += 1
        said = [self.folder / f"{self.runs}-{name}" for name in ("stdout", "stderr")]
        store, every = None, [variables]
        if ranks is not None:
            # As torchrun has it: the store of the ranks is the launcher's, so no port is looked for that another may take.
            from torch.distributed import TCPStore

            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
            shared |= {"TORCHELASTIC_RESTART_COUNT": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks} | variables
            every = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
        order = {
            "argv": [str(word) for word in (program, *args)],
            "cwd": str(cwd or self.folder),
            "imports": list(imports),
            "variables": [{name: str(value) for name, value in each.items()} for each in every],
            "said": [str(path) for path in said],
            "timeout_s": timeout_s,
        }
        print(json.dumps(order), file=self.server.stdin, flush=True)
        answer = self.server.stdout.readline()
        assert answer, f"the process that forks ended with {self.server.wait()}"
        del store
        ended = Ended(json.loads(answer), *(path.read_text("utf-8") for path in said))
        assert ended.code is not None, f"{program} did not end within {timeout_s} s:\n{ended.stdout}{ended.stderr}"
        return ended

    def close(self):
        # Not by closing its input, which worker processes that a loader keeps have open too.
        self.server.terminate()
        self.server.wait()
        self.server.stdin.close()


def become(order, variables):
    """Runs the program as the main module of this process, which was forked for it."""
    for target, path in zip((1, 2), order["said"]):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), target)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)
    os.chdir(order["cwd"])
    os.environ.update(variables)
    sys.argv = order["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    # Stays the main module to the end of the process: a process group of torch's that went with it before would wait forever.
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = sys.argv[0]
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), vars(main))


def run(order):
    """The exit code of a process that failed, 0, or None if the time was over; then, and if one fails, the others are killed."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=become, args=(order, variables)) for variables in order["variables"]]
    for process in processes:
        process.start()
    until, code = time.monotonic() + order["timeout_s"], 0
    while code == 0 and (left := [process for process in processes if process.exitcode is None]):
        ended = multiprocessing.connection.wait([process.sentinel for process in left], until - time.monotonic())
        # A process whose sentinel is ready may take a moment until it has an exit code.
        for process in left:
            process.join(10 if process.sentinel in ended else 0)
        code = next((process.exitcode for process in processes if process.exitcode), 0) if ended else None
    for process in processes:
        process.kill()
        process.join()
    return code


if __name__ == "__main__":
    for line in sys.stdin:
        ordered = json.loads(line)
        for name in ("torch._dynamo", "torch.distributed", *ordered["imports"]):
            importlib.import_module(name)
        print(json.dumps(run(ordered)), flush=True)
