"""Pre-trains on unlabelled audio: wav2vec 2.0, HuBERT, BEST-RQ, Discrete BERT, c-siam.

python -m w2v_jax.pretrain --config=configs/wav2vec2.py:base --workdir=runs/base
python -m w2v_jax.pretrain --config=configs/best_rq.py:base --workdir=runs/best-rq
"""

if __name__ == "__main__":  # worker processes import this file, and need no JAX
    from w2v_jax.stopping import stop

    stop.listen()  # before the imports, which take seconds

    from w2v_jax.run import main

    main("pretrain")
