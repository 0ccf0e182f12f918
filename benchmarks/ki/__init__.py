"""What knowledge insulation does to a small vision-language model, measured on a CPU: ``python -m benchmarks.ki``."""
