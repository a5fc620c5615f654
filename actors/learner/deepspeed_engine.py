"""DeepSpeed around the policy: configuration, parameter groups, whole tensors in and out at any ZeRO stage.

Weights and Adam moments are read and written as whole float32 tensors by name, so a checkpoint does not depend on
the ZeRO stage or the number of ranks that wrote it.
"""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import OptimiserConfig
from rex_rl.errors import ConfigError, NonFiniteError
from rex_rl.policy.lora import base_weights
from rex_rl.policy.model import ForwardInputs, answer_stats

PARTS = ("vision", "projector", "language")
"""Parts with a learning rate of their own: the vision tower, its merger, everything else."""

_PROJECTOR_PREFIX, _VISION_PREFIX = "model.visual.merger.", "model.visual."
_ADAM_STATES = ("exp_avg", "exp_avg_sq")
_PARTITIONS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
"""Where DeepSpeed's wrappers (ZeRO 1 and 2, ZeRO 3, bfloat16) keep the tensors that Adam updates."""
_IS_LINKED = "_hp_optimizer_states_linked"
_NUM_UPDATES = "num_updates"
"""Key of Adam's own count of steps, which is less than the run's where steps were skipped."""


def part_of(name: str) -> str:
    """Which of :data:`PARTS` a parameter belongs to.

    >>> part_of("model.visual.merger.mlp.0.weight"), part_of("model.visual.blocks.0.norm1.weight")
    ('projector', 'vision')
    >>> part_of("model.language_model.norm.weight")
    'language'
    """
    if name.startswith(_PROJECTOR_PREFIX):
        return "projector"
    return "vision" if name.startswith(_VISION_PREFIX) else "language"


def set_learner_environment(*, rank: int, world_size: int, on_gpu: bool, threads: int) -> None:
    """Set what DeepSpeed reads from the environment when it is imported."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["OMP_NUM_THREADS"] = str(threads)


def deepspeed_config(learner: LearnerConfig, optimiser: OptimiserConfig, *, bfloat16: bool) -> dict[str, Any]:
    """The JSON block for DeepSpeed: what the run's settings imply, overridden by the user's block."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # micro-batches are cut by tokens; DeepSpeed only needs a number here
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimiser.max_grad_norm,
        "bf16": {"enabled": bfloat16},
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        **learner.deepspeed,
        "zero_optimization": {
            **learner.deepspeed.get("zero_optimization", {}),
            "stage": learner.zero_stage(bfloat16=bfloat16),
        },
    }


class PolicyModule(torch.nn.Module):
    """What DeepSpeed wraps: its forward is the shared-prefix pass, so that ZeRO-3's hooks see every layer."""

    def __init__(self, policy: torch.nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, inputs: ForwardInputs, *, temperature: float, allowed_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies) of the answers' tokens; a tuple, because ZeRO-3's hooks inspect results."""
        stats = answer_stats(self.policy, inputs, temperature=temperature, allowed_ids=allowed_ids)
        return stats.logprobs_N, stats.entropy_N


class LearnerEngine:
    """A DeepSpeed engine with learning rates by part and whole-tensor access."""

    def __init__(
        self, policy: torch.nn.Module, *, learner: LearnerConfig, optimiser: OptimiserConfig, bfloat16: bool
    ) -> None:
        import deepspeed

        self._rates = optimiser.learning_rate
        self.policy = policy
        for name, parameter in policy.named_parameters():
            parameter.requires_grad = parameter.requires_grad and part_of(name) not in optimiser.frozen
        groups = [
            {"params": parameters, "lr": getattr(self._rates, part), "part": part}
            for part in PARTS
            if (parameters := [p for n, p in policy.named_parameters() if p.requires_grad and part_of(n) == part])
        ]
        adam = torch.optim.AdamW(groups, weight_decay=optimiser.weight_decay, betas=(optimiser.beta1, optimiser.beta2))
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=PolicyModule(policy),
            optimizer=adam,
            config=deepspeed_config(learner, optimiser, bfloat16=bfloat16),
            dist_init_required=False,
        )

    @property
    def reduces_late(self) -> bool:
        """Whether gradients stay with their rank until :meth:`apply`, so that a step can be dropped and begun anew.

        ZeRO 2 and 3 reduce them during every backward pass, and so does ZeRO 1 with some of its options: a rank that
        dropped out would leave the others waiting.
        """
        if (stage := self.engine.zero_optimization_stage()) == 0:
            return True
        options = ("overlap_comm", "use_grad_accum_attribute", "cpu_offload")
        return stage == 1 and not any(getattr(self.optimizer, option, True) for option in options)

    def begin_backward(self, *, is_last: bool) -> None:
        """Say before a micro-batch whether it is the step's last one."""
        self.engine.set_gradient_accumulation_boundary(is_last and not self.reduces_late)

    def discard(self) -> None:
        """Drop the gradients so far."""
        self.engine.zero_grad()

    def apply(self) -> float:
        """Take the optimizer step and return the gradients' global L2 norm before clipping.

        The norm is over the joined gradients of all ranks, so all ranks see the same norm and act alike.

        Raises:
            NonFiniteError: the norm is not a number; no weight changed, and the gradients are dropped.
        """
        if self.reduces_late:
            self.engine.set_gradient_accumulation_boundary(True)
            self.engine.allreduce_gradients()
        norm = None
        if self.engine.zero_optimization_stage() == 0:  # the plain engine would clip with any norm
            gradients = [p.grad for _, p in self._trained() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                self.discard()
                raise NonFiniteError(f"gradient norm is {norm}")
        self.engine.step()
        if not self.engine.was_step_applied():  # ZeRO's optimizers check the norm themselves, and clean up
            raise NonFiniteError("gradient norm is not a number")
        known = self.engine.get_global_grad_norm()  # the plain engine keeps none
        return float(known if known is not None else norm or 0.0)

    def has_finite_weights(self) -> bool:
        """Whether all weights this rank holds are finite: a NaN or an infinity would be the minimum or the maximum.

        One pass, faster than a memory copy; `torch.isfinite` is many times slower in bfloat16 on a CPU.
        """
        held = (getattr(parameter, "ds_tensor", parameter).data for parameter in self.policy.parameters())
        ends = [torch.stack(tensor.aminmax()) for tensor in held if tensor.numel()]
        return all(bool(torch.isfinite(end).all()) for end in ends)

    def set_learning_rate(self, factor: float) -> None:
        """Give every part its configured rate times the schedule's factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = getattr(self._rates, group["part"]) * factor

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, whole tensor) of every weight, adapters merged, in order. A collective under ZeRO-3 for all ranks."""
        import deepspeed

        for one in base_weights(self.policy):
            partitioned = [parameter for parameter in (one.weight, *one.factors) if hasattr(parameter, "ds_id")]
            with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
                merged = one.merged()
                yield one.name, merged.clone() if partitioned and not one.factors else merged

    def named_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(key, float32 tensor) of master weights and Adam's state; a collective where ZeRO partitions them."""
        self._prepare_moments()
        yield _NUM_UPDATES, torch.tensor([float(self.num_updates)])
        for name, parameter in self._trained():
            yield f"weight/{name}", self._read(parameter, None)
            for key in _ADAM_STATES:
                yield f"{key}/{name}", self._read(parameter, key)

    @property
    def num_updates(self) -> int:
        """Updates so far, without skipped steps."""
        return max((int(moments["step"]) for moments in self._adam().state.values() if "step" in moments), default=0)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what :meth:`named_state` gave, at any ZeRO stage and number of ranks.

        Raises:
            ConfigError: the state is of other trained parameters.
        """
        missing = [name for name, _ in self._trained() if f"weight/{name}" not in state]
        if missing:
            raise ConfigError(
                f"the checkpoint holds no {missing[0]}: learner.lora or the frozen parts were others then"
            )
        self._prepare_moments()
        for name, parameter in self._trained():
            self._write(parameter, None, state[f"weight/{name}"])
            for key in _ADAM_STATES:
                self._write(parameter, key, state[f"{key}/{name}"])
        for moments in self._adam().state.values():
            moments["step"] = torch.as_tensor(float(state[_NUM_UPDATES]))

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.policy.named_parameters() if p.requires_grad)

    def _adam(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _prepare_moments(self) -> None:
        """Give Adam empty moments where it has not stepped yet, and give ZeRO 1 and 2 their view of all moments.

        DeepSpeed 0.19 makes that view after the first parameter group's first step, when the others have no moments.
        """
        held = next((getattr(self.optimizer, name) for name in _PARTITIONS if hasattr(self.optimizer, name)), None)
        for tensor in held or [parameter for _, parameter in self._trained()]:
            state = self._adam().state[tensor]
            for key in _ADAM_STATES:
                state.setdefault(key, torch.zeros_like(tensor))
            state.setdefault("step", torch.tensor(0.0))
        if hasattr(self.optimizer, _IS_LINKED):
            setattr(self.optimizer, _IS_LINKED, False)
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _read(self, parameter: torch.nn.Parameter, key: str | None) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if _is_whole(parameter):
            value = parameter.data if key is None else self._adam().state[parameter].get(key)
            return torch.zeros_like(parameter) if value is None else value
        return safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)

    def _write(self, parameter: torch.nn.Parameter, key: str | None, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if _is_whole(parameter):
            target = parameter.data if key is None else self._adam().state[parameter][key]
            target.copy_(value.to(target.device))
        elif key is None:
            safe_set_full_fp32_param(parameter, value)  # the master copy alone; the forward pass uses another
            self._write_forwarded(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _write_forwarded(self, parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
        import deepspeed

        partitioned = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0, enabled=bool(partitioned)):
            parameter.data.copy_(value.to(parameter.device))


def _is_whole(parameter: torch.nn.Parameter) -> bool:
    """True where no ZeRO stage or bfloat16 wrapper keeps this parameter's master copy elsewhere."""
    return not (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"))
