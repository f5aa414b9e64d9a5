"""Options of the section `training`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import has, lacks, option, probability, train_flag

_TRANSFORMER = has("model.type", "transformer")


@dataclass(frozen=True)
class TrainingConfig:
    """What is optimised, for how long, and what is kept."""

    seed: int = train_flag(
        1,
        "Seed of initialisation, order and dropout.",
        minimum=0,
        maximum=2**32 - 1,
    )
    init_from: str | None = train_flag(
        None,
        "Start from the parameters of another run: its directory (which means its best "
        "checkpoint), or one of its checkpoints. Unset options of [model] follow that run.",
    )
    label_smoothing: float = probability(0.1, "Probability mass spread over the vocabulary.")
    guided_alignment_weight: float | None = train_flag(
        None,
        "Add this times the cross-entropy of the decoder's attention with the alignments that "
        "preprocess was given to the loss; 'none' is off.",
        above=0.0,
    )
    guided_alignment_layer: int | None = option(
        None,
        "Layer of the decoder whose attention is guided; 'none' is the last but one, or the only "
        "one.",
        minimum=1,
        only_if=(_TRANSFORMER, lacks("training.guided_alignment_weight", None)),
    )
    precision: str = option(
        "auto",
        "Type that the network computes in; parameters and optimizer stay in float32. 'auto' "
        "tries at the start if bf16 is faster on the first device.",
        choices=("auto", "fp32", "bf16", "fp16"),
        stages=("train", "profile"),
    )
    tf32: bool = option(
        False,
        "Let GPUs round the inputs of float32 matrix products to 10 bits, which is faster.",
    )
    compile: bool = option(
        False,
        "Compile the Transformer's layers with torch.compile, which takes a minute or more.",
        stages=("train", "profile"),
        only_if=(_TRANSFORMER,),
    )
    max_minutes: float | None = train_flag(
        None,
        "Stop after this time, counted over resumes.",
        unit="minutes",
        minimum=0.0,
    )
    max_epochs: int | None = train_flag(
        None, "Stop after this many epochs.", unit="epochs", minimum=1
    )
    max_updates: int | None = train_flag(
        None, "Stop after this many updates.", unit="updates", minimum=1
    )
    validate_every: int = train_flag(
        500, "Validate and save this often.", unit="updates", minimum=1
    )
    validate_metric: str = option(
        "bleu",
        "What decides which checkpoint is the best.",
        choices=("bleu", "cross_entropy"),
    )
    validate_bleu: bool = option(
        True, "Translate the validation set (greedily) and measure BLEU, not only cross-entropy."
    )
    patience: int | None = train_flag(
        10,
        "Stop after this many validations without a better one; 'none' is never.",
        unit="validations",
        minimum=1,
    )
    save_every_minutes: float = option(
        10.0, "Save at least this often, also between validations.", unit="minutes", minimum=0.0
    )
    grace: float | None = train_flag(
        None,
        "How long saving may take after Ctrl-C, SIGTERM, SIGHUP or a preemption; after that the "
        "command ends at once, and the checkpoint before stays. 'none' waits.",
        unit="seconds",
        minimum=0.0,
    )
    preemption_signal: str | None = option(
        None,
        "A further signal that ends as SIGTERM does, with which a cluster says that the machine "
        "will be taken away.",
        choices=("USR2", "XCPU", "URG", "CONT"),
    )
    preemption_file: str | None = option(None, "End as at SIGTERM as soon as this file is there.")
    keep_checkpoints: int = train_flag(
        3, "Checkpoints that are kept, besides the best; two at least.", minimum=1
    )
    log_every_seconds: float = option(
        5.0, "How often a line of figures is written.", unit="seconds", minimum=0.0
    )

    on_divergence: str = train_flag(
        "stop",
        "When training goes astray: 'stop' with the last good checkpoint, go back to it with half "
        "the learning rate ('rollback', three times at most), or 'ignore' it.",
        choices=("stop", "rollback", "ignore"),
    )

    @property
    def guides_alignment(self) -> bool:
        """Whether attention is guided by alignments."""
        return self.guided_alignment_weight is not None
