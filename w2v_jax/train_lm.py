"""Trains a Transformer language model of letters or words, to rescore what a recognizer found.

python -m w2v_jax.train_lm --config=configs/lm.py:letters_base --workdir=runs/lm \
    --config.data.train=librispeech-lm-norm.txt.gz --config.data.valid=dev.txt
python -m w2v_jax.export --workdir=runs/lm --output=runs/lm/export
"""

if __name__ == "__main__":  # worker processes import this file, and need no JAX
    from w2v_jax.stopping import stop

    stop.listen()  # before the imports, which take seconds

    from w2v_jax.run import main

    main("train_lm")
