"""Writes RESULTS.md, results.csv and results.png from the harness's raw.json. Runs in the main environment.

A run of some works replaces what is theirs and leaves the rest as it stands.
"""

import csv
import datetime
import json
import pathlib
import platform
import re
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
    "H": "H. Scenes in TorchSSC's layout: two PNG 640x480, TSDF, mapping and labels as npz, normalised f32 CHW",
    "P": "P. KITTI's training frames: 120,000 points, pasted objects, pillars; OpenPCDet's settings of PointPillars",
    "S0": "S0. Bucket, one object each, no latency added: the pictures and operations of A",
    "S30": "S30. Bucket, one object each, 30 ms of latency added: the pictures and operations of A",
    "T0": "T0. Bucket, shards, no latency added: the pictures and operations of A",
    "T30": "T30. Bucket, shards, 30 ms of latency added: the pictures and operations of A",
}
LIMITS_TITLE = "L. How near reading comes to what the line allows: `feedline-python`, pictures to 64 px"
OWN_TITLE = "M. Your own Dataset: `feedline.torch.DataLoader` against torch's"
ORDER = [*TITLES, "L", "M", "Sampler"]
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

BUCKET_NOTES = {
    "boto3-threads": "16 threads in each worker",
    "litdata-raw": "StreamingRawDataset", "webdataset": "its curl",
    "litdata": "cache emptied before each epoch", "mosaicml-streaming": "cache emptied before each epoch",
    **dict.fromkeys([f"{n}-cache" for n in ("feedline-python", "litdata", "mosaicml-streaming", "webdataset")], "from its cache"),
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
    return pinned, ", ".join(crates), rustc


def machine():
    cpu = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return f"{cpu}, {memory:.0f} GiB, Linux {platform.release()}"


def median_of(rounds, key):
    return statistics.median(r[key] for r in rounds) if rounds else None


def torch_of(name):
    """The row of work M that a row is set against."""
    return name.replace(" feedline", " torch").replace(" seeds=worker", "")


def summarise(found):
    """One dict a row. Its ratio: of Feedline; in M of torch; in L of the bound."""
    out = []
    for work, names in found["order"].items():
        rows = found["rows"].get(work, {})
        feedline = rows.get("feedline-python" if work[0] in "ST" else "feedline")
        base = median_of(feedline, "rate")
        for name in names:
            if work == "M":
                base = median_of(rows.get(torch_of(name)), "rate")
            if work[0] in "ST":
                note = BUCKET_NOTES.get(name, "")
            else:
                note = NOTES.get(name, "") if work in PICTURE_WORKS or name in ARRAY_NOTES else ""
            per_core = found["workers_per_core"].get(work, {}).get(name, 1)
            note = ", ".join(filter(None, [f"{per_core * found['cores']} workers" if per_core > 1 else "", note]))
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
    limits(found, [r for r in out if r["work"] == "L" and "not_run" not in r])
    return out


def limits(found, rows):
    """Puts the bound of each row of work L into its note, and how near it comes into its ratio."""
    server = next((r["images_per_second"] for r in rows if found["limits"][r["name"]][1] == 0), None)
    for row in rows:
        data, latency_ms, in_flight, mb_per_second = found["limits"][row["name"]]
        bounds = []
        if latency_ms:
            bounds.append((in_flight * 1000 / latency_ms, "requests in flight / latency"))
        if mb_per_second:
            bounds.append((mb_per_second * 1000 / found["facts"][data]["mean_kb"], "bandwidth / mean size"))
        if server and latency_ms and data == "L":
            bounds.append((server, "this server, at 0 ms"))
        if bounds:
            bound, what = min(bounds)
            row["note"], row["ratio"] = f"{bound:,.0f}, {what}", row["images_per_second"] / bound


def markdown(found, rows, old):
    """`old`, the file as it was, with this run's works in place of theirs; all anew if the run is whole."""
    parts = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    keys = [part.removeprefix("## ").split(".")[0].split(":")[0] for part in parts[1:]]
    kept = {} if found["whole"] else dict(zip(keys, (part.rstrip("\n") + "\n\n" for part in parts[1:])))
    own = head(found) if found["whole"] or not old else parts[0]
    told = provenance(found) if kept else []
    for work in found["order"]:
        title = {"L": LIMITS_TITLE, "M": OWN_TITLE}.get(work) or TITLES[work]
        lines = limits_table(rows) if work == "L" else own_table(found, rows) if work == "M" else table(work, rows)
        kept[work] = "\n".join([f"## {title}", "", *told, *lines, "", ""])
    if found["sampler"]:
        title = "## Sampler: one rank's indices of one epoch (rank 0)"
        kept["Sampler"] = "\n".join([title, "", *told, *sampler_table(found["sampler"]), "", ""])
    return (own + "".join(kept[key] for key in sorted(kept, key=ORDER.index))).rstrip("\n") + "\n"


def provenance(found):
    quick = "**A quick run, not for quoting.** " if found["quick"] else ""
    pinned, _, rustc = versions()
    mine = [pin for pin in pinned if pin.split("==")[0] in (*found["parts"], "torch", "torchvision", "pillow")]
    return [
        f"{quick}Measured by `{found['command'].strip()}` on {datetime.date.today()}, in {found['minutes']:.0f} minutes, at "
        f"commit {found['commit']}. {machine()}; {found['cores']} cores usable; rounds: {found['rounds']}; {rustc}; Python "
        f"{platform.python_version()}; {', '.join(mine)}.",
        "",
    ]


def head(found):
    pinned, crates, rustc = versions()
    lines = ["# Results of the bench", "", f"Written by `{found['command'].strip()}` on {datetime.date.today()}, "
             f"in {found['minutes']:.0f} minutes, at commit {found['commit']}.", ""]  # fmt: skip
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
        f"- {found['feedline']}; {rustc}; Python {platform.python_version()}; {', '.join(pinned)}; {crates}.",
        "",
    ]
    return "\n".join([*lines, ""])


def table(work, rows):
    lines = ["| loader | images/s | spread | of Feedline | first batch ms | peak MB | CPU s / 1,000 | note |",
             "|---|---:|---:|---:|---:|---:|---:|---|"]  # fmt: skip
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
    return lines


def own_table(found, rows):
    """Work M, what the Datasets make above it. Each ratio is a row's figure over that of torch's row."""
    mine = {r["name"]: r for r in rows if r["work"] == "M"}
    made = {name.split()[0] for name in mine}
    lines = [f"- {work}: {what}; batches of {size}" for work, (size, what) in found["own_datasets"].items() if work in made]
    lines += ["", "| Dataset, loader | samples/s | spread | feedline/torch | first batch ms | of torch's "
              "| CPU s / 1,000 | of torch's | peak MB |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, r in mine.items():
        if "not_run" in r:
            lines.append(f"| {name} | not run: {r['not_run'].replace('|', '/')} | | | | | | | |")
            continue
        rival = mine.get(torch_of(name), r)

        def over(key):
            return f"{r[key] / rival[key]:.2f}" if rival is not r and rival.get(key) else ""

        lines.append(
            f"| {name} | {r['images_per_second']:,.0f} | {r['min']:,.0f}-{r['max']:,.0f} | {over('images_per_second')} | "
            f"{r['first_batch_ms']:,.0f} | {over('first_batch_ms')} | {r['cpu_seconds_per_1000']:.3g} | "
            f"{over('cpu_seconds_per_1000')} | {r['peak_mb']:,.0f} ({r['anonymous_mb']:,.0f}) |"
        )
    return lines


def limits_table(rows):
    lines = ["| data and line | samples/s | spread | bound | of the bound |", "|---|---:|---:|---|---:|"]
    for r in (r for r in rows if r["work"] == "L"):
        if "not_run" in r:
            lines.append(f"| {r['name']} | not run: {r['not_run'].replace('|', '/')} | | | |")
            continue
        near = f"{r['ratio']:.0%}" if r["ratio"] else ""
        lines.append(f"| {r['name']} | {r['images_per_second']:,.0f} | {r['min']:,.0f}-{r['max']:,.0f} | {r['note']} | {near} |")
    return lines


def sampler_table(rows):
    lines = ["| sampler | n | world | start s | first index s | all drawn s | indices | peak MB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for r in rows:
        head = f"| {r['name']} | {r['n']:.0e} | {r['world']} |".replace("e+", "e")
        if r.get("failed"):
            lines.append(f"{head} not run: {r['failed'].replace('|', '/')} | | | | |")
        else:
            times = " | ".join(f"{r[k]:.3g}" for k in ("start_seconds", "first_index_seconds", "draw_seconds"))
            lines.append(f"{head} {times} | {r['indices']:,} | {r['peak_bytes'] / 1e6:,.0f} |")
    return lines


def chart(rows, path):
    """`rows` as they stand in results.csv."""
    numbers = ("images_per_second", "min", "max")
    rows = [r | {key: float(r[key]) for key in numbers} for r in rows if not r.get("not_run")]
    works = [w for w in TITLES if any(r["work"] == w for r in rows)]
    if not works:
        return
    heights = [sum(r["work"] == w for r in rows) for w in works]
    columns = 2 if len(works) > 1 else 1
    lines = -(-len(works) // columns)
    tall = [max(heights[i * columns : (i + 1) * columns]) + 2 for i in range(lines)]
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 0.24 * sum(tall) + 0.3), squeeze=False,
                                gridspec_kw={"height_ratios": tall})  # fmt: skip
    for axis in axes.flat[len(works) :]:
        axis.axis("off")
    for axis, work in zip(axes.flat, works):
        mine = [r for r in rows if r["work"] == work]
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


def table_of(path, rows, found):
    """The rows of the csv file with this run's in place of theirs; the file is written."""
    names = ["work", "name", "images_per_second", "min", "max", "ratio", "rounds", "first_batch_ms", "peak_mb",
             "anonymous_mb", "cpu_seconds_per_1000", "not_run", "note"]  # fmt: skip
    merged = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    if path.exists() and not found["whole"]:
        with open(path, newline="") as file:
            merged += [row for row in csv.DictReader(file) if row["work"] not in found["order"]]
    merged.sort(key=lambda row: ORDER.index(row["work"]))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(merged)
    return merged


def main():
    found, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    rows, text = summarise(found), out / "RESULTS.md"
    text.write_text(markdown(found, rows, text.read_text() if text.exists() else ""))
    chart(table_of(out / "results.csv", rows, found), out / "results.png")
    print(f"wrote {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
