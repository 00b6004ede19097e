"""An S3 server (SeaweedFS, with authentication) with data in its bucket `bench`, until standard input ends.

    python bucket.py SCRATCH PREFIX=FOLDER ...

Run by harness.py inside the main environment, credentials in the environment. Prints the server's address when
everything is in the bucket. What it keeps lies in SCRATCH.
"""

import concurrent.futures
import pathlib
import signal
import socket
import subprocess
import sys
import time

import boto3
import botocore.config
import botocore.exceptions

PORTS = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
         "filer.port.grpc", "webdav.port", "admin.port", "admin.port.grpc", "s3.port.iceberg"]  # fmt: skip


def free_ports():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(scratch):
    """(process, client, address) of a server that keeps objects, or None: another may have taken a port meanwhile."""
    ports = free_ports()
    folder = scratch / f"weed-{ports[0]}"
    folder.mkdir(parents=True)
    command = [pathlib.Path(sys.executable).parent / "weed", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
               "-admin.ui=false", "-bucket=bench", *(f"-{name}={port}" for name, port in zip(PORTS, ports))]  # fmt: skip
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    once = botocore.config.Config(retries={"max_attempts": 0}, max_pool_connections=16)
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{ports[0]}", config=once)
    begun = time.monotonic()
    while time.monotonic() - begun < 20 and process.poll() is None:
        try:
            client.put_object(Bucket="bench", Key="ready", Body=b"yes")  # it listens before it keeps anything
            return process, client, f"127.0.0.1:{ports[0]}"
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            time.sleep(0.05)
    process.kill()
    process.wait()
    return None


def main():
    scratch, folders = pathlib.Path(sys.argv[1]), [word.split("=", 1) for word in sys.argv[2:]]
    started = next((s for s in (start(scratch) for _ in range(4)) if s), None)
    if started is None:
        sys.exit("the S3 server does not start")
    process, client, address = started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        files = [(f"{prefix}/{p.relative_to(folder)}", p) for prefix, folder in folders
                 for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()]  # fmt: skip
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda file: client.put_object(Bucket="bench", Key=file[0], Body=file[1].read_bytes()), files))
        print(address, flush=True)
        sys.stdin.read()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    main()
