"""Recomputation: what a deep step computes a second time, so that it need not be kept from forward to backward.

Backward needs the input x of every linear layer, for dW = δᵀ x.  Between the two it can be given up and made again

  * from what its own layer keeps anyway: x = relu(batch_norm(z)), where the backward of batch_norm keeps z; of a
    transformer, whose positions go through a layer one by one, x = layer_norm(z) or gelu(z);
  * from the input of the layer below: x = x' + relu(batch_norm(z)), the sum of a residual block;
  * by another matrix product: x = relu(x' Wᵀ + b), the layer of a plain network.

The same operations on the same numbers give the same bits, so nothing else changes (T. Chen et al. 2016, Training deep
nets with sublinear memory cost).  How much of each pays is said beside the numbers below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import getitem
from typing import Any

import torch

from manual_bp.compilation import taps  # noqa: F401  (makes the operation)
from manual_bp.compilation.numbers import stored
from manual_bp.compilation.products import onednn_product
from manual_bp.compilation.stand_ins import VIEWS
from manual_bp.compilation.updates import add_product

aten, compared = torch.ops.aten, torch.ops.manual_bp.compared.default
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments

# Inputs of layers from which on a step is deep.  Below, one or two of them are all that could be given up.
DEEP = 8
# One sum of a residual network in so many is kept, and the others are added up again from there, so many at a time:
# 20 blocks of 256 hold 5 sums, and at most 3 that were made again.
SUMS = 4
# Which of so many layers in succession, from the last one down, are multiplied again.  The last is needed at once.
# Each costs one product: 2 more for 15, as a layer has 3.  20 x 128: 0.81 of the memory and 1.07 to 1.09 of the time;
# for 0.8 of autograd's memory fewer than two of five are too few.  On a GPU x and target are copied to where the step's
# graph reads them, which takes as much as the inputs of two layers, so that two more must be given up: the neighbours 5
# and 6 are made when most of what was kept is free again.
MULTIPLIED = {"cpu": (5, (1, 3)), "cuda": (7, (1, 3, 5, 6))}


def recompute(graph: torch.fx.Graph) -> None:
    """Rewrites the graph of a deep step, whose last result is the loss, so that backward makes some of what forward
    made again."""
    forward = _ancestors_of_loss(graph)
    _images_again(graph, forward)
    _positions_again(graph, forward)
    gradients = {node: delta for node in graph.nodes if (delta := _gradient_with(node, forward)) is not None}
    inputs = list(gradients)
    if len(inputs) < DEEP:
        return
    _ask_again(graph, forward)
    given_up = _given_up(inputs, forward)
    made: dict[Node, Node] = {}
    for x in reversed(inputs):
        if x not in given_up:
            continue
        late = [user for user in x.users if user not in forward]
        if x not in made:
            delta = gradients[x]
            passed_on = [user for user in delta.users if is_product(user)]
            _Copier(graph, forward, given_up, delta, made).copy(x)
            # What δ passes on to the layer below comes after x, so that x is made in place, and not beside it.
            for product in passed_on:
                _follow(graph, product, made[x])
        for user in late:
            user.replace_input_with(x, made[x])


def _images_again(graph: torch.fx.Graph, forward: Collection[Node]) -> None:
    """Makes the input x of a convolution again for the cotangent of its weight, where that takes no product: it is ReLU
    of what batch norm makes of its own input, which it keeps, or of the sum of that and x' of the block before.

    Backward asks x > 0 too, and where branches meet what passes there is read by each of them: stored, it takes the
    place of what it is made of.  A resnet of 16 and 32 filters for images of 8 x 8 held 5.4 MiB, and 4.2 so, in 0.94 of
    the time (cnn: 0.98 and 1.02, which is noise).
    """
    convolved = {node.args[0] for node in graph.nodes if node in forward and node.target is aten.convolution.default}
    gradients = [node for node in graph.nodes if node.target is compared and node.args[0] in convolved]
    made: dict[Node, Node] = {}
    for gradient in gradients:
        x, delta = gradient.args[:2]
        conditions = [user for user in x.users if user not in forward and user not in gradients]
        if not _is_elementwise(x) or any(user.target is not aten.gt.Scalar for user in conditions):
            continue
        if x not in made:
            for condition in conditions:
                condition.replace_input_with(x, _Copier(graph, forward, (), condition.prev, {}).copy(x))
                for passed in list(condition.users):
                    if any(node.target is aten.add.Tensor for node in (*passed.users, *passed.all_input_nodes)):
                        _store(graph, passed)
            _Copier(graph, forward, {x}, delta, made).copy(x)
        gradient.replace_input_with(x, made[x])


def _positions_again(graph: torch.fx.Graph, forward: Collection[Node]) -> None:
    """Makes the input x of a layer that every position of a text goes through again for δᵀ x, where that takes no
    product, and backward asks nothing else of x: a norm of what it keeps anyway, or GELU of what it keeps.

    A block of 384 (context 256, batch 4) keeps 9 MiB less so, two norms and a GELU.
    """
    late: dict[Node, list[tuple[Node, Node]]] = {}  # by x the views of it that are multiplied, each with its δ
    for product in graph.nodes:
        if product in forward or not is_product(product):
            continue
        left, right = _factors(product)
        for view, delta in ((left, right), (right, left)):
            x = _viewed(view)
            if x in forward and x.op != "placeholder" and x.meta["val"].ndim > 2:
                late.setdefault(x, []).append((view, _viewed(delta)))
    for x, factors in late.items():
        views = {view for view, _ in factors}
        copier = _Copier(graph, forward, {x}, min(delta for _, delta in factors), {})
        is_cheap = all(_is_elementwise(node) or _is_view(node) for node in copier.wanted(x))
        if is_cheap and views == {user for user in x.users if user not in forward}:
            made = copier.copy(x)
            for view in views:
                view.replace_input_with(x, made)


def _viewed(node: Node) -> Node:
    """What a node is another shape or order of the axes of, or the node itself."""
    while node.target in (*VIEWS, aten.permute.default):
        node = node.args[0]
    return node


def _is_elementwise(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _store(graph: torch.fx.Graph, node: Node) -> None:
    with graph.inserting_after(node):
        new = graph.call_function(stored, (node,))
    new.meta.update(node.meta)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def is_product(node: Node) -> bool:
    """Whether a node multiplies matrices, in any of the forms that a step's products are rewritten to."""
    return node.target in (aten.mm.default, aten.mm.dtype, aten.addmm.default, onednn_product, add_product)


def _factors(product: Node) -> tuple[Node, Node]:
    """The two matrices multiplied, transposed or not."""
    if product.target is add_product:
        _, left, right, *_ = product.args
    else:
        left, right = product.args[-2:]
    return _base(left), _base(right)


def _base(node: Node) -> Node:
    """What a node is the transposed of, or the node itself."""
    while node.target is aten.permute.default:
        node = node.args[0]
    return node


def _ancestors_of_loss(graph: torch.fx.Graph) -> set[Node]:
    """All that the loss, the last result, depends on: the forward pass."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    found: set[Node] = set()
    waiting = output.all_input_nodes[-1:]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _gradient_with(x: Node, forward: Collection[Node]) -> Node | None:
    """The δ of a product δᵀ x in backward, if x is computed in forward and there is one."""
    if x not in forward or x.op == "placeholder" or not any(user in forward and is_product(user) for user in x.users):
        return None
    late = [user for user in x.users if user not in forward]
    late += [user for view in late if view.target is aten.permute.default for user in view.users]
    for user in late:
        if is_product(user) and x in _factors(user):
            left, right = _factors(user)
            return left if right is x else right
    return None


def _ask_again(graph: torch.fx.Graph, forward: Collection[Node]) -> None:
    """Makes a > 0 anew where backward asks nothing else of a, and a can be made without a product."""
    for condition in list(graph.nodes):
        if condition in forward or condition.target is not aten.gt.Scalar:
            continue
        (a,) = condition.all_input_nodes
        if a not in forward or any(user not in forward and user is not condition for user in a.users):
            continue
        if not _needs(a, is_product, forward):
            copier = _Copier(graph, forward, (), condition.prev, {})
            condition.replace_input_with(a, copier.copy(a))


def _given_up(inputs: list[Node], forward: Collection[Node]) -> set[Node]:
    """Those inputs of layers that are not kept."""
    multiplied = [x for x in reversed(inputs) if _needs(x, is_product, forward)]
    sums = [x for x in reversed(inputs) if x not in multiplied and _needs(x, inputs.__contains__, forward)]
    alone = set(inputs).difference(multiplied, sums)
    some_sums = {x for i, x in enumerate(sums) if i % SUMS}
    layers, which = MULTIPLIED["cuda" if inputs[0].meta["val"].is_cuda else "cpu"]
    return alone | some_sums | {x for i, x in enumerate(multiplied) if i % layers in which}


def _needs(x: Node, wanted: Callable[[Node], bool], forward: Collection[Node]) -> bool:
    """Whether x, made again from what is kept, needs such a node."""
    waiting, seen = list(x.all_input_nodes), {x}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if wanted(node):
            return True
        if not _is_kept(node, x, forward):
            waiting += node.all_input_nodes
    return False


def _is_kept(node: Node, x: Node, forward: Collection[Node]) -> bool:
    """Whether a node need not be made again for x: it is kept for others, or small."""
    if node.op == "placeholder" or any(user not in forward for user in node.users):
        return True
    return not _is_view(node) and node.meta["val"].numel() < x.meta["val"].numel()


def _is_view(node: Node) -> bool:
    """Whether a node has no memory of its own, but that of what it is a part of.  What this package puts into a graph,
    such as a product by oneDNN, is no operation of torch's, and has."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is getitem
    return any(returned.alias_info for returned in node.target._schema.returns)


class _Copier:
    """Makes nodes of the forward pass again, once `after` is known.

    given_up: those that are not kept.  made: where their copies are found and entered.
    """

    def __init__(
        self,
        graph: torch.fx.Graph,
        forward: Collection[Node],
        given_up: Collection[Node],
        after: Node,
        made: dict[Node, Node],
    ) -> None:
        self._graph, self._forward, self._given_up, self._after, self._made = graph, forward, given_up, after, made
        self._between: dict[Node, Node] = {}
        self._last = after

    def copy(self, x: Node) -> Node:
        """x again, from what is kept."""
        for node in self.wanted(x):
            copies = self._made if node in self._given_up else self._between
            new = self._add(node.target, *torch.fx.map_arg((node.args, node.kwargs), self._copied), node)
            is_late = node in self._given_up or is_product(node)
            copies[node] = self._add(again, (new, self._after), {}, node) if is_late else new
        return self._copied(x)

    def wanted(self, x: Node) -> list[Node]:
        """The nodes to be copied for x, in their order."""
        found, waiting = set(), [x]
        while waiting:
            node = waiting.pop()
            kept = node is not x and node not in self._given_up and _is_kept(node, x, self._forward)
            if not kept and node not in self._made and node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return [node for node in self._graph.nodes if node in found]

    def _copied(self, node: Node) -> Node:
        return self._made.get(node) or self._between.get(node) or node

    def _add(self, target: Any, args: Any, kwargs: Any, like: Node) -> Node:
        with self._graph.inserting_after(self._last):
            self._last = self._graph.call_function(target, args, kwargs)
        self._last.meta.update(like.meta)
        return self._last


def _follow(graph: torch.fx.Graph, product: Node, before: Node) -> None:
    """Has a product computed after another node."""
    place = max(product, before)  # by their order in the graph
    with graph.inserting_after(place):
        new = graph.call_function(again, (product, before))
    new.meta.update(product.meta)
    product.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def again(x: Any, after: Any) -> Any:
    """x, stored, but not before `after` is: as inductor's nodes.  Else inductor would fuse it with the first x."""
    from torch._inductor.virtualized import V

    x.realize()
    after.realize()
    buffer: Any = V.graph.get_buffer(x.get_name())  # of which x may be a view
    V.graph.additional_buffer_deps[buffer.get_defining_op().get_operation_name()].add(after.get_name())
    return x


again._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
