from experiments.benchmarks import rerun


def test_a_rerun_does_nothing_again(tmp_path):
    seconds = rerun.measure(20, tmp_path)
    assert len(seconds) == 3
    assert len(list((tmp_path / "done").iterdir())) == 20
