"""Finds every tensor and storage of the accelerator in this process, and who refers to each tensor.

One pass over the garbage collector's heap gives the tensors and storages that Python knows; from them the walk goes to
what only C++ holds: `.grad`, bases of views, the parts of sparse tensors, and the autograd graph with its saved
variables. No user code runs: every attribute is read through the descriptors of torch's own base class, so neither
a subclass's properties nor its `__torch_function__` are asked, and saved variables are read raw, never unpacked
(unpacking runs the user's hook: with `torch.utils.checkpoint` the user's forward would run again).

Tensors are visited in waves, each attribute read for a whole wave at once: with `map` over torch's own descriptors
a tensor costs about 1 µs, in a function of its own four times as much.

Tried and rejected: `isinstance` over the heap (it touches `__class__` of lazy proxies, which is user code);
`gc.get_objects` (twice the time of `gc.get_referrers`); `_saved_*` (runs hooks, raises on variables modified since).
"""

import gc
import sys
from collections import Counter
from contextlib import ExitStack
from itertools import chain, compress

import torch

from . import torchscript

_TensorBase = torch.Tensor.__base__
_is_leaf = _TensorBase.is_leaf.__get__
_retains_grad = _TensorBase.retains_grad.__get__
_grad = _TensorBase.grad.__get__
_grad_fn = _TensorBase.grad_fn.__get__
_base = _TensorBase._base.__get__
_layout = _TensorBase.layout.__get__
_dtype = _TensorBase.dtype.__get__
_is_conj = _TensorBase.is_conj
_is_neg = _TensorBase.is_neg
_untyped_storage = _TensorBase.untyped_storage
_device = torch.UntypedStorage.device.__get__
_cdata = torch.UntypedStorage._cdata.__get__
_PythonNode = torch._C._FunctionBase
_AccumulateGrad = torch._C._functions.AccumulateGrad
_SavedTensor = torch._C._autograd.SavedTensor

# Sparse layouts, and the methods that give the dense tensors inside.
_COMPRESSED_ROWS = (_TensorBase.crow_indices, _TensorBase.col_indices, _TensorBase.values)
_COMPRESSED_COLUMNS = (_TensorBase.ccol_indices, _TensorBase.row_indices, _TensorBase.values)
_SPARSE_PARTS = {
    torch.sparse_coo: (_TensorBase._indices, _TensorBase._values),
    torch.sparse_csr: _COMPRESSED_ROWS,
    torch.sparse_bsr: _COMPRESSED_ROWS,
    torch.sparse_csc: _COMPRESSED_COLUMNS,
    torch.sparse_bsc: _COMPRESSED_COLUMNS,
}


def no_user_code():
    """A context in which torch calls no `__torch_function__` and no `__torch_dispatch__` in this thread, nor modes'."""
    stack = ExitStack()
    stack.enter_context(torch._C.DisableTorchFunction())
    if hasattr(torch._C, "_DisableTorchDispatch"):
        stack.enter_context(torch._C._DisableTorchDispatch())
    return stack


class Found:
    """What a walk saw. Holds strong references to all of it: let go of it before anything is freed.

    storages   {address of the StorageImpl: UntypedStorage} of the accelerator, each once
    tensors    [tensor, …], every tensor that looks at one of the storages
    looks_at   [address of the StorageImpl, …], one for each of `tensors`
    holders    {id(tensor): n}: references to the tensor from C++ that the walk can name
    hidden     {address of the StorageImpl: n}: nameless tensors known to be there (inside sparse tensors)
    watched    instances of the watched types
    """

    def __init__(self):
        self.storages = {}
        self.tensors = []
        self.looks_at = []
        self.holders = Counter()
        self.hidden = Counter()
        self.watched = []


def find(device_type, watch=(), thorough=True):
    """Looks through the whole process. Call inside `no_user_code()`, with no user code running.

    Not `thorough`, it takes half the time: it passes over types of tensors that seem to have no instances and over
    TorchScript. What that misses makes the counts of references uneven, so it is never moved, only wrongly left.
    """
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    frame_type = getattr(checkpoint, "_CheckpointFrame", None)
    scripted = (torchscript.module_type(),) if thorough else ()
    watch = watch + scripted + ((frame_type,) if frame_type else ())
    tensors, storages, watched = _on_the_heap(watch, thorough)
    if thorough:
        tensors.extend(torchscript.tensors_of(watched))
    found = walk(tensors, device_type, [o for o in watched if type(o) is frame_type])
    for storage in storages:
        if _device(storage).type == device_type:
            found.storages.setdefault(_cdata(storage), storage)
    found.watched = watched
    return found


def walk(tensors, device_type, checkpoint_frames=()):
    """What can be reached from these tensors, as `Found`; `find` is this, from every tensor on the heap."""
    return _Walk(device_type).run(tensors, checkpoint_frames)


_references_of_types = {}  # type of tensors or storages → references to it that were no instances, at the last look


def _on_the_heap(watch, thorough):
    """(tensors, storages, instances of the watched types). The time grows with the number of types looked for: each of
    the heap's references is compared with all of them, and torch has twenty types of tensors, of which few are used."""
    tensor_types, storage_types = _subclasses(torch.Tensor), _subclasses(torch.UntypedStorage)
    watch_types = set().union(*(_subclasses(t) for t in watch)) if watch else set()
    references = {kind: sys.getrefcount(kind) for kind in (*tensor_types, *storage_types)}
    wanted = [kind for kind, n in references.items() if thorough or _references_of_types.get(kind) != n]
    tensors, storages, watched = [], [], []
    for candidate in gc.get_referrers(*wanted, *watch_types):
        kind = type(candidate)
        if kind in tensor_types:
            tensors.append(candidate)
        elif kind in storage_types:
            storages.append(candidate)
        elif kind in watch_types:
            watched.append(candidate)
    instances = Counter(map(type, chain(tensors, storages)))
    _references_of_types.update((kind, references[kind] - instances[kind]) for kind in wanted)
    return tensors, storages, watched


def _subclasses(root):
    seen, todo = set(), [root]
    while todo:
        kind = todo.pop()
        if kind not in seen:
            seen.add(kind)
            todo.extend(type.__subclasses__(kind))
    return seen


def _reads_otherwise(view, base):
    """Whether a view takes its base's numbers for others: complex ones as real, conjugated. Such a view is made by a
    function that can be replayed, and holds its base more than once; a chain of them holds it more often still."""
    dtypes = _dtype(view), _dtype(base)
    if not (dtypes[0].is_complex or dtypes[1].is_complex):
        return False
    return dtypes[0] != dtypes[1] or _is_conj(view) != _is_conj(base) or _is_neg(view) != _is_neg(base)


def _references_of_such_a_view():
    with no_user_code(), torch.inference_mode(False):
        base = torch.zeros(1, dtype=torch.complex64, device="cpu")
        view = torch.view_as_real(base)
        return base._use_count() - 1 if view is not None else 0


_HELD_BY_SUCH_A_VIEW = _references_of_such_a_view()


def _storages_of(tensors):
    """[UntypedStorage, or None for a tensor that owns none: sparse, or a wrapper around others]"""
    try:
        return list(map(_untyped_storage, tensors))
    except (NotImplementedError, RuntimeError):
        return list(map(_storage_of, tensors))


def _storage_of(tensor):
    try:
        return _untyped_storage(tensor)
    except (NotImplementedError, RuntimeError):
        return None


class _Memory(dict):
    """{device: whether it is of this type}, filled as devices are asked for: looking up beats reading `.type`."""

    def __init__(self, device_type):
        super().__init__()
        self._device_type = device_type

    def __missing__(self, device):
        self[device] = device.type == self._device_type
        return self[device]


class _Walk:
    def __init__(self, device_type):
        self._is_ours = _Memory(device_type)
        self._found = Found()
        self._seen_tensors = {}  # id → tensor; the value keeps the id its own
        self._seen_nodes = set()
        self._tensors, self._nodes = [], []  # still to visit
        self._saved_names = {}  # type of a node → names of its raw saved variables

    def run(self, tensors, checkpoint_frames):
        self._tensors.extend(tensors)
        for frame in checkpoint_frames:  # keeps its inputs as saved variables that belong to no node
            self._note_saved(vars(frame).get("saved_args", ()))
        while self._tensors or self._nodes:
            if self._tensors:
                self._visit_tensors(self._next_wave())
            else:
                self._visit_node(self._nodes.pop())
        return self._found

    def _next_wave(self):
        """The tensors still to visit, each once."""
        wave = dict(zip(map(id, self._tensors), self._tensors))
        self._tensors = []
        for known in wave.keys() & self._seen_tensors.keys():
            del wave[known]
        self._seen_tensors.update(wave)
        return list(wave.values())

    def _held(self, tensors):
        """Each of these has one more C++ reference with a name; None is nothing."""
        held = [tensor for tensor in tensors if tensor is not None]
        self._found.holders.update(map(id, held))
        self._tensors.extend(held)

    def _visit_tensors(self, wave):
        self._note_storages(wave)
        bases = list(map(_base, wave))
        self._held(bases)
        for view, base in zip(wave, bases):
            if base is not None and _reads_otherwise(view, base):
                self._found.holders[id(base)] += _HELD_BY_SUCH_A_VIEW - 1
        leaf = list(map(_is_leaf, wave))
        made = [tensor for tensor, is_leaf in zip(wave, leaf) if not is_leaf]  # by a node of the graph
        self._nodes.extend(map(_grad_fn, made))
        self._held(map(_grad, compress(wave, leaf)))
        self._held(
            map(_grad, compress(made, map(_retains_grad, made)))
        )  # of the others it is None, and warns

    def _note_storages(self, wave):
        storages = _storages_of(wave)
        if None in storages:
            without = [storage is None for storage in storages]
            for tensor in compress(wave, without):
                self._note_parts(tensor)
            wave = [tensor for tensor, is_without in zip(wave, without) if not is_without]
            storages = [storage for storage in storages if storage is not None]
        here = list(map(self._is_ours.__getitem__, map(_device, storages)))
        storages = list(compress(storages, here))
        addresses = list(map(_cdata, storages))
        self._found.storages.update(zip(addresses, storages))
        self._found.looks_at.extend(addresses)
        self._found.tensors.extend(compress(wave, here))

    def _note_parts(self, tensor):
        for part_of in _SPARSE_PARTS.get(_layout(tensor), ()):
            part = part_of(tensor)  # a fresh alias of a tensor that only C++ has
            self._found.hidden[_cdata(_untyped_storage(part))] += 1
            self._tensors.append(part)

    def _visit_node(self, node):
        if node is None or node in self._seen_nodes:
            return
        self._seen_nodes.add(node)
        kind = type(node)
        if _PythonNode in kind.__mro__:  # a custom Function: its class is the user's, so ask the base class
            self._nodes.extend(n for n, _ in _PythonNode.next_functions.__get__(node))
            self._visit_saved(node, _PythonNode._raw_saved_tensors.__get__)
            return
        self._nodes.extend(n for n, _ in node.next_functions)
        if kind is _AccumulateGrad:
            self._held([node.variable])
        for name in self._saved_names_of(kind):
            self._visit_saved(node, lambda n, name=name: getattr(n, name))

    def _saved_names_of(self, kind):
        if kind not in self._saved_names:
            self._saved_names[kind] = [name for name in dir(kind) if name.startswith("_raw_saved_")]
        return self._saved_names[kind]

    def _visit_saved(self, node, read):
        try:
            saved = read(node)
        except RuntimeError:  # freed by a backward
            return
        self._note_saved(saved if type(saved) in (list, tuple) else (saved,))

    def _note_saved(self, variables):
        # What a pack hook returned is a Python object: the heap has it, and it is no C++ reference to a tensor.
        self._held(v.data for v in variables if type(v) is _SavedTensor and v.unpack_hook is None)
