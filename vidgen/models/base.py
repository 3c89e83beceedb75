"""The contract of a video model, and alternating optimisation written once.

``VideoModel`` is what data, sampling, metrics and the command line know of a model. ``LikelihoodModel`` is one with one
loss and one optimiser, which Lightning steps. ``AdversarialModel`` adds the one primitive that every adversarial paper
composes its schedule from: :meth:`AdversarialModel.update`.
"""

from __future__ import annotations

import fnmatch
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vidgen.data.spec import DataSpec
from vidgen.distributed import world
from vidgen.layers.precision import at_least_float32
from vidgen.seeding import NoiseStream, derive_seed, noise_from
from vidgen.training.gradients import average_gradients, clip_gradients, gradient_norm
from vidgen.training.meters import FiniteWatch, MeanMeter

Batch = dict[str, Any]
LossTerms = dict[str, Tensor]
Shared = TypeVar("Shared")
LossFunction = Callable[[Any], LossTerms]


class VideoModel(pl.LightningModule):
    """A model that makes videos.

    A subclass states its paper in class attributes, takes plain typed constructor arguments (they are captured in
    :attr:`init_args` and written to the checkpoint), and implements training and :meth:`sample`.
    """

    title: ClassVar[str] = ""
    """Name of the method, as in the paper's title."""
    paper: ClassVar[str] = ""
    """Citation with arXiv id."""
    original: ClassVar[str] = ""
    """Repository of the official code and its licence."""
    stages: ClassVar[tuple[str, ...]] = ()
    """Stages trained one after the other, where a paper has several. Their constructors take the description of an
    earlier one in place of its checkpoint, see :mod:`vidgen.models.stages`."""
    ema_modules: ClassVar[tuple[str, ...]] = ()
    """Names of the submodules that an exponential moving average covers."""

    init_args: dict[str, Any]
    seed: int = 0
    data_spec: DataSpec | None = None
    """What the model was trained on; ``vidgen fit`` and ``vidgen.load`` set it where it is known."""

    def __new__(cls, *args: Any, **kwargs: Any) -> VideoModel:
        model = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(model, *args, **kwargs)
        except TypeError:  # deepcopy and pickle create without arguments; __init__ reports a wrong call itself
            return model
        bound.apply_defaults()
        model.__dict__["init_args"] = dict(list(bound.arguments.items())[1:])
        return model

    def __init__(self) -> None:
        super().__init__()
        self.meter = MeanMeter()
        self.finite_watch = FiniteWatch()
        self.log_every = 50
        self.idle_since = time.perf_counter()
        self._micro_index = 0  # which of the batches that one step accumulates

    @property
    def task(self) -> str:
        """What the model does as configured: ``unconditional``, ``class_conditional``, ``prediction``, …"""
        raise NotImplementedError(f"{type(self).__name__} does not say its task")

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Batch keys that training reads."""
        return ("video",)

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """Batch keys that :meth:`sample` reads; empty when it needs no batch."""
        return ()

    @property
    def context_frames(self) -> int:
        """Frames at the beginning of the given ``video`` that :meth:`sample` reads, where it reads any."""
        return 0

    def keys_for(self, keywords: Mapping[str, Any]) -> tuple[str, ...]:
        """Batch keys that :meth:`sample` reads with these keywords, where they decide it; else :attr:`sample_keys`."""
        return self.sample_keys

    def context_frames_for(self, keywords: Mapping[str, Any]) -> int:
        """:attr:`context_frames` with these keywords of :meth:`sample`, where they decide it."""
        return self.context_frames

    def given_frames_for(self, keywords: Mapping[str, Any]) -> int:
        """Frames at the beginning of a sample that are merely the given ones, which paired metrics leave out.

        Those that :meth:`sample` reads, see :meth:`context_frames_for`; none of an autoencoder, whose samples
        reconstruct all that they are given, nor of a model that is given no frames.
        """
        given = "video" in self.keys_for(keywords) and self.task != "autoencoder"
        return self.context_frames_for(keywords) if given else 0

    @property
    def sampling_group(self) -> int:
        """Videos that :meth:`sample` makes together, since one depends on the others, as with batch statistics.

        Video n belongs to group ``n // sampling_group``. Who samples hands over whole groups, so that neither batch
        size nor number of processes matters.
        """
        return 1

    def sampling_group_for(self, keywords: Mapping[str, Any]) -> int:
        """:attr:`sampling_group` with these keywords of :meth:`sample`, where they decide it."""
        return self.sampling_group

    @property
    def max_frames(self) -> int | None:
        """Frames of the longest video that :meth:`sample` makes; None means that there is no longest one."""
        return None

    @property
    def lookahead_frames(self) -> int | None:
        """Frames before the end of a video that its end changes: those of a longer video differ there; None for all."""
        return 0

    @property
    def streams(self) -> bool:
        """Whether :meth:`stream` makes videos in memory that does not grow with their length."""
        return type(self).stream is not VideoModel.stream

    @property
    def stochastic(self) -> bool:
        """Whether the seed of :meth:`sample` matters: False for a model with one answer to what it is given."""
        return True

    @property
    def parameters_without_gradient(self) -> Mapping[str, str]:
        """Parameter name pattern -> why one full schedule gives it no gradient."""
        return {}

    def on_train_batch_end(self, *_: Any) -> None:
        """Note when the iteration and all callbacks were done; what follows is waiting for data."""
        self.idle_since = time.perf_counter()

    def check_data(self, spec: DataSpec) -> None:
        """Check that the data can serve the model as configured.

        Raises:
            UserError: it cannot; the message names the config key.
        """

    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name."""
        return {
            name: child
            for name, child in self.named_children()
            if any(parameter.requires_grad for parameter in child.parameters())
        }

    def sample(self, num_videos: int, *, num_frames: int | None = None, seed: int = 0, first: int = 0) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the endless sequence that ``seed`` stands for.

        Video n depends on (seed, n) only, so batch size and number of processes do not matter.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot sample")

    def stream(
        self,
        batch: Batch | None = None,
        state: Any = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
    ) -> tuple[Tensor, Any]:
        """Make the next frames of videos of any length, in memory that does not grow with it.

        What successive calls return is, concatenated, what :meth:`sample` returns. A model whose videos have a greatest
        length (:attr:`max_frames`) makes them again from their beginning and hands out the part that is asked for.
        One whose frames depend on later ones (:attr:`lookahead_frames`) has to know where the videos end, to make their
        last frames as :meth:`sample` does; not told, it makes the beginning of videos that never end.

        Args:
            batch: what the model conditions on, see :attr:`sample_keys`.
            state: what the previous call returned; None starts the videos.
            num_videos: how many; as many as there are in ``batch``, where the model needs one.
            num_frames: frames to make now; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: length of the whole videos, the same in every call; None where they have no end.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.

        Raises:
            UserError: the videos would become longer than the model makes them.
        """
        if self.max_frames is None:
            raise NotImplementedError(f"{type(self).__name__} does not stream")
        start: int = state or 0
        end = start + (self.init_args["num_frames"] if num_frames is None else num_frames)
        given = {"batch": batch} if self.sample_keys else {}
        if batch and self.sample_keys:
            num_videos = len(batch[self.sample_keys[0]])
        videos = self.sample(num_videos, num_frames=end, seed=seed, first=first, **given)
        return videos[:, :, start:], end

    def prepare_sampling(self) -> None:
        """Compute what sampling needs once, after the weights are final (for example standing statistics)."""

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Constructor arguments of tiny instances, one for each way the model can be configured."""
        return {"default": {}}

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        """A random batch with the keys, shapes and ranges that training reads."""
        noise = NoiseStream(derive_seed(seed, "example"), self.device)
        channels, size, frames = (self.init_args[key] for key in ("channels", "resolution", "num_frames"))
        makers: dict[str, Callable[[], Tensor]] = {
            "video": lambda: noise.uniform(batch_size, channels, frames, size, size) * 2 - 1,
            "images": lambda: noise.uniform(batch_size, channels, size, size) * 2 - 1,
            "label": lambda: noise.integers(int(self.init_args["dim_category"]), batch_size),
        }
        return {key: makers[key]() for key in self.train_keys}

    @property
    def iteration_number(self) -> int:
        """Iterations completed so far in the run."""
        return self.trainer.global_step if self._trainer is not None else 0

    @property
    def logs_now(self) -> bool:
        """Whether this iteration ends a logging window, so that what costs a reduction is measured."""
        return (self.iteration_number + 1) % self.log_every == 0

    def noise(self, stream: str) -> NoiseStream:
        """Training noise of this iteration for this rank, from its own generator on the model's device.

        Micro-batches of an accumulated step draw independent noise.

        Args:
            stream: what the noise is for; two different names give independent numbers.
        """
        rank, world_size = world()
        stream = f"{stream}#{self._micro_index}" if self._micro_index else stream
        seed = derive_seed(self.seed, "noise", stream, self.iteration_number)
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
        return NoiseStream(seed, self.device, dtype, rank, world_size)

    def record(self, name: str, value: Tensor) -> None:
        """Log a quantity that is not a loss, averaged over the logging window and over ranks.

        Args:
            name: as it shall stand in the logs, for example ``accuracy/discriminator_real``.
            value: a scalar on the model's device.
        """
        self.meter.add(name, value)

    def record_loss(self, name: str, value: Tensor) -> None:
        """Log a loss or a term of one, and watch that it is finite.

        Args:
            name: as it shall stand in the logs, less ``loss/``.
            value: a scalar on the model's device.
        """
        self.meter.add(f"loss/{name}", value.detach())
        self.finite_watch.observe(self.iteration_number + 1, f"loss/{name}", value.detach())


def total_of(terms: LossTerms) -> Tensor:
    """The sum of the terms of a loss, in float32 at least."""
    return torch.stack([at_least_float32(term) for term in terms.values()]).sum()


class LikelihoodModel(VideoModel):
    """A model trained by one optimiser on one loss, such as a bound on the likelihood.

    Lightning steps the optimiser, clips and accumulates, and its own DDP averages the gradients. Subclasses give
    :meth:`loss` and :meth:`build_optimizer`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._optimizer_names = ["model"]

    def loss(self, batch: Batch) -> LossTerms:
        """Terms of the loss of this rank's share of a batch; the mean of their sum over ranks is minimised.

        Layers that draw noise draw it from the stream ``loss``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def build_optimizer(self) -> Optimizer:
        """The optimiser of all parameters."""
        raise NotImplementedError(f"{type(self).__name__} builds no optimiser")

    @property
    def idle_parameters(self) -> bool:
        """Whether parameters that are trained get no gradient in some iterations; DDP has to look for them then."""
        return False

    def configure_optimizers(self) -> Optimizer:
        """Hand the optimiser to Lightning, which saves and restores it."""
        return self.build_optimizer()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; Lightning does the rest."""
        self._micro_index = batch_idx % self.trainer.accumulate_grad_batches
        with noise_from(self.noise("loss")):
            terms = self.loss(batch)
        total = total_of(terms)
        for name, value in {**terms, "total": total}.items():
            self.record_loss(name, value)
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log how long the gradient is, before it is clipped."""
        if self.logs_now:
            owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.meter.add("grad_norm", gradient_norm(owned))


class AdversarialModel(VideoModel):
    """A model trained by several optimisers in turn.

    One iteration is one pass of the paper's schedule of updates. Subclasses give :meth:`build_optimizers` and either
    ``discriminator_loss`` and ``generator_loss`` (one update of each per iteration) or their own :meth:`iteration`.
    """

    batches_per_iteration: int = 1
    """Fresh batches that one iteration consumes."""

    @property
    def schedule_period(self) -> int:
        """Iterations after which the schedule repeats, where some of its parts are not due in each."""
        return 1

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate_grad_batches = 1
        self.gradient_clip_val: float | None = None
        self.gradient_clip_algorithm = "norm"
        self.update_timer: Callable[[str], Any] | None = None
        self._micro_batches: list[list[Batch]] = []
        self._optimizer_names: list[str] = []
        self._schedule_names: list[str] = []

    def build_optimizers(self) -> dict[str, Optimizer]:
        """One optimiser per update name, in the order of the schedule."""
        raise NotImplementedError(f"{type(self).__name__} builds no optimisers")

    def build_schedules(self, optimizers: Mapping[str, Optimizer]) -> dict[str, LRScheduler]:
        """Learning-rate schedules by update name; each advances with every step of its optimiser."""
        return {}

    def discriminator_loss(self, batches: list[Batch]) -> LossTerms:
        """Terms of the discriminator's loss; real and fake are the model's business."""
        raise NotImplementedError(f"{type(self).__name__} has no discriminator_loss")

    def generator_loss(self, batches: list[Batch]) -> LossTerms:
        """Terms of the generator's loss."""
        raise NotImplementedError(f"{type(self).__name__} has no generator_loss")

    def iteration(self, batches: list[Batch]) -> None:
        """One pass of the schedule: by default one discriminator update, then one generator update.

        Args:
            batches: :attr:`batches_per_iteration` batches. With gradient accumulation these are the first
                micro-batch's; loss functions are called with those of each micro-batch in turn.
        """
        self.update("discriminator", self.discriminator_loss)
        self.update("generator", self.generator_loss)

    def configure_optimizers(self) -> Any:
        """Hand the optimisers and schedules to Lightning, which saves and restores them."""
        optimizers = self.build_optimizers()
        schedules = self.build_schedules(optimizers)
        self._optimizer_names = list(optimizers)
        self._schedule_names = list(schedules)
        return list(optimizers.values()), list(schedules.values())

    def optimizer(self, name: str) -> Optimizer:
        """The optimiser of one update.

        Raises:
            KeyError: no update has that name.
        """
        if name not in self._optimizer_names:
            raise KeyError(f"no optimiser named {name!r}; there are {', '.join(self._optimizer_names)}")
        return self.trainer.strategy.optimizers[self._optimizer_names.index(name)]

    def training_step(self, batches: list[Batch], batch_idx: int) -> None:
        """Run one iteration; Lightning counts it as one step."""
        size = self.batches_per_iteration
        self._micro_batches = [batches[i : i + size] for i in range(0, len(batches), size)]
        self._micro_index = 0
        self.iteration(self._micro_batches[0])
        self._micro_batches = []
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def share(self, name: str, forward: Callable[[list[Batch]], Shared]) -> list[Shared]:
        """Run a forward pass that several updates have in common, once for each micro-batch.

        No parameter is frozen, so that each update reaches its own. Hand the result to each :meth:`update` as
        ``shared``, and let all but the last keep the graph. With gradient accumulation the graphs of all micro-batches
        exist at once.

        Args:
            name: of the noise stream that layers draw from, and of the time in benchmarks.
            forward: takes the batches of one micro-batch.

        Returns:
            What ``forward`` returned for each micro-batch.
        """
        results = []
        with self.timed(name):
            for index in range(len(self._micro_batches)):
                self._micro_index = index
                torch.clear_autocast_cache()
                with noise_from(self.noise(name)):
                    results.append(forward(self._micro_batches[index]))
            self._micro_index = 0
        return results

    def update(
        self, name: str, loss_fn: LossFunction, *, retain_graph: bool = False, shared: Sequence[Any] | None = None
    ) -> None:
        """Make one step of one optimiser.

        Freezes every parameter that the optimiser does not own, runs forward and backward for each micro-batch,
        averages the gradients over ranks, unscales (AMP), clips, steps, advances the schedule and records each term.

        Args:
            name: key of :meth:`build_optimizers`; also the noise stream that layers draw from.
            loss_fn: takes the batches of one micro-batch, or what is shared for it, and returns named loss terms; their
                sum is minimised.
            retain_graph: keep the graph for a later update that reuses it.
            shared: what :meth:`share` returned, for a loss of an earlier forward pass.
        """
        if shared is not None:
            of_batches = loss_fn

            def loss_fn(_: Any) -> LossTerms:
                return of_batches(shared[self._micro_index])

        optimizer = self.optimizer(name)
        owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        with self._only_trainable(owned), self.timed(name):
            for index in range(len(self._micro_batches)):
                self._micro_index = index
                self._accumulate(name, loss_fn, owned, retain_graph)
            self._micro_index = 0
        with self.timed(f"{name}/optimizer"):
            self._step(name, optimizer, owned)

    def _accumulate(self, name: str, loss_fn: LossFunction, owned: list[nn.Parameter], retain_graph: bool) -> None:
        torch.clear_autocast_cache()  # casts cached before another optimiser stepped would be stale
        with noise_from(self.noise(name)):
            terms = loss_fn(self._micro_batches[self._micro_index])
        total = total_of(terms)
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(total / len(self._micro_batches), retain_graph=retain_graph, inputs=owned)
        for term, value in {**terms, "": total}.items():
            self.record_loss(f"{name}/{term}".rstrip("/"), value)

    def _step(self, name: str, optimizer: Optimizer, owned: list[nn.Parameter]) -> None:
        average_gradients(owned)
        precision = self.trainer.precision_plugin
        scaler = getattr(precision, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        if self.logs_now:
            self.meter.add(f"grad_norm/{name}", gradient_norm(owned))
        clip_gradients(owned, self.gradient_clip_val, self.gradient_clip_algorithm)
        with torch.autocast(self.device.type, enabled=False):
            if scaler is not None:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        if name in self._schedule_names:
            schedules: Any = self.lr_schedulers()
            chosen = schedules[self._schedule_names.index(name)] if isinstance(schedules, list) else schedules
            chosen.step()

    @contextmanager
    def _only_trainable(self, owned: list[nn.Parameter]) -> Iterator[None]:
        mine = {id(parameter) for parameter in owned}
        frozen = [p for p in self.parameters() if p.requires_grad and id(p) not in mine]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of the block as ``name`` when a benchmark measures the parts of an iteration."""
        if self.update_timer is None:
            yield
        else:
            with self.update_timer(name):
                yield


def reason_without_gradient(model: VideoModel, parameter: str) -> str | None:
    """Why a parameter gets no gradient in one full schedule, or None when it should get one."""
    for pattern, reason in model.parameters_without_gradient.items():
        if fnmatch.fnmatchcase(parameter, pattern):
            return reason
    return None


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Use the running statistics inside the block, whatever the mode of the network is."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
