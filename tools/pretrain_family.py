"""Pre-trains the T5s that come with the package: span corruption, then LM adaptation.

python tools/pretrain_family.py [t5-nano t5-micro t5-mini]

Run it where `corpus/` has train.txt and validation.txt (tools/build_corpus.py) and vocabulary/
(tools/build_vocabulary.py). t5-mini is grown from the package's t5-micro. Runs are in
runs/pretraining; stopped at any moment, the same command goes on. tools/ship_family.py makes the
models of the package from them.
"""

import sys

from softprompt_jax.pretraining.family import GROWN, NAMES, grow, lm_adaptation, span_corruption
from softprompt_jax.pretraining.run import pretrain


def main(names: list[str]) -> int:
    """Pre-trains the sizes in order; returns the exit status."""
    for name in names or NAMES:
        if name in GROWN:
            grow(name)
        for config in (span_corruption(name), lm_adaptation(name)):
            result = pretrain(config)
            if not result.finished:
                return 1
            print(f"{config.workdir}: {dict(result.metrics)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
