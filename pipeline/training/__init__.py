"""Training on zoos: loader, DeepSpeed engine, loop, checkpoints, launch, evaluation."""
