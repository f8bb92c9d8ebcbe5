"""Device names: what there is, what there is not, and what is no name at all."""

from __future__ import annotations

import os

import pytest
import torch

from cammsr_cli.devices import is_out_of_memory, repeatable, resolve_device, room_for
from cammsr_cli.errors import UsageError


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_gives_a_device_that_works() -> None:
    device = resolve_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2
    if torch.cuda.is_available():
        assert device.type == "cuda"


def test_auto_prefers_cuda_then_apple_then_cpu(monkeypatch) -> None:
    for cuda, apple, expected in [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: bool(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda apple=apple: bool(apple))
        assert resolve_device("auto").type == expected


@pytest.mark.parametrize(
    "name", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "cuda:0:1", "xla", "tpu:0"]
)
def test_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu:", "cpu:01", "cpu:²"])
def test_numbers_that_torch_cannot_read_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_absent_cuda_is_told(monkeypatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device") as caught:
        resolve_device(name)
    assert "--device cpu" in (caught.value.hint or "")


def test_a_number_beyond_the_devices_is_told(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"has 2 CUDA device\(s\)"):
        resolve_device("cuda:2")


def test_absent_apple_device_is_told(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no Apple GPU"):
        resolve_device("mps")


# --- results that can be repeated ---------------------------------------------------------------


def test_a_gpu_is_made_to_repeat_its_results_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for device, wanted in (("cuda", False), ("cpu", True)):
        with repeatable(torch.device(device), wanted):
            assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with repeatable(torch.device("cuda"), True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


# --- memory -------------------------------------------------------------------------------------


def test_data_may_take_half_of_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 10_000))
    gpu = torch.device("cuda")
    assert room_for(gpu, 500)
    assert not room_for(gpu, 501)
    assert not room_for(torch.device("cpu"), 1)


def test_what_torch_says_where_memory_gives_out() -> None:
    for words in (
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    ):
        assert is_out_of_memory(RuntimeError(words)), words
    assert not is_out_of_memory(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"))
