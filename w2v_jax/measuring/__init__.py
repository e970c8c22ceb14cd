"""What a model and a program cost: arithmetic, time, memory, communication."""
