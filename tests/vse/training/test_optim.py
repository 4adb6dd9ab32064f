"""Parameter groups and the schedule."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.vse.model.test_towers import make_model
from vse.objective.stages import SparseStage
from vse.recipes import LossConfig, OptimConfig
from vse.training.optim import clip_gradients, lr_factor, make_optimizer, set_lr


def factor(step: int, **settings: object) -> float:
    config = OptimConfig(**settings)  # type: ignore[arg-type]
    return lr_factor(step, config=config, steps_per_epoch=10, total=300)


def test_the_papers_steps() -> None:
    expected = {0: 1, 89: 1, 90: 0.3, 149: 0.3, 150: 0.09, 199: 0.09, 200: 0.027, 250: 0.0081}
    for step, value in expected.items():
        assert factor(step) == pytest.approx(value)


def test_cosine_with_warm_up() -> None:
    settings = {"schedule": "cosine", "warmup_steps": 99}
    assert factor(0, **settings) == pytest.approx(0.01)
    assert factor(49, **settings) == pytest.approx(0.5)
    assert factor(99, **settings) == pytest.approx(1.0)
    middle = 99 + (300 - 99) // 2
    assert factor(middle, **settings) == pytest.approx(0.5, abs=0.01)
    assert factor(300, **settings) == pytest.approx(0.0)


def test_constant() -> None:
    assert factor(0, schedule="constant") == factor(299, schedule="constant") == 1.0


def test_backbones_have_their_own_rate_and_every_parameter_one_group() -> None:
    stage = SparseStage(make_model(align="infonce"), LossConfig(align="infonce"))
    config = OptimConfig(lr=1.0, backbone_lr=0.1, scale_lr=0.02, betas=(0.8, 0.9))
    optimizer = make_optimizer(stage, config)
    assert optimizer.defaults["betas"] == (0.8, 0.9) and optimizer.defaults["eps"] == 1e-8
    assert set_lr(optimizer, 0.5) == 0.5
    rates: dict[int, list[float]] = {}
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 1e-4
        for parameter in group["params"]:
            rates.setdefault(id(parameter), []).append(group["lr"])
    for name, parameter in stage.named_parameters():
        expected = 0.05 if ".backbone." in name else 0.01 if ".logits." in name else 0.5
        assert rates.pop(id(parameter)) == [expected], name
    assert not rates
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize(("clip_scaled", "length"), [(False, 2.0), (True, 2.0 / 512)])
def test_as_released_the_loss_scale_is_in_what_is_clipped(clip_scaled: bool, length: float) -> None:
    """A step of SGD at rate 1 moves the weight by the gradient that is left after clipping."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    # fp16 as Accelerate sets it up on a GPU; torch's scaler works on a CPU as well.
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = accelerator.prepare_optimizer(torch.optim.SGD([weight], lr=1.0))
    gradient = torch.tensor([30.0, 40.0, 0.0])
    accelerator.scaler.scale((weight * gradient).sum()).backward()
    config = OptimConfig(clip=2.0, clip_scaled=clip_scaled)
    norm = clip_gradients(accelerator, [weight], config=config)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), -gradient / 50 * length)
    assert float(norm) == pytest.approx(50)
    AcceleratorState._reset_state(reset_partial_state=True)
