from experiments.benchmarks import evaluation


def test_streamed_and_straightforward_agree(tmp_path, capsys):
    """On so little the times prove nothing."""
    sizes = ["--photos", "300", "--distractors", "2500", "--shard", "1000", "--queries", "5", "--dim", "9"]
    code = evaluation.main(["--out", str(tmp_path), *sizes, "--repeats", "1"])
    printed = capsys.readouterr().out
    assert code == int("MISSED" in printed)
    assert "holds: largest difference of any mAP or mP@k from the oracle's" in printed
    for words in ("| straightforward |", "seconds over streamed ones", "add to the peak"):
        assert words in printed
