"""Settings of the property tests: the same examples whenever and wherever they run."""

import contextlib

from hypothesis import HealthCheck, settings

# Hypothesis likes to draw constants of the modules that are loaded, which depend on the files that
# a worker ran before, and has no setting for it. Versions before that have no such module.
with contextlib.suppress(ImportError):
    from hypothesis.internal.conjecture import providers

    providers.is_local_module_file = lambda _: False


def repeatable(max_examples):
    """Examples that depend on the test alone, and never on how busy the machine is."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
