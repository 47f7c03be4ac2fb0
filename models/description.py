"""A network as text, for ``model.txt``."""

from collections.abc import Iterable

from torch import Tensor

from models.lmanet import LMANet
from models.weights.export import exported_kind, published_state_dict


def describe(model: LMANet) -> str:
    """The network as text, with its number of parameters by part, in all, and in its published file.

    Counted are parameters, trained parameters, and all tensors (with the running statistics and counters of the batch
    norms); unused tensors of a weight file are not in the network, but in its file.
    """
    rows: list[tuple[str, ...]] = [("part", "parameters", "trained", "all tensors")]
    for name, part in [*model.named_children(), ("in all", model)]:
        parameters = list(part.parameters())
        trained = numel(p for p in parameters if p.requires_grad)
        rows.append((name, *(f"{n:,}" for n in (numel(parameters), trained, numel(part.state_dict().values())))))
    table = "\n".join(f"{row[0]:<16}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows)
    published = published_state_dict(model)
    file = f"its file ({exported_kind(model).label}): {len(published)} tensors, {numel(published.values()):,} numbers"
    return f"{model}\n\n{table}\n\n{file}\n"


def numel(tensors: Iterable[Tensor]) -> int:
    """Total number of elements."""
    return sum(tensor.numel() for tensor in tensors)
