"""The two towers and the two losses: knowledge insulation (arXiv 2505.23705), read from top to bottom.

1. The backbone makes one pass over ``[images | text | targets]``.
2. Cross-entropy of the targets changes the backbone.
3. The keys and values of the prefix go to the action expert, through the cut.
4. The flow loss changes the expert, and what the cut lets through.

At inference step 1 runs once without targets, and the expert alone follows the flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import register_dataclass

from fast_tokenizer.ki_model.backbone import Backbone, BackboneOutput, PrefixCache
from fast_tokenizer.ki_model.batch import KIBatch, Prefix, Targets
from fast_tokenizer.ki_model.config import Cut, KIConfig, Mode, Objective
from fast_tokenizer.ki_model.expert import ActionExpert
from fast_tokenizer.ki_model.flow import euler, interpolate


@dataclass(frozen=True, slots=True, eq=False)
class KILoss:
    """The losses of a batch; all are scalar tensors.

    Attributes:
        total: ``ce + alpha * flow``; the one to call backward() on.
        ce: Mean over all tokens that count, text and action tokens alike (eq. 2). 0 where the mode or the batch has
            none.
        flow: Mean squared error of the velocity: over an example's values, then over the examples that have any
            (eq. 3). 0 where the mode or the batch has none.
        ce_text: Mean over the text tokens alone, of which ``"|"`` and EOS after the actions are two. Detached.
        ce_fast: Mean over the action tokens alone. Detached.
        text_tokens: Text tokens that count.
        fast_tokens: Action tokens that count.
        robot_examples: Examples that the flow loss counts.
    """

    total: Tensor
    ce: Tensor
    flow: Tensor
    ce_text: Tensor
    ce_fast: Tensor
    text_tokens: Tensor
    fast_tokens: Tensor
    robot_examples: Tensor


# So that what wraps a model finds the tensors in what it returns: DistributedDataParallel hooks its averaging to them.
register_dataclass(KILoss)


class KIModel(nn.Module):
    """A vision-language backbone and an action expert, trained together.

    Attributes:
        config: The sizes.
        backbone: The language model.
        expert: The flow expert; ``model.expert.compile()`` compiles its step, of training and sampling alike.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = KIModel(KIConfig.tiny())
        >>> ids = torch.tensor([[5, 6, 7]])
        >>> every = torch.ones_like(ids, dtype=torch.bool)
        >>> prefix = Prefix(ids, every)
        >>> batch = KIBatch(prefix, Targets(ids + 10, every, every, every), torch.zeros(1, 4, 2))
        >>> loss = model(batch)
        >>> loss.total.backward()
        >>> int(loss.fast_tokens), int(loss.robot_examples), model.sample_actions(prefix).shape
        (3, 1, torch.Size([1, 4, 2]))
    """

    def __init__(
        self, config: KIConfig, objective: Objective | None = None, *, backbone: Backbone | None = None
    ) -> None:
        """Makes a model with random weights.

        Args:
            config: The sizes.
            objective: None: knowledge insulation as published.
            backbone: One made before, such as that of a pretrained PaliGemma. None: a new one.

        Raises:
            ValueError: The backbone was made for other sizes.
        """
        super().__init__()
        if backbone is not None and backbone.config != config:
            raise ValueError(f"the backbone was made for {backbone.config}, the model for {config}")
        self.config = config
        self.objective = Objective() if objective is None else objective  # checked by the setter below
        self.backbone = Backbone(config) if backbone is None else backbone
        self.expert = ActionExpert(config)

    @property
    def objective(self) -> Objective:
        """What `forward` minimises.

        Raises:
            ValueError: Set to something else than an `Objective`.
        """
        return self._objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        if not isinstance(objective, Objective):
            raise ValueError(f"expected an Objective, such as Objective(Mode.KI), got {objective!r}")
        self._objective = objective

    # ---- Training --------------------------------------------------------------------------------

    def forward(
        self,
        batch: KIBatch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> KILoss:
        """The losses of the objective (eq. 4).

        Args:
            batch: Robot examples, language examples, or both.
            noise: (B * flow_draws, H, A); None: drawn. The draws of one example follow one another.
            time: (B * flow_draws,); None: drawn.
            generator: Of what is drawn.

        Raises:
            ValueError: The batch does not fit the configuration.
        """
        mode, cut = self.objective.mode, self.objective.effective_cut
        targets = None
        if mode.cross_entropy:
            targets = _no_targets(batch.prefix) if batch.targets is None else batch.targets
            targets = targets if mode.fast_ce else targets.without_actions()
        with torch.set_grad_enabled(torch.is_grad_enabled() and mode is not Mode.FROZEN):
            out = self.backbone(batch.prefix, targets, keep_features=mode.flow and cut is Cut.FEATURES)

        zero = out.cache.layers[0][0].new_zeros((), dtype=torch.float32)
        count = zero.long()
        ce, ce_text, ce_fast, text_tokens, fast_tokens = zero, zero, zero, count, count
        if targets is not None:
            ce, ce_text, ce_fast, text_tokens, fast_tokens = self._cross_entropy(out, targets)
        flow, robot_examples = zero, count
        if mode.flow:
            flow, robot_examples = self._flow_loss(batch, self.insulated(out.cache), noise, time, generator)
        total = ce + self.objective.alpha * flow
        return KILoss(total, ce, flow, ce_text, ce_fast, text_tokens, fast_tokens, robot_examples)

    def insulated(self, cache: PrefixCache) -> PrefixCache:
        """What the expert gets of the cache: the place where the gradient is cut.

        (Under `Mode.FROZEN` the backbone has no gradient to begin with.)
        """
        match self.objective.effective_cut:
            case Cut.KEYS_VALUES:
                return cache.detach()
            case Cut.FEATURES:
                return self.backbone.read_features(cache)
            case Cut.NONE:
                return cache

    def target_logits(self, batch: KIBatch) -> Tensor:
        """(B, S, V) logits of each target, given the targets before it. To measure with.

        Raises:
            ValueError: The batch has no targets.
        """
        if batch.targets is None:
            raise ValueError("the batch has no targets")
        logits: Tensor = self.backbone.logits(self.backbone(batch.prefix, batch.targets).target_features)
        return logits

    def _cross_entropy(self, out: BackboneOutput, targets: Targets) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The mean over what counts, over its text and over its action tokens; and how many of each there are."""
        counts = targets.loss_mask & targets.mask
        assert out.target_features is not None
        logits = self.backbone.logits(out.target_features[counts])  # (n, V): only where there is something to learn
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(logits, targets.ids[counts], reduction="none")
        fast = targets.fast_mask[counts]

        def mean(which: Tensor) -> Tensor:
            return torch.where(which, losses, 0).sum() / which.sum().clamp(min=1)

        ce = losses.sum() / max(len(losses), 1)
        return ce, mean(~fast).detach(), mean(fast).detach(), (~fast).sum(), fast.sum()

    def _flow_loss(
        self,
        batch: KIBatch,
        cache: PrefixCache,
        noise: Tensor | None,
        time: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """The flow loss, and how many examples it counts."""
        draws = self.objective.flow_draws
        actions, mask = self._actions(batch)
        actions = actions.repeat_interleave(draws, 0)  # (B * draws, H, A)
        mask = mask.repeat_interleave(draws, 0)
        if noise is None:
            noise = torch.randn(actions.shape, device=actions.device, dtype=actions.dtype, generator=generator)
        if time is None:
            time = self.objective.time(len(actions), device=actions.device, generator=generator)
        for name, given, shape in (("noise", noise, actions.shape), ("time", time, actions.shape[:1])):
            if given.shape != shape:
                raise ValueError(f"{name}: expected {tuple(shape)}, got {tuple(given.shape)}")

        x_t, target = interpolate(actions, noise, time)
        velocity = self.expert(x_t, time, cache.repeat(draws))
        squared = torch.where(mask, (velocity - target).square(), 0)
        values = mask.sum((1, 2))
        of_example = squared.sum((1, 2)) / values.clamp(min=1)
        examples = (values > 0).sum()
        return of_example.sum() / examples.clamp(min=1), examples // draws

    def _actions(self, batch: KIBatch) -> tuple[Tensor, Tensor]:
        """Actions, at least float32, with 0 where they do not count; and where they do."""
        shape = (len(batch), self.config.horizon, self.config.action_dim)
        if batch.actions is None:  # the expert runs all the same: its gradients are zeros, in every worker
            actions = torch.zeros(shape, device=batch.prefix.ids.device)
            return actions, torch.zeros_like(actions, dtype=torch.bool)
        if tuple(batch.actions.shape) != shape:
            raise ValueError(f"actions: expected (B, H, A) = {shape}, got {tuple(batch.actions.shape)}")
        mask = batch.element_mask()
        actions = batch.actions if batch.actions.dtype == torch.float64 else batch.actions.float()
        return torch.where(mask, actions, 0), mask

    # ---- Inference -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_actions(
        self,
        prefix: Prefix,
        *,
        steps: int = 10,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Chunks of actions: one pass of the backbone, and `steps` calls of the expert.

        No action token is made or read; the language model's head is not called.

        Args:
            prefix: B of them.
            steps: Euler steps from noise to actions.
            noise: (B, H, A); None: drawn.
            action_mask: (B, H, A) bool, as in training, where that had one: what does not count goes to 0 on the
                straight path that it had in training, as the expert has not learned where to move it.
            generator: Of what is drawn.

        Returns:
            (B, H, A) float, normalised as in training.

        Raises:
            ValueError: There is no step, or noise or mask is of another shape.
        """
        shape = (len(prefix), self.config.horizon, self.config.action_dim)
        if noise is None:
            noise = torch.randn(shape, device=prefix.ids.device, generator=generator)
        for name, given in (("noise", noise), ("action_mask", action_mask)):
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(f"{name}: expected {shape}, got {tuple(given.shape)}")
        cache = self.backbone(prefix).cache
        start = noise

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            v: Tensor = self.expert(x, t, cache)
            return v if action_mask is None else torch.where(action_mask, v, start)

        return euler(velocity, noise, steps)


def _no_targets(prefix: Prefix) -> Targets:
    """Zero slots: a loss of 0 that has a gradient all the same."""
    ids = prefix.ids[:, :0]
    mask = ids.bool()
    return Targets(ids, mask, mask, mask)
