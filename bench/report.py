"""Writes RESULTS.md, results.csv and results.png from the harness's raw.json. Runs in the main environment."""

import csv
import datetime
import json
import pathlib
import platform
import statistics
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
TITLES = {
    "A": "A. ImageNet-like: RandomResizedCrop 224 (scale 0.08-1, ratio 3/4-4/3), flip, normalise, f32 CHW",
    "B": "B. Large photographs, 1920x1280 and more, the same operations",
    "C": "C. Evaluation: the pictures of A, resize 256, centre crop 224, normalise, f32 CHW",
    "D": "D. Small PNG: 5,000 MNIST digits 28x28, as RGB f32 CHW, normalised, no crop",
    "E1": "E1. No decode: f32 rows of 3x224x224 in one .npy, shuffled, by memory map",
    "E2": "E2. No decode: f32 rows of 256 (1 KB) in one .npy, shuffled, by memory map",
    "F": "F. Point clouds: raw files of 120,000 x 4 f32",
    "G": "G. 16-bit depth PNG 640x480: delivered as f32, by Feedline as u16, as stored",
}
NOTES = {
    "limit-fast": "libjpeg-turbo decode only, fast DCT and upsampling, files in memory, pinned threads",
    "limit-accurate": "the same, accurate DCT and upsampling",
    "bare": "region decode, resize, normalise on pinned threads, no loader",
    "memcpy-map": "plain memcpy of shuffled rows from the memory map",
    "memcpy-ram": "plain memcpy of shuffled rows from RAM",
    "feedline-cached": "--decoded-cache 2GiB",
    "torch-pillow": "crop after decode",
    "dali": "crop fused with decode", "tf.data": "crop fused with decode", "ffcv": "own format, JPEG mode",
    "litdata": "own shards, torchvision.io", "mosaicml-streaming": "own shards, torchvision.io",
    "webdataset": "own shards, torchvision.io", "datago": "Rust decode, OpenCV in Python",
    "grain": "OpenCV where pictures", "spdl": "FFmpeg decode, crop after decode",
    "burn": "image crate where pictures, crop after decode", "dataloader-rs": "as burn",
    "torch-in-process": "num_workers=0",
}  # fmt: skip


PICTURE_WORKS = ("A", "B", "C")
ARRAY_NOTES = ("memcpy-map", "memcpy-ram", "torch-in-process")


def versions():
    text = (HERE / "requirements.txt").read_text()
    pinned = sorted({line.strip() for line in text.splitlines() if "==" in line})
    lock = (HERE / "rust/Cargo.lock").read_text().split("[[package]]")
    names = ("burn", "dataloader-rs", "turbojpeg-sys", "fast_image_resize", "image")
    crates = []
    for entry in lock:
        fields = dict(line.split(" = ", 1) for line in entry.splitlines() if " = " in line)
        if fields.get("name", "").strip('"') in names:
            crates.append(f"{fields['name']} {fields['version']}".replace('"', ""))
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    return ", ".join(pinned), ", ".join(crates), rustc


def machine():
    cpu = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return f"{cpu}, {memory:.0f} GiB, Linux {platform.release()}"


def summarise(found):
    """One dict a row, Feedline's ratio included."""
    out = []
    for work, names in found["order"].items():
        rows = found["rows"].get(work, {})
        feedline = rows.get("feedline")
        base = statistics.median(r["rate"] for r in feedline) if feedline else None
        for name in names:
            note = NOTES.get(name, "") if work in PICTURE_WORKS or name in ARRAY_NOTES else ""
            row = {"work": work, "name": name, "note": note}
            if name not in rows:
                row["not_run"] = found["reasons"].get(work, {}).get(name, "unknown")
            else:
                rates = [r["rate"] for r in rows[name]]
                middle = lambda key: statistics.median(r[key] for r in rows[name])  # noqa: E731
                row |= {
                    "images_per_second": statistics.median(rates), "min": min(rates), "max": max(rates),
                    "ratio": statistics.median(rates) / base if base else None,
                    "first_batch_ms": middle("first_batch_seconds") * 1000,
                    "peak_mb": max(r["peak_bytes"] for r in rows[name]) / 1e6,
                    "anonymous_mb": max(r["peak_anonymous_bytes"] for r in rows[name]) / 1e6,
                    "cpu_seconds_per_1000": middle("cpu_seconds_per_1000"), "rounds": len(rates),
                }  # fmt: skip
                failed = found["reasons"].get(work, {}).get(name)
                row["note"] += f" (a later round failed: {failed})" if failed else ""
            out.append(row)
    return out


def markdown(found, rows):
    pinned, crates, rustc = versions()
    lines = ["# Results of the bench", "", f"Written by `{found['command'].strip()}` on {datetime.date.today()}, "
             f"in {found['minutes']:.0f} minutes.", ""]  # fmt: skip
    if found["quick"]:
        lines += ["**A quick run: small data, short epochs, one round. Not for quoting.**", ""]
    lines += [
        f"- Machine: {machine()}; {found['cores']} cores usable; as many workers or threads as cores; no GPU.",
        "- Data: made by `make_data.py` from a fixed seed; page cache warm; the first epoch of each process is left out.",
    ]
    for work, facts in sorted(found["facts"].items()):
        percentiles = ", ".join(map(str, facts["p5_p50_p95_kb"]))
        jpeg = f"; JPEG q{facts['quality']}, {facts['subsampling']}" if "quality" in facts else ""
        lines.append(f"  - {work}: {facts['files']} files, mean {facts['mean_kb']} KB (5th, 50th, 95th: {percentiles}){jpeg}")
    lines += [
        "- Crop: drawn and applied before or after decoding as the notes say. Filter: bilinear with antialiasing "
        "(OpenCV: INTER_AREA when it shrinks; FFCV: its INTER_AREA). Output: f32 batches, CHW.",
        f"- Batch sizes: {', '.join(f'{w} {b}' for w, b in found['batch'].items())}. Rounds: {found['rounds']}, all "
        "configurations in turn, a fresh process each; numbers are medians over rounds, with the smallest and the largest.",
        "- Peak memory: PSS of the whole process tree, sampled; in brackets without mapped files and program text.",
        f"- {found['feedline']}; {rustc}; Python {platform.python_version()}; {pinned}; {crates}.",
        "",
    ]
    for work in found["order"]:
        lines += [f"## {TITLES[work]}", "", "| loader | images/s | spread | of Feedline | first batch ms | peak MB | "
                  "CPU s / 1,000 | note |", "|---|---:|---:|---:|---:|---:|---:|---|"]  # fmt: skip
        mine = [r for r in rows if r["work"] == work]
        for r in sorted(mine, key=lambda r: -r.get("images_per_second", 0)):
            if "not_run" in r:
                lines.append(f"| {r['name']} | not run: {r['not_run'].replace('|', '/')} | | | | | | {r['note']} |")
                continue
            ratio = f"{r['ratio']:.2f}" if r["ratio"] else ""
            lines.append(
                f"| {r['name']} | {r['images_per_second']:,.0f} | {r['min']:,.0f}-{r['max']:,.0f} | {ratio} | "
                f"{r['first_batch_ms']:,.0f} | {r['peak_mb']:,.0f} ({r['anonymous_mb']:,.0f}) | "
                f"{r['cpu_seconds_per_1000']:.3g} | {r['note']} |"
            )
        lines.append("")
    if found["sampler"]:
        lines += ["## Sampler: one rank's indices of one epoch (rank 0)", "", "| sampler | n | world | start s | "
                  "first index s | all drawn s | indices | peak MB |", "|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
        for r in found["sampler"]:
            head = f"| {r['name']} | {r['n']:.0e} | {r['world']} |".replace("e+", "e")
            if r.get("failed"):
                lines.append(f"{head} not run: {r['failed'].replace('|', '/')} | | | | |")
            else:
                times = " | ".join(f"{r[k]:.3g}" for k in ("start_seconds", "first_index_seconds", "draw_seconds"))
                lines.append(f"{head} {times} | {r['indices']:,} | {r['peak_bytes'] / 1e6:,.0f} |")
        lines.append("")
    return "\n".join(lines)


def chart(rows, path):
    works = [w for w in TITLES if any(r["work"] == w and "not_run" not in r for r in rows)]
    if not works:
        return
    heights = [sum(r["work"] == w and "not_run" not in r for r in rows) for w in works]
    columns = 2 if len(works) > 1 else 1
    lines = -(-len(works) // columns)
    tall = [max(heights[i * columns : (i + 1) * columns]) + 2 for i in range(lines)]
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 0.24 * sum(tall) + 0.3), squeeze=False,
                                gridspec_kw={"height_ratios": tall})  # fmt: skip
    for axis in axes.flat[len(works) :]:
        axis.axis("off")
    for axis, work in zip(axes.flat, works):
        mine = [r for r in rows if r["work"] == work and "not_run" not in r]
        mine.sort(key=lambda r: r["images_per_second"])
        yardstick = ("limit", "bare", "memcpy")
        colours = ["#d9480f" if r["name"].startswith("feedline") else "#ced4da" if r["name"].startswith(yardstick)
                   else "#4c6ef5" for r in mine]  # fmt: skip
        speeds = [r["images_per_second"] for r in mine]
        errors = [[s - r["min"] for s, r in zip(speeds, mine)], [r["max"] - s for s, r in zip(speeds, mine)]]
        axis.barh([r["name"] for r in mine], speeds, color=colours, xerr=errors, error_kw={"lw": 0.8})
        for i, speed in enumerate(speeds):
            axis.text(speed, i, f"  {speed:,.0f}", va="center", fontsize=7)
        axis.set_title(TITLES[work].split(":")[0].split(", the same")[0], fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("samples per second, warm; orange Feedline, blue other loaders, grey yardsticks without a loader", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    found, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    rows = summarise(found)
    (out / "RESULTS.md").write_text(markdown(found, rows))
    with open(out / "results.csv", "w", newline="") as file:
        names = ["work", "name", "images_per_second", "min", "max", "ratio", "rounds", "first_batch_ms", "peak_mb",
                 "anonymous_mb", "cpu_seconds_per_1000", "not_run", "note"]  # fmt: skip
        table = csv.DictWriter(file, names)
        table.writeheader()
        for row in rows:
            table.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    chart(rows, out / "results.png")
    print(f"wrote {out / 'RESULTS.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
