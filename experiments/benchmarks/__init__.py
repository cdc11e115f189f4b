"""One script for each claim about speed, memory or quality; each measures its ratio in one run.

`python -m experiments.benchmarks.NAME --help` says what is measured and how. The exit code is 0 when the goal
is met and 1 when it is missed. They need Linux: processes are watched through /proc.
"""
