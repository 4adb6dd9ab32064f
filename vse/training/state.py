"""The state of a run as named tensors: weights, optimizer, averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from data.errors import UserError, one_line
from vse.training.distributed import share_like, whole
from vse.training.optim import WeightAverage


def collect_state(
    stage: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Tensor]:
    """`stage.NAME`, `optimizer.NAME.KEY` and `average.NAME`, on the CPU."""
    tensors = {f"stage.{name}": value for name, value in stage.state_dict().items()}
    for name, parameter in stage.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    if average is not None:
        kept = average.model.state_dict()
        tensors |= {f"average.{name}": value for name, value in kept.items()}
    return {name: whole(value.detach()).cpu() for name, value in tensors.items()}


def restore_state(
    tensors: Mapping[str, Tensor],
    stage: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Restore the result of `collect_state`, bit for bit.

    Raises:
        UserError: the tensors belong to another run or version.
    """
    with _explain_mismatch():
        now = stage.state_dict()
        tensors = _as_today(tensors)
        weights = _below(tensors, "stage.")
        shared = {k: share_like(v, now[k]) if k in now else v for k, v in weights.items()}
        stage.load_state_dict(shared)
        if average is not None:
            average.model.load_state_dict(_below(tensors, "average."))
    _restore_optimizer(_below(tensors, "optimizer."), stage, optimizer)


def restore_model(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Restore only the model's weights from the result of `collect_state`.

    Raises:
        UserError: the tensors belong to another run or version.
    """
    with _explain_mismatch():
        model.load_state_dict(_below(_as_today(tensors), "stage.model."))


@contextmanager
def _explain_mismatch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"the saved state does not match this run ({one_line(error)}): delete the run folder's "
            "state/ to start again"
        ) from error


def _restore_optimizer(
    tensors: Mapping[str, Tensor], stage: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        name, _, key = path.rpartition(".")
        by_name.setdefault(name, {})[key] = value
    names = {parameter: name for name, parameter in stage.named_parameters()}
    groups = optimizer.state_dict()["param_groups"]
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    unknown = sorted(by_name.keys() - set(order))
    if unknown:
        raise UserError(
            f"the saved optimizer state does not match this run ({unknown[0]}): it was written by "
            "another version of d2s; delete the run folder's state/ to start again"
        )
    owners = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {key: share_like(value, owners[index]) for key, value in by_name[name].items()}
        for index, name in enumerate(order)
        if name in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _as_today(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In older states the logit scale belongs to the loss, and is not averaged."""
    found = {k.replace(".alignment.contrast.", ".model.logits."): v for k, v in tensors.items()}
    if "average.image.fc.weight" in found:
        scale = {k: v for k, v in found.items() if k.startswith("stage.model.logits.")}
        found = {k.replace("stage.model.", "average."): v for k, v in scale.items()} | found
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
