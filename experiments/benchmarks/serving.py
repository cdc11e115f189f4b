"""Answers of the search page's server under load: `python -m experiments.benchmarks.serving`.

A server of its own process serves synthetic descriptors, the first of which are of drawn photos; users ask
at the same time, each the next question when the last one is answered. Then many mixed requests, wrong ones
among them: none may fail that should not, and the server's memory may grow by little. An upload may take the
network's forward pass on top, as measured without a server, asked by as many users at the same time.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import torch
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig, describe_batch
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude
from experiments.benchmarks.search import synthetic
from groundwork.descriptor_folder import BOX, IMAGES, META, VECTORS
from groundwork.executors import usable_cores
from groundwork.files import read_json, write_json, write_table
from groundwork.memory import resident_bytes

MOST_SECONDS = 0.3
MOST_GROWTH_MB = 50.0
_PHOTOS, _IMAGE_PX = 40, 320
_WARM_UP = 100


def prepare(folder: Path, rows: int) -> RetrievalNetwork:
    """A model, photos, and their descriptors among `rows` synthetic ones of photos that are gone."""
    network = build(NetworkConfig(backbone="resnet18"), "random", seed=0)
    save(network, folder / "model")
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(_PHOTOS):
        blocks = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((800, 600), Image.Resampling.BICUBIC)
        picture.save(folder / "photos" / f"{number:03d}.jpg")
    requests = [ImageRequest(path=path) for path in sorted((folder / "photos").iterdir())]
    out = folder / "dir"
    store = extract(network, requests, folder / "photos", out, ExtractConfig(image_size=_IMAGE_PX))
    real = np.array(store.vectors)
    (out / "done" / "extract.json").unlink()  # what follows is no extraction
    vectors = synthetic(out / VECTORS, rows, real.shape[1])
    changed = np.lib.format.open_memmap(out / VECTORS, mode="r+")
    changed[: len(real)] = real
    changed.flush()
    names = [*store.images["name"], *(f"gone/{row:06d}.jpg" for row in range(len(real), len(vectors)))]
    nothing = dict.fromkeys(BOX, np.nan)
    write_table(out / IMAGES, pd.DataFrame({"name": names}).assign(**nothing))
    write_json(out / META, read_json(out / META) | {"described": rows})
    return network


def forward_seconds(network: RetrievalNetwork, users: int) -> tuple[float, float]:
    """Of the network alone, a thread a core, a picture as queries are: median for one user, p95 of all."""
    torch.set_num_threads(1)
    levels = torch.randint(0, 256, (1, 3, _IMAGE_PX * 3 // 4, _IMAGE_PX), dtype=torch.uint8)
    network.eval()
    with ThreadPoolExecutor(usable_cores()) as pool:

        def described(_: int) -> None:
            pool.submit(describe_batch, network, levels, ExtractConfig()).result()

        alone = under_load(described, 1, 10)
        together = under_load(described, users, 10 * users)
    return alone[len(alone) // 2], together[int(0.95 * len(together))]


def under_load(work: Callable[[int], None], users: int, requests: int) -> list[float]:
    """Seconds of each of `requests` calls of `work`, by so many users at a time, rising."""

    def asked(number: int) -> float:
        started = time.perf_counter()
        work(number)
        return time.perf_counter() - started

    with ThreadPoolExecutor(users) as pool:
        return sorted(pool.map(asked, range(requests)))


def main() -> int:
    """Print percentiles and verdicts; 1 when a claim is missed."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--requests", type=int, default=200, help="of each kind for the percentiles")
    parser.add_argument("--mixed", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = prepare(folder, options.rows)
        words = [sys.executable, "-m", "experiments.cli", "serve", str(folder / "model"), str(folder / "dir")]
        command = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True)
        assert command.stdout is not None
        try:
            address = command.stdout.readline().split()[3]
            alone, together = forward_seconds(network, options.users)
            print(
                f"the network's forward pass, one thread: {1e3 * alone:.0f} ms; p95 for {options.users} "
                f"users on {usable_cores()} cores: {1e3 * together:.0f} ms",
                flush=True,
            )
            claims = _measured(address, command.pid, folder / "photos", together, options)
        finally:
            command.send_signal(signal.SIGINT)
            command.wait(60)
            command.stdout.close()
        return conclude(claims)


def _measured(
    address: str, pid: int, photos: Path, forward: float, options: argparse.Namespace
) -> Sequence[Claim]:
    users, requests, mixed = options.users, options.requests, options.mixed
    contents = [path.read_bytes() for path in sorted(photos.iterdir())]
    limits = httpx.Limits(max_connections=users)
    with httpx.Client(base_url=address, timeout=120.0, limits=limits) as client:

        def by_name(number: int) -> None:
            data = {"name": f"{number % _PHOTOS:03d}.jpg", "top": "24"}
            client.post("/api/search", data=data).raise_for_status()

        def by_upload(number: int) -> None:
            files = {"photo": ("a.jpg", contents[number % _PHOTOS])}
            client.post("/api/search", files=files).raise_for_status()

        for work in (by_name, by_upload):
            under_load(work, users, 20)
        claims = []
        kinds = (("a photo of the collection", by_name, 0.0), ("an uploaded photo", by_upload, forward))
        for what, work, beside in kinds:
            started = _cpu_seconds(pid)
            took = under_load(work, users, requests)
            p50, p95 = took[len(took) // 2], took[int(0.95 * len(took))]
            cpu = 1e3 * (_cpu_seconds(pid) - started) / requests
            print(
                f"{what}, {users} users: median {1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms; "
                f"{cpu:.0f} ms of a core a request",
                flush=True,
            )
            limit = MOST_SECONDS + beside
            claims.append(Claim(what=f"p95 s, {what}", measured=p95, limit=limit, at_least=False))
        failed: list[str] = []
        under_load(lambda number: _mixed(client, number, contents, failed), users, _WARM_UP)
        before = resident_bytes(pid)
        under_load(lambda number: _mixed(client, number, contents, failed), users, mixed)
        growth = (resident_bytes(pid) - before) / 1e6
    print(f"memory of the server {before / 1e6:.0f} MB; {failed[:3]}")
    claims.append(Claim(what="MB grown", measured=growth, limit=MOST_GROWTH_MB, at_least=False))
    claims.append(Claim(what="requests that went wrong", measured=len(failed), limit=0, at_least=False))
    return claims


@cache
def _bomb() -> bytes:
    """A small file of more pixels than are decoded."""
    stream = io.BytesIO()
    Image.new("1", (10_000, 7_000)).save(stream, "PNG")
    return stream.getvalue()


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _mixed(client: httpx.Client, number: int, contents: Sequence[bytes], failed: list[str]) -> None:
    """One of ten kinds of requests, four of them wrong; notes what comes back otherwise than it should."""
    name, photo = f"{number % _PHOTOS:03d}.jpg", contents[number % _PHOTOS]
    kinds: list[tuple[int, str, dict[str, str], bytes | None]] = [
        (200, "/api/search", {"name": name}, None),
        (200, "/api/search", {"top": "50"}, photo),
        (200, "/api/search", {"name": name, "rerank": "qe"}, None),
        (200, "/api/search", {"name": name, "rerank": "diffusion"}, None),
        (200, "/results", {"row": str(number % _PHOTOS)}, None),
        (200, "/results", {"box": "10,10,400,300"}, photo),
        (422, "/api/search", {}, b"no photo"),
        (422, "/api/search", {}, photo[:2000]),
        (422, "/api/search", {}, _bomb()),
        (404, "/api/search", {"name": "../../etc/passwd"}, None),
    ]
    status, address, data, sent = kinds[number % len(kinds)]
    try:
        answer = client.post(address, data=data, files=None if sent is None else {"photo": ("a", sent)})
    except httpx.HTTPError as error:
        failed.append(f"{address} {data}: {error}")
        return
    if answer.status_code != status:
        failed.append(f"{address} {data}: {answer.status_code} {answer.text[:80]}")


if __name__ == "__main__":
    sys.exit(main())
