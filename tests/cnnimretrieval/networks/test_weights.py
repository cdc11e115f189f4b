import pytest
import torch
from safetensors.torch import save_file

from cnnimretrieval.networks.backbones import build_trunk

KEY = "features.0.weight"
REMEDY = "give weights of squeezenet1_1 or choose the backbone they belong to"


def _state():
    return dict(build_trunk("squeezenet1_1", "random", seed=4).state_dict())


def _with(value):
    weight = _state()[KEY].clone()
    weight[5, 0, 1, 2] = value
    return weight


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda: _with(torch.nan), f"expected finite numbers as '{KEY}', got nan at [5, 0, 1, 2]"),
        (lambda: _with(-torch.inf), f"expected finite numbers as '{KEY}', got -inf at [5, 0, 1, 2]"),
        (lambda: _with(0.0).double() * 1e300, f"expected finite numbers as '{KEY}', got "),
        *(
            (
                lambda dtype=dtype: _with(0.0).to(dtype),
                f"expected real numbers of 16 to 64 bits as '{KEY}', got numbers of type {name}",
            )
            for dtype, name in (
                (torch.int8, "int8"),
                (torch.int64, "int64"),
                (torch.complex64, "complex64"),
                (torch.float8_e4m3fn, "float8_e4m3fn"),
                (torch.bool, "bool"),
            )
        ),
        (
            lambda: _with(0.0)[:, :, :2],
            f"expected '{KEY}' of shape (64, 3, 3, 3) for squeezenet1_1, got (64, 3, 2, 3)",
        ),
    ],
)
def test_numbers_that_are_no_weights_are_told_with_file_tensor_and_value(tmp_path, spoil, problem):
    for suffix, write in (("safetensors", save_file), ("pth", torch.save)):
        path = tmp_path / f"w.{suffix}"
        write(_state() | {KEY: spoil().contiguous()}, path)
        with pytest.raises(ValueError, match="weights") as error:
            build_trunk("squeezenet1_1", str(path))
        assert str(error.value).startswith(f"weights {path}: {problem}")
        assert str(error.value).endswith(f"; {REMEDY}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["features.0.weight", "features.12.expand3x3.bias"])
def test_not_one_tensor_may_be_missing(tmp_path, missing):
    state = _state()
    del state[missing]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="weights") as error:
        build_trunk("squeezenet1_1", str(tmp_path / "w.pth"))
    assert str(error.value) == (
        f"weights {tmp_path}/w.pth: expected the keys of squeezenet1_1, got no '{missing}'; {REMEDY}"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_real_precisions_are_converted(tmp_path, dtype):
    state = _state()
    save_file({name: value.to(dtype) for name, value in state.items()}, tmp_path / "w.safetensors")
    found = build_trunk("squeezenet1_1", str(tmp_path / "w.safetensors")).state_dict()
    assert found[KEY].dtype == torch.float32
    assert torch.equal(found[KEY], state[KEY].to(dtype).float())


def test_a_compressed_layout_is_refused(tmp_path):
    torch.save(_state() | {KEY: _with(0.0).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"as '{KEY}', got numbers of type float32 as sparse_coo; give"):
        build_trunk("squeezenet1_1", str(tmp_path / "w.pth"))


def test_a_variance_below_0_is_refused(tmp_path):
    state = dict(build_trunk("resnet18", "random").state_dict())
    state = {name.removeprefix("features."): value for name, value in state.items()}
    state["4.0.bn1.running_var"][7] = -0.25
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="running_var") as error:
        build_trunk("resnet18", str(tmp_path / "w.pth"))
    assert "expected variances of 0 or more as '4.0.bn1.running_var', got -0.25 at [7]; " in str(error.value)
