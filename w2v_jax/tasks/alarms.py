"""What can be wrong with a run that goes on, in plain words: see training.health."""

import math

from w2v_jax.training.health import Alarm

PATIENCE = 300  # updates that even a run with a short warm-up gets before it is called stuck
SKIPPED = Alarm(
    "skipped",
    ("train/skipped",),
    lambda step, s: s["train/skipped"] > 0.1,
    "{train/skipped:.0%} of the last updates were skipped, their gradient was not finite. "
    "Start again in another --workdir with a lower --config.optim.peak_lr, with "
    "--config.optim.clip_norm=1, or with --config.model.dtype=float32 to see whether it is a "
    "matter of precision",
)


def pretraining_alarms(
    *, groups: int, codes: int, negatives: int, warmup_steps: int
) -> tuple[Alarm, ...]:
    """Those of contrastive pre-training with `groups` codebooks of `codes` entries each.

    negatives: of all kinds together; warmup_steps: config.optim.warmup_steps.
    """
    # Measured with configs/quickstart.py, 2 x 32 codes: never below 18 as it is; 8 to 12 from
    # update 60 on with a diversity_weight of 0.1; 2.2 to 4.2 with 0 and a peak_lr of 3e-3, where
    # 1.5 per group would have missed 4 of 10 lines.
    few = min(5.0, codes / 4)
    chance = math.log2(1 + negatives)
    settled = max(warmup_steps, PATIENCE)
    group_names = tuple(f"valid/code_perplexity_{g}" for g in range(groups))
    restart = (
        "Start again in another --workdir with a higher --config.loss.diversity_weight, a lower "
        "--config.optim.peak_lr or a longer --config.optim.warmup_steps"
    )
    return (
        SKIPPED,
        Alarm(
            "collapse",
            ("train/code_perplexity", "train/accuracy"),
            lambda step, s: s["train/code_perplexity"] < few * groups,
            "the codebook is collapsing: the perplexity of its codes is "
            f"{{train/code_perplexity:.2f}} ({groups} is one code per group, {groups * codes} all "
            "of them). Negatives with the codes of the positive do not count, so the fewer codes "
            "are left, the nearer the loss comes to 0 and the accuracy, now {train/accuracy:.3f}, "
            "to 1, with nothing learnt. "
            + restart,
        ),
        Alarm(
            "group_collapse",
            group_names,
            lambda step, s: min(s[name] for name in group_names) < few,
            "on the validation set a group of the codebook is down to a few codes; perplexities "
            f"of the groups, each at most {codes}: "
            + ", ".join(f"{{{name}:.2f}}" for name in group_names)
            + ". " + restart,
        ),
        Alarm(
            "chance",
            ("train/contrastive_bits",),
            lambda step, s: step >= settled and s["train/contrastive_bits"] > chance - 0.02,
            "the loss, {train/contrastive_bits:.3f} bits, is not below chance, log2(1 + negatives) "
            f"= {chance:.3f}, though the warm-up is over. With little audio per update raise "
            "--config.data.batch_seconds (--config.data.accumulation makes it fit) or lower "
            "--config.optim.peak_lr; a new encoder leaves chance sooner with "
            "--config.model.conv_smoothing=0.8, fewer --config.quantizer.codes and a shorter "
            "--config.masking.span",
        ),
        Alarm(
            "dead_codes",
            ("valid/dead_codes", "valid/masked_frames"),
            lambda step, s: step >= settled
            and s["valid/masked_frames"] >= 20 * codes
            and s["valid/dead_codes"] > groups * codes / 2,
            f"{{valid/dead_codes:.0f}} of {groups * codes} codes are chosen by none of the "
            "{valid/masked_frames:.0f} masked frames of the validation set. Raise "
            "--config.loss.diversity_weight, keep the Gumbel temperature high for longer "
            "(--config.gumbel.decay nearer to 1), or take fewer --config.quantizer.codes",
        ),
    )  # fmt: skip


def ctc_alarms(*, freeze_steps: int, warmup_steps: int) -> tuple[Alarm, ...]:
    """Those of fine-tuning with CTC.

    freeze_steps: config.freeze_steps; warmup_steps: until the learning rate has its peak.
    """
    settled = max(freeze_steps, warmup_steps) + PATIENCE
    return (
        SKIPPED,
        Alarm(
            "infeasible",
            ("train/infeasible",),
            lambda step, s: s["train/infeasible"] > 0.05,
            "{train/infeasible:.1%} of the utterances have more letters than frames and teach "
            "nothing. Look whether their transcripts belong to them and --config.letters to their "
            "language; a model of fewer frames per second (--config.model.output_layers) cannot "
            "take quick speech",
        ),
        Alarm(
            "blank",
            ("valid/empty_share",),
            lambda step, s: step >= settled and s["valid/empty_share"] > 0.9,
            "the model writes nothing but blanks for {valid/empty_share:.0%} of the validation "
            "set. Every CTC training begins so, but by now it should be over: raise "
            "--config.optim.peak_lr or --config.num_steps, start from a pre-trained model with "
            "--config.init_from, or, from random weights, set --config.freeze_steps=0, "
            "--config.model.feature_grad_mult=1 and --config.model.conv_smoothing=0; look whether "
            "the transcripts belong to the audio",
        ),
    )
