"""Runs one process, samples the memory of its whole tree, ends it and whatever it left behind.

Peak memory is PSS, so that pages shared by forked workers count once, and the shared memory that the system has more of than at the
start: a batch in /dev/shm takes memory before its reader has touched it, when no process shows it. `anonymous` leaves out mapped
files and program text. Standard library only.
"""

import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphaned workers become ours, to be ended


KEPT = set()  # ids of processes that outlive a measurement: a server, a proxy


def below(root):
    """The process ids of `root` and everything under it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
            except OSError:
                continue
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def shared_memory():
    """Bytes of shared memory in the whole system, mapped or not."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Shmem:"))


def memory(root, shared_before):
    """(PSS, PSS of anonymous and shared memory) of the tree, in bytes. Shared memory is what the system has more than before, or
    what the tree maps if that is more."""
    total = anonymous = shared = 0
    for pid in below(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    word = line.split()
                    total += int(word[1]) if word[0] == "Pss:" else 0
                    anonymous += int(word[1]) if word[0] in ("Pss_Anon:", "Pss_Shmem:") else 0
                    shared += int(word[1]) if word[0] == "Pss_Shmem:" else 0
        except OSError:
            continue
    unseen = max(0, shared_memory() - shared_before - shared * 1024)
    return total * 1024 + unseen, anonymous * 1024 + unseen


def reap():
    """Ends every process still below this one, but those in KEPT and what is below them."""
    for _ in range(50):
        kept = {os.getpid()}.union(*map(below, KEPT))
        left = [pid for pid in below(os.getpid()) if pid not in kept]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.02)


def measured(command, timeout, env=None):
    """The process's last line of JSON with peak_bytes, peak_anonymous_bytes, total_cpu_seconds; or {"failed": why}."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, peak, anonymous, pause, usage = time.monotonic(), 0, 0, 0.02, None
        shared_before = shared_memory()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        late = False
        while usage is None:
            pid, status, rusage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                usage = rusage
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() - started > timeout:
                late = True
                break
            now, apart = memory(process.pid, shared_before)
            peak, anonymous = max(peak, now), max(anonymous, apart)
            time.sleep(pause)
            pause = min(pause * 1.3, 0.3)
        if late:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reap()
        if late:
            return {"failed": f"no result within {timeout:.0f} s"}
        out.seek(0), err.seek(0)
        lines = [line for line in out.read().splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            words = [line.strip() for line in err.read().splitlines() if line.strip()]
            says = next((w for w in reversed(words) if "Error" in w or "error" in w), words[-1] if words else "no output")
            return {"failed": f"exit {process.returncode}: {says[:160]}"}
        result = json.loads(lines[-1])
        result |= {"peak_bytes": peak, "peak_anonymous_bytes": anonymous}
        return result | {"total_cpu_seconds": usage.ru_utime + usage.ru_stime}
