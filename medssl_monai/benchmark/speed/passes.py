"""The floor of a step: the forward passes that a method makes, recorded and replayed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ENTRANCES = ("joint", "with_embedding")
"""Methods that make a pass through a network without a call of it, where a network has them."""


class Pass(NamedTuple):
    """One forward pass of a network: what ran on what, with or without gradient, in training mode or not.

    What the pass does inside itself, such as the gradient that a saliency is, belongs to it. `name` is the method that
    was called, of `ENTRANCES` or the module itself.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    grad: bool
    training: bool
    name: str = "__call__"


@contextlib.contextmanager
def outermost_calls(
    method: nn.Module, before: Callable[[nn.Module, tuple[Any, ...], str], None], after: Callable[[], None]
) -> Iterator[None]:
    """Call `before` and `after` around every call of a module with parameters that no other such call contains.

    A call of one of its `ENTRANCES` is one of the module; `before` gets module, inputs and the name of what was called.
    """
    depth = 0

    def enter(module: nn.Module, inputs: tuple[Any, ...], name: str = "__call__") -> None:
        nonlocal depth
        if depth == 0:
            before(module, inputs, name)
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            after()

    def entrance(name: str) -> Callable[..., Any]:
        def call(module: nn.Module, *inputs: Any) -> Any:
            enter(module, inputs, name)
            try:
                return getattr(type(module), name)(module, *inputs)
            finally:
                leave()

        return call

    with contextlib.ExitStack() as undo:
        for module in method.modules():
            if module is method or next(module.parameters(), None) is None:
                continue
            undo.callback(module.register_forward_pre_hook(enter).remove)
            undo.callback(module.register_forward_hook(leave, always_call=True).remove)
            for name in ENTRANCES:
                if hasattr(type(module), name):
                    vars(module)[name] = MethodType(entrance(name), module)  # bound, so that copies call themselves
                    undo.callback(vars(module).pop, name)
        yield


def copied(value: Any) -> Any:
    """Return a copy of a tensor that no graph holds; anything else as it is."""
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


@contextlib.contextmanager
def record_passes(method: nn.Module) -> Iterator[list[Pass]]:
    """Collect the forward passes that `method` makes, with copies of their inputs."""
    passes: list[Pass] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], name: str) -> None:
        passes.append(Pass(module, tuple(map(copied, inputs)), torch.is_grad_enabled(), module.training, name))

    with outermost_calls(method, record, lambda: None):
        yield passes


def replay(passes: list[Pass]) -> None:
    """Make the passes, and one backward pass through those with gradient; the gradients are thrown away."""
    outputs: list[Tensor] = []
    wanted: dict[int, Tensor] = {}
    for module, inputs, grad, training, name in passes:
        if module.training != training:
            module.train(training)
        with torch.set_grad_enabled(grad):
            result = getattr(module, name)(*inputs)
        if grad:
            outputs += [tensor for tensor in _tensors(result) if tensor.requires_grad]
            leaves = [*module.parameters(), *_tensors(inputs)]
            wanted |= {id(leaf): leaf for leaf in leaves if leaf.requires_grad}
    if outputs:
        gradients = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, list(wanted.values()), gradients, allow_unused=True)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in what a network returned."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else []
