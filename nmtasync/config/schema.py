"""The sections of the configuration. Everything else about options is derived from here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from nmtasync.config.option import OptionField, option, section_fields


@dataclass(frozen=True)
class DataConfig:
    """From raw text to mini-batches."""

    source_language: str | None = option(
        None, "Code of the source language, for reports.", stages=("preprocess",)
    )
    target_language: str | None = option(
        None, "Code of the target language, for reports and TER.", stages=("preprocess",)
    )
    vocab_size: int = option(
        8000, "Size of each vocabulary.", unit="pieces", minimum=16, stages=("preprocess",)
    )
    vocab_type: str = option(
        "unigram",
        "SentencePiece algorithm.",
        choices=("unigram", "bpe"),
        stages=("preprocess",),
    )
    joint_vocabulary: bool = option(
        True, "Learn one vocabulary for both languages.", stages=("preprocess",)
    )
    byte_fallback: bool = option(
        True, "Spell characters that the vocabulary lacks as bytes, so nothing is unknown."
    )
    character_coverage: float = option(
        0.9999,
        "Share of the characters that the vocabulary covers by itself.",
        minimum=0.9,
        maximum=1.0,
    )
    max_length: int = option(
        200,
        "Drop training pairs with a longer side.",
        unit="pieces",
        minimum=1,
        stages=("preprocess",),
    )
    max_ratio: float | None = option(
        4.0,
        "Drop training pairs with one side this many times longer than the other, in pieces; "
        "pairs of at most 15 pieces a side pass.",
        minimum=1.0,
        stages=("preprocess",),
    )
    deduplicate: bool = option(
        True, "Drop a training pair that occurred before, to the letter.", stages=("preprocess",)
    )
    batch_tokens: int = option(
        1500,
        "Size of a mini-batch: its sentence pairs times the length of the longest side.",
        unit="tokens, padding counted",
        minimum=1,
        stages=("train",),
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    type: str = option(
        "transformer",
        "Pre-norm Transformer, or GRU encoder-decoder with attention.",
        choices=("transformer", "rnn"),
    )
    dimension: int = option(
        256, "Width of embeddings and of Transformer layers.", unit="elements", minimum=2
    )
    encoder_layers: int = option(3, "Layers of the encoder.", minimum=1)
    decoder_layers: int = option(3, "Layers of the decoder.", minimum=1)
    feed_forward: int | None = option(
        None,
        "Width inside feed-forward layers; 'none' means four times the dimension.",
        unit="elements",
        minimum=1,
        only_if=("model.type", "transformer"),
    )
    heads: int | None = option(
        None,
        "Attention heads; 'none' means one for each 64 elements of the dimension.",
        minimum=1,
        only_if=("model.type", "transformer"),
    )
    state_dimension: int | None = option(
        None,
        "Width of the recurrent states, in each direction; 'none' means the dimension.",
        unit="elements",
        minimum=1,
        only_if=("model.type", "rnn"),
    )
    dropout: float = option(
        0.1, "Probability with which an activation is dropped.", minimum=0.0, maximum=0.9
    )
    tied_embeddings: str = option(
        "all",
        "Share embeddings: all three matrices, target input with output, or none. "
        "'all' needs a joint vocabulary.",
        choices=("all", "target", "none"),
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """How a shard turns a gradient into an update."""

    name: str = option(
        "adam",
        "Adam, AdamW (with weight_decay), or stochastic gradient descent with momentum.",
        choices=("adam", "adamw", "sgd"),
    )
    beta1: float = option(0.9, "Adam: decay of the first moment.", minimum=0.0, maximum=0.99999)
    beta2: float = option(0.98, "Adam: decay of the second moment.", minimum=0.0, maximum=0.999999)
    beta_points: str | None = option(
        None,
        "Adam: let the betas change, instead of beta1 and beta2: points UPDATE:BETA1:BETA2 with "
        "commas between them. They go from point to point linearly, after a point that ends in "
        "'!' in a step: 1:0.9:0.999!,4000:0.92:0.998.",
        unit="updates",
    )
    weight_decay: float = option(
        0.0,
        "AdamW: shrink the parameters by this share times the learning rate at each update.",
        minimum=0.0,
        maximum=1.0,
        only_if=("optimizer.name", "adamw"),
    )
    momentum: float = option(
        0.9,
        "SGD: decay of the velocity.",
        minimum=0.0,
        maximum=0.99999,
        only_if=("optimizer.name", "sgd"),
    )
    nesterov: bool = option(True, "SGD: Nesterov's momentum.", only_if=("optimizer.name", "sgd"))
    epsilon: float = option(1e-9, "Adam: added to the denominator.", minimum=0.0)
    clip_norm: float | None = option(
        1.0,
        "Clip the gradient per target word to this global norm, on the worker; 'none' is off.",
        minimum=0.0,
    )
    smoothing: float | None = option(
        1e-4,
        "Moving average of the parameters: its weight for the newest, at the least; validation "
        "and saved models use the average; 'none' is off.",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate. Its clock is the updates of a shard."""

    learning_rate: float = option(
        1e-3, "Learning rate at its peak.", minimum=0.0, stages=("train",)
    )
    warmup_updates: int = option(
        400,
        "Raise the learning rate linearly for this long.",
        unit="updates",
        minimum=0,
        stages=("train",),
    )
    decay: str = option(
        "inverse-sqrt",
        "What follows the warm-up: peak times sqrt(warmup / updates), or the peak for good.",
        choices=("inverse-sqrt", "none"),
    )
    words_scaling: str = option(
        "none",
        "Scale the learning rate of an update with its target words over reference_words.",
        choices=("linear", "sqrt", "none"),
        stages=("train",),
    )
    reference_words: int = option(
        1920,
        "The target words of an update for which the learning rate is meant.",
        unit="target words",
        minimum=1,
    )


@dataclass(frozen=True)
class AsynchronousConfig:
    """The workers, and how they push and fetch."""

    driver: str = option(
        "local",
        "How workers run: processes of this machine, or one process that simulates them, and "
        "time, exactly; see [simulation].",
        choices=("local", "simulated"),
        stages=("train",),
    )
    devices: str = option(
        "auto",
        "One worker for each device named, for example cpu,cpu or cuda:0,cuda:1; a device may "
        "be named more than once. 'auto' is every GPU, else one CPU worker for each core.",
        stages=("train",),
    )
    optimizer_delay: int = option(
        1,
        "Mini-batches that a worker sums up between two pushes.",
        unit="batches",
        minimum=1,
        stages=("train",),
    )
    delay_warmup_updates: int = option(
        0, "Raise the delay linearly from 1 for this long.", unit="updates", minimum=0
    )
    rule: str = option(
        "immediate",
        "What the server does with a push: one of immediate, buffer, staleness-aware, "
        "delay-compensation, outer-nesterov, or several joined by +.",
        stages=("train",),
    )
    buffer_pushes: int | None = option(
        None,
        "Pushes that a gradient buffer sums for one update; 'none' is one for each worker.",
        unit="pushes",
        minimum=1,
        only_if=("asynchronous.rule", "buffer"),
    )
    compensation_strength: float = option(
        0.04,
        "Delay compensation: its factor lambda.",
        minimum=0.0,
        only_if=("asynchronous.rule", "delay-compensation"),
    )
    outer_learning_rate: float = option(
        0.7,
        "Outer Nesterov: its learning rate, which follows no schedule.",
        minimum=0.0,
        only_if=("asynchronous.rule", "outer-nesterov"),
    )
    outer_momentum: float = option(
        0.9,
        "Outer Nesterov: decay of the momentum.",
        minimum=0.0,
        maximum=0.99999,
        only_if=("asynchronous.rule", "outer-nesterov"),
    )
    outer_delay: int | None = option(
        None,
        "Outer Nesterov: refresh the momentum with every so many pushes; 'none' is one for each "
        "worker, 1 is DiLoCo's own.",
        unit="pushes",
        minimum=1,
        only_if=("asynchronous.rule", "outer-nesterov"),
    )
    local_optimizer_batches: int | str = option(
        0,
        "For how many of its first mini-batches each worker also applies an Adam of its own to "
        "its replica between pushes: a number, or 'always'.",
        unit="batches of a worker",
        minimum=0,
        choices=("always",),
        stages=("train",),
    )
    local_beta1: float = option(
        0.93, "Local optimizers: decay of the first moment.", minimum=0.0, maximum=0.99999
    )
    local_beta2: float = option(
        0.993, "Local optimizers: decay of the second moment.", minimum=0.0, maximum=0.999999
    )
    local_beta_points: str | None = option(
        None,
        "Local optimizers: let the betas change, as optimizer.beta_points does, by the batches "
        "of the worker.",
        unit="batches of a worker",
    )
    local_learning_rate: float | None = option(
        None,
        "Local optimizers: a learning rate of their own; 'none' follows the schedule.",
        minimum=0.0,
    )
    local_push: str = option(
        "gradient",
        "What is pushed after local steps: the sum of the gradients, or the way they have gone "
        "(times the target words, so that rules treat both alike).",
        choices=("gradient", "delta"),
    )
    drop_rate: float | None = option(
        None,
        "Gradient dropping: keep this share of each gradient, its smallest elements, on the "
        "worker until they have grown, and push the rest; 'none' is off.",
        minimum=0.0,
        maximum=0.99999,
    )
    drop_warmup_pushes: int = option(
        0,
        "Gradient dropping: raise the rate linearly from 0 for this long.",
        unit="pushes of a worker",
        minimum=0,
    )
    drop_local_gradient: bool = option(
        False,
        "Gradient dropping: the worker applies what it keeps to its own replica, by an Adam of "
        "its own, after each fetch.",
    )
    num_shards: int | None = option(
        None, "Shards of the parameter vector; 'none' means one for each worker.", minimum=1
    )
    threads: int | None = option(
        None,
        "CPU threads of each worker; 'none' shares the cores out evenly.",
        minimum=1,
        stages=("train",),
    )
    max_restarts: int = option(
        3, "How often a worker that died is replaced, one after another without a push.", minimum=0
    )


_SIMULATED = ("asynchronous.driver", "simulated")


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated workers: how fast they are, when they fail, what takes how much virtual time."""

    speeds: str = option(
        "1",
        "One number for each worker, for example 1,1,2,4; a worker of speed 2 computes twice as "
        "fast. asynchronous.devices names the one device on which all of them are computed.",
        stages=("train",),
        only_if=_SIMULATED,
    )
    speed_jitter: float = option(
        0.0,
        "Relative standard deviation of the time that a batch takes; log-normal, seeded.",
        minimum=0.0,
        maximum=10.0,
        stages=("train",),
        only_if=_SIMULATED,
    )
    failures: str | None = option(
        None,
        "When workers die and return, in virtual seconds: 1@100-200,0@350 lets worker 1 die at "
        "100 and return at 200, and worker 0 die at 350 for good.",
        stages=("train",),
        only_if=_SIMULATED,
    )
    seconds_per_batch: float = option(
        1.0,
        "Time of a batch at speed 1, besides that of its words.",
        unit="seconds",
        minimum=0.0,
        only_if=_SIMULATED,
    )
    seconds_per_target_word: float = option(
        0.0,
        "Time of each target word of a batch at speed 1.",
        unit="seconds",
        minimum=0.0,
        only_if=_SIMULATED,
    )
    exchange_latency_seconds: float = option(
        0.0,
        "Time until a message between worker and server begins to arrive, in each direction.",
        unit="seconds",
        minimum=0.0,
        only_if=_SIMULATED,
    )
    exchange_bytes_per_second: float | None = option(
        None,
        "Bandwidth between a worker and the server, in each direction; 'none' is infinite.",
        unit="bytes per second",
        minimum=1.0,
        only_if=_SIMULATED,
    )
    replay: str | None = option(
        None,
        "Repeat the run whose RUN/logs/exchanges.jsonl this is: the same batches by the same "
        "workers, pushed in the same order.",
        stages=("train",),
        only_if=_SIMULATED,
    )


@dataclass(frozen=True)
class TrainingConfig:
    """What is optimised, for how long, and what is kept."""

    seed: int = option(
        1, "Seed of initialisation, order and dropout.", minimum=0, stages=("train",)
    )
    label_smoothing: float = option(
        0.1, "Probability mass spread over the vocabulary.", minimum=0.0, maximum=0.9
    )
    max_minutes: float | None = option(
        None,
        "Stop after this time, counted over resumes.",
        unit="minutes",
        minimum=0.0,
        stages=("train",),
    )
    max_epochs: int | None = option(
        None, "Stop after this many epochs.", unit="epochs", minimum=1, stages=("train",)
    )
    max_updates: int | None = option(
        None, "Stop after this many updates.", unit="updates", minimum=1, stages=("train",)
    )
    validate_every: int = option(
        500, "Validate and save this often.", unit="updates", minimum=1, stages=("train",)
    )
    validate_metric: str = option(
        "bleu",
        "What decides which checkpoint is the best.",
        choices=("bleu", "cross_entropy"),
    )
    validate_bleu: bool = option(
        True, "Translate the validation set (greedily) and measure BLEU, not only cross-entropy."
    )
    patience: int | None = option(
        10,
        "Stop after this many validations without a better one; 'none' is never.",
        unit="validations",
        minimum=1,
        stages=("train",),
    )
    save_every_minutes: float = option(
        10.0, "Save at least this often, also between validations.", unit="minutes", minimum=0.0
    )
    keep_checkpoints: int = option(
        3, "Checkpoints that are kept, besides the best.", minimum=1, stages=("train",)
    )
    log_every_seconds: float = option(
        5.0, "How often a line of figures is written.", unit="seconds", minimum=0.0
    )


@dataclass(frozen=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = option(
        5,
        "Hypotheses that beam search keeps; 1 is greedy search.",
        minimum=1,
        stages=("evaluate", "translate"),
    )
    length_normalization: float = option(
        1.0,
        "Compare hypotheses by score / length ** this; 0 is off.",
        minimum=0.0,
        stages=("evaluate", "translate"),
    )
    max_length_ratio: float = option(
        2.0,
        "Stop a hypothesis at this many times the source's length, plus ten.",
        unit="pieces per source piece",
        minimum=0.1,
    )
    batch_sentences: int = option(
        64,
        "Sentences that are translated together.",
        unit="sentences",
        minimum=1,
        stages=("evaluate", "translate"),
    )


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    asynchronous: AsynchronousConfig = field(default_factory=AsynchronousConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


SECTIONS: dict[str, type] = {
    section.name: section.default_factory  # type: ignore[misc]
    for section in dataclasses.fields(Config)
}

OPTIONS: dict[str, OptionField] = {
    field.name: field
    for section_name, section_type in SECTIONS.items()
    for field in section_fields(section_name, section_type)
}
