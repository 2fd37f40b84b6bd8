"""A CUDA device that is not there: tensors that say they are on it are kept in memory, and may not
meet others.

What a real one refuses is refused here too: operations on tensors of both devices (but for numbers,
and indices into one there), `.numpy()` of one that is there. What is slow, unordered or different
there is not found, nor is a generator of random numbers that belongs to the other device. Kernels
of Triton are refused.
The meta device is not to be had meanwhile: torch takes such tensors for its.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from trainer import checks
from trainer.gradients import per_record

DEVICE, NAME = torch.device("cuda", 0), "NVIDIA H100 80GB HBM3"
MOVES = ("_to_copy", "copy_")
INDEXED = ("index", "index_put_")  # on the device by tensors on either
JOINED = ("cat", "stack")


class There(Tensor):
    """A tensor on the device; `kept` is what it holds."""

    @staticmethod
    def __new__(cls, kept):
        where = {
            "strides": kept.stride(),
            "storage_offset": kept.storage_offset(),
            "device": "meta",
        }
        made = Tensor._make_wrapper_subclass(cls, kept.size(), dtype=kept.dtype, **where)
        made.kept = kept
        return made

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def __repr__(self):
        return f"There({self.kept})"

    def tolist(self):
        return self.kept.tolist()

    def numpy(self):
        raise TypeError("can't convert a CUDA tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return carried_out(operation, args, kwargs or {})


def carried_out(operation, args, kwargs):
    """The operation on what tensors hold; its results are where its arguments or its `device` are."""
    name = operation.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [one for one in tensors if isinstance(one, There)]
    asked, into = kwargs.get("device"), bool(tensors) and isinstance(tensors[0], There)
    meeting = tree_leaves((args[0], args[2:])) if name in INDEXED and into else tensors
    here = [one for one in meeting if isinstance(one, Tensor) and not isinstance(one, There)]
    alike = name in JOINED or (
        name.endswith("_") and not into
    )  # here numbers do not go with tensors there
    if there and name not in MOVES and any(one.dim() or alike for one in here):
        raise RuntimeError(f"{operation}: tensors on cuda and on cpu")
    on = asked is not None and torch.device(asked).type in (
        "cuda",
        "meta",
    )  # which torch takes it for
    args, kwargs = tree_map(
        lambda leaf: leaf.kept if isinstance(leaf, There) else leaf, (args, kwargs)
    )
    made = operation(*args, **(kwargs | {"device": "cpu"} if on else kwargs))
    stays = not on if asked is not None else not (into if name == "copy_" else there)
    same = {id(one.kept): one for one in there}  # of operations in place

    def back(one):
        return same[id(one)] if id(one) in same else There(one) if isinstance(one, Tensor) else one

    return made if stays else tree_map(back, made)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return carried_out(operation, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """torch without CUDA cannot look up which device "cuda" is, nor where a tensor is that another
    is sent to."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def numbered(one):
            return (
                DEVICE
                if one == "cuda" or (isinstance(one, torch.device) and one.type == "cuda")
                else one
            )

        if function is Tensor.to and isinstance(args[1], Tensor):
            args = (args[0], args[1].device, args[1].dtype)
        whole = (isinstance(one, str | torch.device) for one in args)
        args = tuple(
            numbered(one) if is_device else one for one, is_device in zip(args, whole, strict=True)
        )
        kwargs = {
            key: numbered(one) if key == "device" else one for key, one in (kwargs or {}).items()
        }
        return function(*args, **kwargs)


@contextmanager
def device() -> Iterator[None]:
    """Within it "cuda" is a device. Gradients are not compared with vmap's: such tensors take
    another way through it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in {
            "_lazy_init": None,
            "is_available": True,
            "synchronize": None,
            "get_device_name": NAME,
            "memory_allocated": 0,
            "max_memory_allocated": 1,
            "reset_peak_memory_stats": None,
        }.items():
            patch.setattr(torch.cuda, name, lambda *given, answer=answer: answer)
        for module in ("clip_triton", "convolution_triton"):
            patch.setitem(sys.modules, f"trainer.gradients.{module}", None)
        patch.setattr(
            checks,
            "per_record",
            lambda model, loss, example, precision="float32": per_record.best(
                model, loss, precision
            ),
        )
        overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(
            True
        )  # such tensors cannot be changed into others
        try:
            with _Calls(), _Operations():
                yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
