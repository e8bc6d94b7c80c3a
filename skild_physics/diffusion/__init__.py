"""The SKILD process: schedule, forward process, prediction targets, samplers."""
