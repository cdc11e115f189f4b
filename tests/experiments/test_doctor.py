import os

from experiments import cli
from groundwork.files import write_json
from groundwork.records import mark_done


def test_the_machine_is_told(capsys):
    assert cli.main(["doctor"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "torch" in told["packages"]
    assert int(told["cores"]) >= 1
    assert {"system", "memory", "disk", "GPUs"} <= told.keys()


def test_rot_in_the_folder_of_a_run_is_named(tmp_path, capsys):
    work = tmp_path / "work"
    path = work / "sfm" / "stats.json"
    write_json(path, {"images": 1})
    mark_done(work / "sfm", "images", "key", outputs=[path])
    assert cli.main(["doctor", str(work)]) == 0
    assert f"whole     every recorded file below {work}" in capsys.readouterr().out
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"1", b"7"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cli.main(["doctor", str(work)]) == 1
    printed = capsys.readouterr()
    assert f"damaged   {path}" in printed.out
    assert printed.err == (
        f"cnnimretrieval: WORK {work}: expected files as their records say, got 1 that are not; "
        "run the same command again to make them anew\n"
    )


def test_a_folder_that_is_none_is_refused(tmp_path, capsys):
    assert cli.main(["doctor", str(tmp_path / "none")]) == 2
    assert "WORK: expected a folder" in capsys.readouterr().err
