"""A pretended GPU: values that lie in main memory, under CUDA's rules about where tensors are.

    with pretended_cuda() as asked:
        model.to("cuda")                # as on a machine with one GPU
    asked.launches, asked.waits         # what a GPU would have been made to do

A tensor on "cuda" is a wrapper around one on the CPU. It stands below autograd and autocast, so
that both behave as they do on CUDA, and each operation comes by here:

- Tensors of both kinds in one operation are refused, as CUDA refuses them, but for numbers and for
  indices; so are a CPU's generator and `.numpy()`.
- What makes the host wait for the device is counted, with the line that asked: values read back,
  results whose size hangs on values, and copies from the host that are not `non_blocking`.
- All else that computes is counted as one launch of a kernel, though some operations start several.

Not to be seen: kernels, their speed, and memory. Attention is computed by products, since the
choice among CUDA's kernels asks the driver, and so does autograd's engine, whose place a walk over
the graph takes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

SIZED_BY_VALUES = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten._coalesce.default,
}
"""The host must read from the device before it knows what these give."""

INDEXING = {
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}

COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}

NO_KERNEL = {
    aten._reshape_alias.default,
    aten._coalesced_.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.detach.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.lift_fresh.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.resize_.default,
}
"""Memory alone, or views that are not marked as such."""


class WrongDeviceError(RuntimeError):
    """What CUDA would have refused."""


@dataclass
class Asked:
    """What the device was asked for.

    Attributes:
        launches: Operations that start a kernel, by name.
        waits: What made the host wait, by place and operation.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.launches.clear()
        self.waits.clear()

    def wait(self, why: str) -> None:
        self.waits[f"{_place()}: {why}"] += 1


_asked = Asked()


class _Stream:
    """Of a device that has done all as soon as it is asked; to wait for it counts all the same."""

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None:
        _asked.wait("an event")


def _place() -> str:
    """The innermost line of the project that is being run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if "/cammsr_cli/" in name:
            return f"{name.rpartition('/cammsr_cli/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the project"


class OnCuda(torch.Tensor):
    """A tensor that says that it is on cuda:0, and holds its values in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnCuda:
        strided = inner.layout == torch.strided
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride() if strided else None,
            storage_offset=inner.storage_offset() if strided else None,
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(op, args, kwargs or {})

    # With these two, `Module.to` swaps a parameter's content, and it stays the same object.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> OnCuda:
        return OnCuda(inner["inner"])

    def __deepcopy__(self, memo: dict[int, Any]) -> OnCuda:
        copied = OnCuda(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        copied.__dict__.update({n: v for n, v in self.__dict__.items() if n != "inner"})
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCuda({self.inner!r})"

    # Torch makes these without asking any dispatcher.
    def tolist(self) -> Any:
        _asked.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise WrongDeviceError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def _computed(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: looked at, and made by the CPU."""
    tensors: list[torch.Tensor] = []
    _mapped(tensors.append, (args, kwargs))
    there = [x for x in tensors if isinstance(x, OnCuda)]
    device = kwargs.get("device")
    gives_cuda = bool(there) if device is None else torch.device(device).type == "cuda"
    if not there and not gives_cuda:
        return op(*args, **{n: v for n, v in kwargs.items() if n != "pin_memory"})
    here = [x for x in tensors if not isinstance(x, OnCuda)]
    _require_one_device(op, args, kwargs, there, here, gives_cuda)
    _count(op, args, kwargs, there, here, gives_cuda)
    inner_args, inner_kwargs = _mapped(_values, (args, kwargs))
    if device is not None:
        inner_kwargs["device"] = CPU
    inner_kwargs.pop("pin_memory", None)
    made = op(*inner_args, **inner_kwargs)
    if not gives_cuda or op is aten._local_scalar_dense.default:
        return made
    return _wrapped(op, args, kwargs, made)


def _mapped(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """Lists, tuples and dictionaries with `function` applied to the tensors in them."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, list | tuple) and type(tree) is not torch.Size:
        return type(tree)([_mapped(function, one) for one in tree])
    if isinstance(tree, dict):
        return {name: _mapped(function, one) for name, one in tree.items()}
    return tree


def _values(x: torch.Tensor) -> torch.Tensor:
    return x.inner if isinstance(x, OnCuda) else x


def _wrapped(op: Any, args: Any, kwargs: dict[str, Any], made: Any) -> Any:
    """What the CPU made, as on cuda; an argument that was written to is given back itself."""
    written: dict[int, OnCuda] = {}
    for at, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[at] if at < len(args) else kwargs.get(argument.name)
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, OnCuda):
                    written[id(one.inner)] = one
                    if one.shape != one.inner.shape:
                        raise NotImplementedError(f"{op} changes a shape in place")

    def wrap(x: torch.Tensor) -> OnCuda:
        return written[id(x)] if id(x) in written else OnCuda(x)

    out = _mapped(wrap, made)
    return return_and_correct_aliasing(op, args, kwargs, out) if op.is_view else out


def _require_one_device(
    op: Any, args: Any, kwargs: Any, there: list[Any], here: list[Any], gives_cuda: bool
) -> None:
    generator = kwargs.get("generator")
    if gives_cuda and generator is not None and generator.device.type == "cpu":
        raise WrongDeviceError(f"{op}: expected a 'cuda' generator but found 'cpu'")
    if not there or op in COPIES:
        return
    for one in here:
        if one.dim() and not (op in INDEXING and any(one is index for index in args[1])):
            raise WrongDeviceError(
                f"{op}: expected all tensors to be on the same device, found cuda:0 and cpu "
                f"({tuple(one.shape)}, {one.dtype}), at {_place()}"
            )


def _count(
    op: Any, args: Any, kwargs: Any, there: list[Any], here: list[Any], gives_cuda: bool
) -> None:
    if op in COPIES:
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
        into_host = op is aten.copy_.default and not isinstance(args[0], OnCuda)
        if there and (not gives_cuda or (into_host and blocking)):
            _asked.wait("copied to the host")
        elif here and blocking:
            _asked.wait("copied from the host")
        else:
            _asked.launches[str(op)] += 1
        return
    sized = op in SIZED_BY_VALUES or (
        op is aten.repeat_interleave.Tensor and _unknown(args, kwargs)
    )
    masks = op in INDEXING and any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
        for index in args[1]
    )
    if sized:
        _asked.wait(str(op))
    elif masks:
        _asked.wait(f"{op} by a mask")
    elif op in INDEXING and any(one.dim() for one in here):
        _asked.wait(f"{op} by an index of the host")
    if op not in NO_KERNEL and not op.is_view:
        _asked.launches[str(op)] += 1


def _unknown(args: Any, kwargs: Any) -> bool:
    """Whether `repeat_interleave` was not told how long its result is."""
    return kwargs.get("output_size") is None and len(args) < 2


class _Made(TorchDispatchMode):
    """Tensors made on cuda from nothing, of which no argument's class tells."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(op, args, kwargs or {})


class _Driverless(TorchFunctionMode):
    """What would ask the driver, and tensors that are made without asking a dispatcher."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention and isinstance(args[0], OnCuda):
            return _attention(*args, **kwargs)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _on_device_of(args[0], args[1]), *args[2:])
        if function is torch.Tensor.backward and isinstance(args[0], OnCuda):
            return _backward(args[0])
        return function(*args, **kwargs)


def _on_device_of(x: torch.Tensor, index: Any) -> Any:
    """An index whose lists are tensors where `x` is, which torch makes of them."""
    if not isinstance(x, OnCuda):
        return index
    if isinstance(index, tuple):
        return tuple(_on_device_of(x, one) for one in index)
    return torch.tensor(index).to(x.device) if isinstance(index, list) else index


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    if is_causal:
        raise NotImplementedError("a mask that is not given")
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
        attn_mask = None if attn_mask is None else attn_mask.to(q.dtype)
    weight = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weight = torch.where(attn_mask, weight, float("-inf"))
    elif attn_mask is not None:
        if attn_mask.dtype != q.dtype:
            raise WrongDeviceError(f"a bias of {attn_mask.dtype} for a query of {q.dtype}")
        weight = weight + attn_mask
    weight = weight.float().softmax(-1).to(q.dtype)
    return functional.dropout(weight, dropout_p) @ v


def _backward(loss: torch.Tensor) -> None:
    """The gradients of a scalar, summed into the leaves' `grad` as autograd's engine does."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(loss.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(after, False) for after, _ in node.next_functions if after is not None]
    arrived: dict[Any, dict[int, torch.Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in reversed(order):
            if node not in arrived:
                continue
            given = arrived.pop(node)
            if hasattr(node, "variable"):
                leaf = node.variable
                if given[0].layout == torch.sparse_coo:
                    given[0]._coalesced_(False)  # the engine of torch forgets it
                leaf.grad = given[0] if leaf.grad is None else leaf.grad + given[0]
                continue
            outputs = max(len(node._input_metadata), 1 + max(given))
            ours = isinstance(node, torch.autograd.function.BackwardCFunction)
            found = (node.apply if ours else node)(*(given.get(at) for at in range(outputs)))
            found = found if isinstance(found, tuple) else (found,)
            for (after, at), grad in zip(node.next_functions, found, strict=False):
                if after is None or grad is None:
                    continue
                wanted = after._input_metadata[at]
                grad = grad.sum_to_size(wanted.shape) if grad.shape != wanted.shape else grad
                grad = grad.to(wanted.dtype) if grad.dtype != wanted.dtype else grad
                sums = arrived.setdefault(after, {})
                sums[at] = sums[at] + grad if at in sums else grad


def _without_gradients(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _with_gradients(mode: Any, *_: object) -> None:
    torch.set_grad_enabled(mode.before)


def _run_within(run: Callable[[Thread], None]) -> Callable[[Thread], None]:
    """What has a thread find the pretended GPU, too: torch's modes are a thread's own."""

    def within(thread: Thread) -> None:
        with _Driverless(), _Made():
            run(thread)

    return within


@contextmanager
def pretended_cuda(devices: int = 1, free: int = 2**34) -> Iterator[Asked]:
    """Within it there are so many GPUs, each with so many bytes free."""
    asked = _asked
    asked.clear()
    torch._C._ensureCUDADeviceGuardSet()  # as fake tensors do: a guard that guards nothing
    random = {at: torch.full((16,), at, dtype=torch.uint8) for at in range(devices)}

    def at(device: Any = "cuda") -> int:
        index = torch.device(device).index or 0
        if index >= devices:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return index

    with ExitStack() as stack:
        for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: devices,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
            "is_bf16_supported": lambda including_emulation=True: True,
            "is_current_stream_capturing": lambda: False,
            "manual_seed": lambda seed: None,
            "manual_seed_all": lambda seed: None,
            "current_stream": lambda device=None: _Stream(),
            "mem_get_info": lambda device=None: (free, 2 * free),
            "get_rng_state": lambda device="cuda": random[at(device)].clone(),
            "set_rng_state": lambda state, device="cuda": random.update({at(device): state}),
        }.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        # Wrappers count among what is moved many tensors at a time, as CUDA's own are.
        types = [torch.Tensor, nn.Parameter, OnCuda]
        stack.enter_context(patch.object(_foreach_utils, "_foreach_supported_types", types))
        # Wrappers cannot be viewed in inference mode.
        inference = torch.inference_mode
        stack.enter_context(patch.object(inference, "__enter__", _without_gradients))
        stack.enter_context(patch.object(inference, "__exit__", _with_gradients))
        # The choice of cuDNN's kernels asks the driver.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(patch.object(Thread, "run", _run_within(Thread.run)))
        stack.enter_context(_Driverless())
        stack.enter_context(_Made())
        yield asked
