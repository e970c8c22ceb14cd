"""Writes golden reference files: outputs and gradients of small random models of transformers.

    python generate.py FOLDER [NAME ...]

FOLDER must hold audio.npz, the inputs that all cases share. Every NAME (all of MODELS if none is
given) becomes FOLDER/NAME with config.json, model.safetensors, meta.json and one .npz per case:

    nomask  eval mode, equally long clips
    padded  eval mode, clips of different lengths with an attention mask
    masked  as padded, with masked frames given, of a bare encoder
    specoff as padded, of a model whose config has apply_spec_augment False
    train   train mode without any dropout, the Gumbel noise of the quantizer given

Needs torch, transformers and what they need. The same NAME gives the same bits on the same machine.
"""

import argparse
import copy
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from torch.nn import functional
from transformers.models.wav2vec2 import modeling_wav2vec2 as wav2vec2

MARGIN = 8e-4  # least lead of a chosen code, so that rounding never flips one
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [24] * 6 + [20], "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "num_conv_pos_embedding_groups": 4, "vocab_size": 29,
    "mask_time_prob": 0.65, "mask_feature_prob": 0.0, "layerdrop": 0.0, "hidden_dropout": 0.0,
    "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
}  # fmt: skip
QUANTIZED = {
    "num_codevector_groups": 2, "num_codevectors_per_group": 24, "codevector_dim": 32,
    "proj_codevector_dim": 28, "num_negatives": 20, "feat_quantizer_dropout": 0.0,
}  # fmt: skip
CONFORMER = {
    "conv_depthwise_kernel_size": 15, "max_source_positions": 512, "conformer_conv_dropout": 0.0,
}  # fmt: skip
LAYER, STABLE = {"feat_extract_norm": "layer", "conv_bias": True}, {"do_stable_layer_norm": True}
ODD = {
    "conv_dim": [16, 24, 40], "conv_kernel": [16, 8, 6], "conv_stride": [8, 8, 5],
    "num_conv_pos_embeddings": 15, "feat_extract_activation": "relu", "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-2, "contrastive_logits_temperature": 0.37, "diversity_loss_weight": 0.23,
}  # fmt: skip
MEAN = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 24}
PRETRAINING, CTC, BARE = ["nomask", "padded", "train"], ["nomask", "padded"], ["nomask", "padded"]

MODELS = {  # name -> class, cases, what its config changes
    "ctc_conv_adapter": ("Wav2Vec2ForCTC", CTC, MEAN | ADAPTER),
    "w2v2_odd": ("Wav2Vec2ForPreTraining", PRETRAINING, ODD),
    "w2v2_specoff": (
        "Wav2Vec2ForPreTraining", ["specoff", "train"], {"apply_spec_augment": False},
    ),
    "w2v2_base_g1": ("Wav2Vec2ForPreTraining", PRETRAINING, {"num_codevector_groups": 1}),
    "w2v2_group_stable_g2": ("Wav2Vec2ForPreTraining", PRETRAINING, STABLE),
    "w2v2_adapter_base": ("Wav2Vec2Model", BARE, {"add_adapter": True, "num_adapter_layers": 1}),
    "conformer_nopos": (
        "Wav2Vec2ConformerForPreTraining", PRETRAINING, {"position_embeddings_type": None},
    ),
    "hubert_large": ("HubertModel", [*BARE, "masked"], LAYER | STABLE),
    "hubert_noprojln": ("HubertModel", [*BARE, "masked"], {"feat_proj_layer_norm": False}),
    "ctc_w2v2_large": ("Wav2Vec2ForCTC", CTC, LAYER | STABLE),
    "ctc_hubert_base": ("HubertForCTC", CTC, MEAN),
    "ctc_conformer_relative": ("Wav2Vec2ConformerForCTC", CTC, {}),
}  # fmt: skip


def build(kind: str, changes: dict, rng: np.random.Generator) -> torch.nn.Module:
    cls = getattr(transformers, kind)
    options = dict(SMALL)
    if not kind.startswith("Hubert"):
        options |= QUANTIZED
    if "Conformer" in kind:
        options |= CONFORMER
    model = cls(cls.config_class(**(options | changes)))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape), rng)))
    return model


def random_tensor(name: str, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """As large as a fresh model has it, but never 0 or 1."""
    normal, uniform = rng.normal(size=shape), rng.uniform(size=shape)
    if name.endswith("running_mean"):
        return 0.2 * normal
    if name.endswith("running_var"):
        return 0.5 + uniform
    if name.endswith("masked_spec_embed"):
        return uniform + 0.15 * normal
    if name.endswith("codevectors"):
        return uniform
    if name.endswith("weight_proj.weight"):
        return normal
    if name.endswith("weight.original0"):  # the norm of every tap of the positional convolution
        return 0.15 + 0.3 * uniform
    if name.endswith(("pos_bias_u", "pos_bias_v")):
        return 0.4 * normal
    if len(shape) == 1:
        return 0.15 * normal + name.endswith("weight")
    return normal * np.sqrt((1 + ("feature_extractor" in name)) / np.prod(shape[1:]))


def draw_inputs(model: torch.nn.Module, case: str, audio: dict, rng: np.random.Generator) -> dict:
    """The arrays in/* of a case."""
    config, base = model.config, model.base_model
    name = "flat" if case == "nomask" else "ragged"
    rows, samples = audio[name].shape
    frames = int(base._get_feat_extract_output_lengths(samples, add_adapter=False)
                 if "add_adapter" in vars(config) else
                 base._get_feat_extract_output_lengths(samples))  # fmt: skip
    valid = np.full(rows, samples) if name == "flat" else audio["ragged_mask"].sum(1)
    inputs = {"in/audio": np.array(name)}
    kind = type(model).__name__
    if kind.endswith("ForCTC"):
        lengths = base._get_feat_extract_output_lengths(torch.from_numpy(valid)).numpy()
        label_lengths = (lengths * 3) // 10
        labels = rng.integers(1, config.vocab_size, (rows, label_lengths.max()))
        labels[:, 1] = labels[:, 0]  # a repeated label, which needs a blank between
        labels[np.arange(labels.shape[1]) >= label_lengths[:, None]] = -100
        return inputs | {"in/labels": labels, "in/label_lengths": label_lengths,
                         "in/logit_lengths": lengths}  # fmt: skip
    frame_mask = np.ones((rows, frames), bool)
    if name == "ragged":
        attention = torch.from_numpy(audio["ragged_mask"])
        kwargs = {"add_adapter": False} if "add_adapter" in vars(config) else {}
        frame_mask = base._get_feature_vector_attention_mask(frames, attention, **kwargs)
        frame_mask = frame_mask.bool().numpy()
    pretraining = kind.endswith("ForPreTraining")
    if not pretraining:
        if getattr(config, "add_adapter", False):
            frames = int(base._get_feat_extract_output_lengths(samples))
            width = config.output_hidden_size
        else:
            width = config.hidden_size
        inputs["in/probe"] = rng.normal(size=(rows, frames, width)).astype(np.float32)
    if pretraining or case == "masked":
        if name == "ragged":
            inputs["in/frame_mask"] = frame_mask
        np.random.seed(rng.integers(2**31))  # noqa: NPY002  transformers draws from this one
        mask = wav2vec2._compute_mask_indices(
            (rows, frames), config.mask_time_prob, config.mask_time_length,
            attention_mask=torch.from_numpy(frame_mask), min_masks=config.mask_time_min_masks,
        )  # fmt: skip
        inputs["in/mask_time_indices"] = mask
    if pretraining:
        inputs["in/sampled_negative_indices"] = wav2vec2._sample_negative_indices(
            (rows, frames), config.num_negatives, mask_time_indices=mask
        )
    if case == "train":
        groups, codes = config.num_codevector_groups, config.num_codevectors_per_group
        inputs["in/gumbel"] = rng.gumbel(size=(rows * frames * groups, codes)).astype(np.float32)
        inputs["in/gumbel_temperature"] = np.array(1.7)
    return inputs


def evaluate(model: torch.nn.Module, case: str, inputs: dict, audio: dict, double=False) -> dict:
    """The arrays out/* of a case and the gradients of all parameters, None where there is none."""
    model = copy.deepcopy(model).train(case == "train")  # a copy: training moves batch statistics
    dtype = torch.float64 if double else torch.float32
    model.to(dtype)
    kind, base, seen = type(model).__name__, model.base_model, {}

    def keep(name, module):
        module.register_forward_hook(lambda *call: seen.update({name: call[-1]}))

    tensors = {key[3:]: torch.from_numpy(x) for key, x in inputs.items() if key != "in/audio"}
    name = str(inputs["in/audio"])
    given = {"input_values": torch.from_numpy(audio[name]).to(dtype)}
    if name == "ragged":
        given["attention_mask"] = torch.from_numpy(audio["ragged_mask"])
    for key in ("mask_time_indices", "sampled_negative_indices"):
        if key in tensors:
            given[key] = tensors[key]
    keep("conv_features", base.feature_extractor)
    keep("base", base)
    if kind.endswith("ForPreTraining"):
        keep("quantizer_logits", model.quantizer.weight_proj)
        keep("quantized", model.quantizer)
        cosine = model.compute_contrastive_logits

        def compute_contrastive_logits(positive, negatives, *rest):
            seen["neg_is_pos"] = (positive == negatives).all(-1)
            seen["contrastive_logits"] = cosine(positive, negatives, *rest)
            return seen["contrastive_logits"].clone()  # the caller writes -inf into it

        model.compute_contrastive_logits = compute_contrastive_logits
    if kind.endswith("ForCTC"):
        given["labels"] = tensors["labels"].long()
    if case == "train":
        model.set_gumbel_temperature(float(inputs["in/gumbel_temperature"]))
    original = functional.gumbel_softmax
    functional.gumbel_softmax = lambda logits, tau, hard: straight_through(
        logits + tensors["gumbel"], tau
    )
    try:
        result = model(**given, output_hidden_states=True)
    finally:
        functional.gumbel_softmax = original

    out = {}
    if kind.endswith("ForPreTraining"):
        for key in ("projected_states", "projected_quantized_states", "codevector_perplexity",
                    "contrastive_loss", "diversity_loss"):  # fmt: skip
            out[key] = result[key]
    loss = result.loss if "loss" in result else (result[0] * tensors["probe"].to(dtype)).sum()
    out["loss"] = loss
    if kind.endswith("ForCTC"):
        out["logits"] = result.logits
        log_probs = result.logits.detach().double().log_softmax(-1).transpose(0, 1)
        out["ctc_per_example"] = functional.ctc_loss(
            log_probs, tensors["labels"].long().clamp(min=0), tensors["logit_lengths"].long(),
            tensors["label_lengths"].long(), blank=model.config.pad_token_id, reduction="none",
            zero_infinity=model.config.ctc_zero_infinity,
        ).to(dtype)  # fmt: skip
    out |= {f"hidden_states.{i}": x for i, x in enumerate(result.hidden_states)}
    out["conv_features"] = seen["conv_features"].transpose(1, 2)
    out["last_hidden_state"] = seen["base"].last_hidden_state
    if "quantized" in seen:
        logits = seen["quantizer_logits"]
        config = model.config
        scores = logits.reshape(-1, config.num_codevectors_per_group)
        top = scores + tensors.get("gumbel", 0)
        first, second = top.topk(2, -1).values.unbind(-1)
        out |= {
            "quantized": seen["quantized"][0],
            "quantizer_logits": logits,
            "min_code_margin": (first - second).min(),
            "code_indices": top.argmax(-1).reshape(*logits.shape[:2], -1),
            "contrastive_logits": seen["contrastive_logits"],
            "neg_is_pos": seen["neg_is_pos"],
        }
    loss.backward()
    arrays = {f"out/{key}": x.detach().numpy() for key, x in out.items()}
    if case == "train":
        arrays |= {f"out/buffer/{key}": x.numpy() for key, x in model.named_buffers()
                   if re.search(r"running_(mean|var)$", key)}  # fmt: skip
    return arrays | {f"grad/{key}": None if x.grad is None else x.grad.numpy()
                     for key, x in model.named_parameters()}  # fmt: skip


def straight_through(logits: torch.Tensor, tau: float) -> torch.Tensor:
    soft = (logits / tau).softmax(-1)
    hard = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard - soft.detach() + soft


def stored(key: str) -> bool:
    """Gradients of repeated layers are left out, but for their norms in meta.json."""
    if not key.startswith("grad/") or "adapter" in key or key.endswith("conv_layers.2.conv.weight"):
        return True
    layer = re.search(r"(encoder\.|conv_)layers\.(\d+)", key)
    return layer is None or layer[2] == "0"


def describe(single: dict, double: dict) -> dict:
    """What meta.json says of a case."""
    noise = {}
    for key, x in single.items():
        if x is not None and x.dtype == np.float32 and stored(key):
            error = np.abs(x - double[key]).max(), np.abs(double[key]).max()
            noise[key] = [float(f"{value:.3g}") for value in error]
    grads = {key[5:]: x for key, x in single.items() if key.startswith("grad/")}
    codes = "out/code_indices"
    norms = {key: None if x is None else float(np.linalg.norm(x.astype(float)))
             for key, x in grads.items()}  # fmt: skip
    return {
        "f32_vs_f64": noise,
        "grad_norms": norms,
        "codes_same_in_f64": np.array_equal(single.get(codes, 0), double.get(codes, 0)),
        "no_grad": [key for key, norm in norms.items() if norm is None],
        "zero_grad": [key for key, norm in norms.items() if norm == 0],
    }


def stable(arrays: dict, about: dict) -> bool:
    """Whether rounding decides neither a code nor which negatives equal the positive.

    The reference compares projected vectors bit by bit; those of one code may differ by rounding.
    """
    if "out/code_indices" not in arrays:
        return True
    codes, mask = arrays["out/code_indices"], arrays["in/mask_time_indices"]
    negatives = codes.reshape(-1, codes.shape[-1])[arrays["in/sampled_negative_indices"]]
    equal = (negatives == codes[:, :, None]).all(-1).transpose(2, 0, 1)
    same = np.array_equal(equal[:, mask], arrays["out/neg_is_pos"][:, mask])
    noise, largest = about["f32_vs_f64"]["out/contrastive_loss"]  # large if float64 finds others
    same &= noise <= 1e-5 * largest
    return bool(same and about["codes_same_in_f64"] and arrays["out/min_code_margin"] >= MARGIN)


def generate(name: str, audio: dict, seed: int) -> tuple[torch.nn.Module, dict, dict]:
    """A model, the arrays of its cases and their descriptions."""
    kind, cases, changes = MODELS[name]
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    model, arrays, about = build(kind, changes, rng), {}, {}
    for case in cases:
        inputs = draw_inputs(model, case, audio, rng)
        single = evaluate(model, case, inputs, audio)
        about[case] = describe(single, evaluate(model, case, inputs, audio, double=True))
        kept = {key: x for key, x in single.items() if x is not None and stored(key)}
        arrays[case] = inputs | kept
    return model, arrays, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    audio = dict(np.load(arguments.folder / "audio.npz"))
    for name in arguments.names or MODELS:
        for seed in range(100):
            model, arrays, about = generate(name, audio, seed)
            if all(stable(arrays[case], about[case]) for case in arrays):
                break
        else:
            raise SystemExit(f"{name}: rounding decides a code in every model tried")
        directory = arguments.folder / name
        model.save_pretrained(directory)
        for case, x in arrays.items():
            np.savez_compressed(directory / f"{case}.npz", **x)
        meta = {
            "cls": MODELS[name][0],
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "cases": about,
            "state_dict_keys_equal_saved": model.state_dict().keys()
            == load_file(directory / "model.safetensors").keys(),
            "parameters": {key: list(x.shape) for key, x in model.state_dict().items()},
        }
        (directory / "meta.json").write_text(json.dumps(meta, indent=1))
        print(f"{name}: seed {seed}", flush=True)


if __name__ == "__main__":
    main()
