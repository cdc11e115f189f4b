import pytest
import torch

from cnnimretrieval.networks import precision as module
from cnnimretrieval.networks.network import NetworkConfig
from cnnimretrieval.networks.precision import choose_precision, cpu_flags
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig


def test_what_a_person_says_is_not_tried(monkeypatch):
    monkeypatch.setattr(module, "_gain", None)
    for wanted in ("float32", "bfloat16"):
        choice = choose_precision(wanted, "cpu")
        assert choice.precision == wanted
        assert str(choice) == f"{wanted} (as the settings say)"


@pytest.mark.parametrize(
    ("flags", "gain", "precision", "why"),
    [
        ("fpu avx512f avx512_vnni", 9.0, "float32", "the processor has none of amx_bf16, avx512_bf16, bf16"),
        ("fpu avx512f avx512_bf16", 2.04, "bfloat16", "with avx512_bf16 a convolution is 2.0 x as fast"),
        ("fpu amx_bf16 avx512_bf16", 0.4, "float32", "with amx_bf16 a convolution is 0.4 x as fast"),
    ],
)
def test_a_processor_without_the_instructions_or_slow_in_them_stays_single(
    monkeypatch, tmp_path, flags, gain, precision, why
):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    monkeypatch.setattr(module, "cpu_flags", lambda: cpu_flags(info))
    monkeypatch.setattr(module, "_gain", lambda: gain)
    choice = choose_precision("auto", "cpu")
    assert choice.precision == precision
    assert choice.why == f"bfloat16: {why}"


def test_flags_of_an_arm_processor_and_of_a_silent_system(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\nCPU part\t: 0xd40\n")
    assert "bf16" in cpu_flags(info)
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_this_machine_is_tried_and_its_threads_are_left_alone():
    torch.set_num_threads(2)
    assert 0.05 < module._gain() < 50
    assert torch.get_num_threads() == 2
    assert choose_precision("auto", "cpu").precision in ("float32", "bfloat16")


def test_what_is_chosen_is_trained_with_and_told(pairs_dir, tmp_path, monkeypatch):
    loop = LoopConfig(image_size=64, epochs=0, precision="auto")
    config = TrainConfig(network=NetworkConfig(backbone="squeezenet1_1"), loop=loop)
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    told = {}
    for gain, chosen in ((0.4, "float32"), (2.0, "bfloat16")):
        monkeypatch.setattr(module, "_gain", lambda gain=gain: gain)
        result = fine_tune(pairs_dir, tmp_path / chosen, config, weights="random")
        why = f"bfloat16: with avx512_bf16 a convolution is {gain:.1f} x as fast"
        assert result.train.precision == f"{chosen} ({why})"
        # The choice is what decides, not how it came about.
        said = loop.model_copy(update={"precision": chosen})
        same = config.model_copy(update={"loop": said})
        assert fine_tune(pairs_dir, tmp_path / chosen, same, weights="random") == result
        told[chosen] = result
    assert told["float32"].evaluation.keys() == told["bfloat16"].evaluation.keys()
