"""Photos described part by part, against all of them at once."""

import pickle
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest
import torch

from cnnimretrieval.descriptors import parts
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.parts import describe_in_parts
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.network import build
from cnnimretrieval.whitening.estimates import pca_whitening
from groundwork.child import WorkerDied, preload
from groundwork.executors import LocalExecutor, SerialExecutor

SMALL = ExtractConfig(image_size=72)


@pytest.fixture
def requests(photos, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    boxed = ImageRequest(path=photos[3], box=(8.0, 4.0, 72.0, 60.0))
    whole = [ImageRequest(path=path) for path in photos]
    return [*whole[:2], ImageRequest(path=tmp_path / "bad.png"), *whole[2:], boxed]


@pytest.fixture
def threes(monkeypatch):
    monkeypatch.setattr(parts, "_PHOTOS", {"cpu": 3, "task": 3})


def _same(found, expected) -> bool:
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.positions, expected.positions)
    return found.failures == expected.failures


def test_they_are_what_all_at_once_are(network, requests, tmp_path, threes):
    expected = describe(network, requests, SMALL)
    assert [one.position for one in expected.failures] == [2]
    out = tmp_path / "out" / "vectors.npy"
    assert _same(describe_in_parts(network, requests, SMALL, out), expected)
    np.testing.assert_array_equal(np.load(out), expected.vectors)
    assert [path.name for path in out.parent.iterdir()] == ["vectors.npy"]


def test_a_folder_made_in_parts_is_the_one_made_at_once(network, requests, tmp_path, monkeypatch):
    network.whitening = pca_whitening(describe(network, requests[3:], SMALL).vectors, dim=4)
    once = extract(network, requests, tmp_path, tmp_path / "once", SMALL)
    monkeypatch.setattr(parts, "_PHOTOS", {"cpu": 2})
    again = extract(network, requests, tmp_path, tmp_path / "parts", SMALL)
    np.testing.assert_array_equal(again.vectors, once.vectors)
    for name in ("images", "rejected"):
        assert getattr(again, name).equals(getattr(once, name))
    assert not list((tmp_path / "parts").glob("*part*"))


def test_an_interrupted_call_goes_on_where_it_was(network, requests, tmp_path, threes, monkeypatch):
    described = []

    def stopped(network, some, *arguments, **options):
        if len(described) == 2:
            raise KeyboardInterrupt
        described.append(options["desc"])
        return describe(network, some, *arguments, **options)

    monkeypatch.setattr(parts, "describe", stopped)
    out = tmp_path / "out" / "vectors.npy"
    with pytest.raises(KeyboardInterrupt):
        describe_in_parts(network, requests, SMALL, out)
    assert not out.exists()
    assert described == ["describe, part 1 of 3", "describe, part 2 of 3"]
    described.append("stopped here")
    assert _same(describe_in_parts(network, requests, SMALL, out), describe(network, requests, SMALL))
    assert described[3:] == ["describe, part 3 of 3"]


def test_what_decides_a_descriptor_makes_parts_anew(network, requests, tmp_path, threes, monkeypatch):
    described = []

    def stopped(*arguments, **options):
        described.append(options["desc"][-6])
        found = describe(*arguments, **options)
        if described[-1] == "2":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(parts, "describe", stopped)
    call = partial(describe_in_parts, network, out=tmp_path / "out" / "vectors.npy")
    other = [requests[0], ImageRequest(path=requests[1].path, box=(0.0, 0.0, 40.0, 40.0)), *requests[2:]]
    for asked, config in ((requests, SMALL), (other, SMALL), (other, ExtractConfig(image_size=64))):
        with pytest.raises(KeyboardInterrupt):
            call(asked, config)
    with pytest.raises(KeyboardInterrupt):
        call(other, ExtractConfig(image_size=64))
    assert "".join(described) == "1212122"


class Pickling(SerialExecutor):
    """Calls in this process what another one would get; a batch with this photo kills its worker."""

    def __init__(self, deadly=None) -> None:
        self._deadly = deadly

    def submit(self, fn, /, *args, **kwargs):
        fn, args, kwargs = pickle.loads(pickle.dumps((fn, args, kwargs)))
        if self._deadly in [item.path for item in args[-1].items]:
            future = Future()
            future.set_exception(WorkerDied("worker was ended by SIGKILL"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_tasks_give_the_same_and_a_photo_that_kills_its_worker_is_told(network, requests, tmp_path, threes):
    call = partial(describe_in_parts, network, requests, SMALL)
    expected = describe(network, requests, SMALL)
    assert _same(call(tmp_path / "a" / "vectors.npy", executor=Pickling()), expected)
    deadly = requests[4].path
    killed = [position for position, request in enumerate(requests) if request.path == deadly]
    found = call(tmp_path / "b" / "vectors.npy", executor=Pickling(deadly))
    rows = np.flatnonzero(~np.isin(expected.positions, killed))
    np.testing.assert_array_equal(found.vectors, expected.vectors[rows])
    np.testing.assert_array_equal(found.positions, expected.positions[rows])
    told = [(one.position, one.path, one.reason) for one in found.failures]
    assert [position for position, *_ in told] == sorted([2, *killed])
    reason = "worker was ended by SIGKILL"
    assert [one for one in told if one[1] == deadly] == [(position, deadly, reason) for position in killed]


def test_a_process_of_many_tasks_knows_one_network_from_the_next(network, requests, tmp_path, threes):
    out, threads = tmp_path / "out" / "vectors.npy", torch.get_num_threads()
    describe_in_parts(network, requests, SMALL, out, executor=Pickling())
    other = build(network.config, "random", seed=9)
    found = describe_in_parts(other, requests, SMALL, out, executor=Pickling())
    assert _same(found, describe(other, requests, SMALL))
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_children_describe_what_this_process_does(network, requests, tmp_path, threes):
    preload("cnnimretrieval.descriptors.parts")
    with LocalExecutor(2) as executor:
        found = describe_in_parts(network, requests, SMALL, tmp_path / "out" / "v.npy", executor=executor)
    assert _same(found, describe(network, requests, SMALL))
