"""Methods that SKILD is compared with, on the same trainer, samplers and observables."""
