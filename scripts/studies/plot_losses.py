"""Draw the loss curves of the stages of a training, one after the other.

python scripts/studies/plot_losses.py losses.png losses_pretrain.csv losses_train.csv
"""

import argparse
from pathlib import Path

from bundle.visualization.curves import draw_curves

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="PNG to write")
    parser.add_argument("sources", type=Path, nargs="+", help="losses.csv of each stage, in order")
    parser.add_argument("--metrics", type=Path, help="metrics.csv of the last stage")
    arguments = parser.parse_args()
    draw_curves(arguments.target, arguments.sources, arguments.metrics)
