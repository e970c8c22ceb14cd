"""Fine-tunes an encoder with CTC on transcribed audio, pre-trained or from random weights.

python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
    --workdir=runs/base-10h --config.run.init_from=runs/base/export
"""

if __name__ == "__main__":  # worker processes import this file, and need no JAX
    from w2v_jax.stopping import stop

    stop.listen()  # before the imports, which take seconds

    from w2v_jax.run import main

    main("finetune")
