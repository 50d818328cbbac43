"""Record the graph of a plain network from a forward pass: what `trace` finds by export, in a tenth of the time.

Only ops of a short list are taken, none of which reads a tensor's values into Python, so the record holds for every
input. Anything else, and any tensor that comes from nowhere, makes `record` give up, and the model is exported.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.state import first_names, own_tensors
from secateur.structure.outputs import Holdings, Stored, opaque_type
from secateur.trees import TreeDef, tensors_within

__all__ = ["GaveUp", "Recording", "record"]

# Ops that keep to their operands' shapes and values, and make nothing up.
PLAIN = {
    *("convolution", "addmm", "mm", "t", "native_batch_norm", "_native_batch_norm_legit_no_training", "empty"),
    *("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "gelu", "elu", "leaky_relu", "mish"),
    *("softplus", "prelu", "add", "sub", "mul", "div", "cat", "mean", "clone", "detach", "alias"),
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "constant_pad_nd"),
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d"),
    "pixel_shuffle",
}


READS = {
    *("numpy", "tolist", "item", "data_ptr", "untyped_storage", "storage", "__array__", "__dlpack__", "__bool__"),
    *("__float__", "__int__", "__index__", "__complex__", "__iter__", "__contains__", "__len__"),
}


OURS = str(Path(__file__).parent)


class GaveUp(Exception):
    """The model is not plain enough to be recorded."""


class Recording:
    """A recorded graph.

    Attributes:
        graph: the nodes; the last returns the tensors in what the model returned.
        tensors: the placeholders of the model's tensors, with their names.
        inputs: the placeholders of the model's inputs.
        stored: the nodes that the forward pass stored on the model, with where it did.
        ran: the ids of the modules whose forward pass ran.
        opaque: the type of the outputs, where it is no container to torch.
        tree: what holds the tensors that it returns; None where it returns one alone.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.tensors: dict[Node, str] = {}
        self.inputs: list[Node] = []
        self.stored: dict[Node, Stored] = {}
        self.ran: set[int] = set()
        self.opaque = ""
        self.tree: TreeDef | None = None


def record(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """Run `model`, in eval mode and without gradients as it is given here, and return the graph of what it did.

    Raises:
        GaveUp: the model does more than plain ops on its own tensors.
    """
    recording = Recording()
    recorder = _Recorder(recording)
    first = first_names(model)
    for name, tensor in own_tensors(model).items():
        if first[id(tensor)] == name:
            recorder.hold(tensor, name)
    for number, leaf in enumerate(pytree.tree_leaves((args, dict(kwargs)))):
        if isinstance(leaf, Tensor):
            recording.inputs.append(recorder.placeholder(leaf, f"input_{number}"))
    holdings = Holdings(model, (args, kwargs), buffers=True)
    with _module_paths(model, recording.ran) as recorder.stack, recorder, _NoReading():
        outputs = model(*args, **kwargs)
    recording.stored = {recorder.node_of(tensor): stored for stored, tensor in holdings.stored()}
    leaves = [recorder.node_of(leaf) for leaf in tensors_within(outputs)]
    if not leaves:
        raise GaveUp("no output")
    recording.graph.output(tuple(leaves))
    recording.opaque = opaque_type(outputs)
    recording.tree = None if isinstance(outputs, Tensor) else TreeDef.of(outputs)
    return recording


class _NoReading(TorchFunctionMode):
    """Gives up where numbers leave the tensors, as what is done with them afterwards cannot be seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            raise GaveUp(func.__name__)
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a node for every op; knows a tensor by its storage, strides and offset, as views of one are others."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording
        self.stack: list[tuple[str, str]] = []
        self.nodes: dict[int, Node] = {}
        self.alive: list[Tensor] = []  # a tensor's id is its own only while it lives
        self.shells: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def hold(self, tensor: Tensor, name: str) -> None:
        self.recording.tensors[self.placeholder(tensor, name.replace(".", "_"))] = name

    def placeholder(self, tensor: Tensor, name: str) -> Node:
        node = self.recording.graph.placeholder(name)
        self._know(tensor, node)
        node.meta["val"] = self._shell(tensor)
        return node

    def _know(self, tensor: Tensor, node: Node) -> None:
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)

    def node_of(self, tensor: Tensor) -> Node:
        """Return the node that made a tensor."""
        if id(tensor) not in self.nodes:
            raise GaveUp("a tensor from nowhere")
        return self.nodes[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name not in PLAIN and func._schema.name.removeprefix("aten::") not in PLAIN:
            raise GaveUp(f"aten.{name}")
        out = func(*args, **(kwargs or {}))
        node_arguments = (
            tuple(self._as_nodes(a) for a in args),
            {k: self._as_nodes(v) for k, v in (kwargs or {}).items()},
        )
        if name == "mm" and not any(map(self._is_weight, node_arguments[0])):
            raise GaveUp("a product of two activations, whose size may set a temperature")
        node = self.recording.graph.create_node("call_function", func, *node_arguments)
        node.meta["nn_module_stack"] = {path: (path, kind) for path, kind in self.stack}
        node.meta["stack_trace"] = _line()
        node.meta["val"] = self._shell(out) if isinstance(out, Tensor) else tuple(map(self._shell, out))
        self._know_all(out, node)
        return out

    def _is_weight(self, node: Node) -> bool:
        while node not in self.recording.tensors and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        return node in self.recording.tensors

    def _as_nodes(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self.node_of(argument)
        return [self._as_nodes(a) for a in argument] if isinstance(argument, (list, tuple)) else argument

    def _know_all(self, out: Any, node: Node) -> None:
        if isinstance(out, Tensor):
            self._know(out, node)
            return
        for number, part in enumerate(out):
            if isinstance(part, Tensor):
                item = self.recording.graph.create_node("call_function", operator.getitem, (node, number))
                item.meta["val"] = self._shell(part)
                self._know(part, item)

    def _shell(self, tensor: Tensor) -> Tensor:
        """The shape and type of a tensor, without its numbers; all of one shape and type share it, as making one takes long."""
        form = (tensor.shape, tensor.dtype)
        if form not in self.shells:
            self.shells[form] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return self.shells[form]


def _line() -> str:
    """The innermost line of code that is neither torch's nor ours, as a stack trace has it."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and not file.startswith(OURS):
            return f'File "{file}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        frame = frame.f_back
    return ""


@contextmanager
def _module_paths(model: nn.Module, ran: set[int]) -> Iterator[list[tuple[str, str]]]:
    """Keep the path of the module that is running, for messages and for mending, and the ids of all that ran."""
    names = {module: path for path, module in model.named_modules()}
    stack: list[tuple[str, str]] = []

    def enter(module: nn.Module, _args: Any) -> None:
        if module in names:
            ran.add(id(module))
            stack.append((names[module], type(module).__qualname__))

    def leave(module: nn.Module, _args: Any, _out: Any) -> None:
        if module in names:
            stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
