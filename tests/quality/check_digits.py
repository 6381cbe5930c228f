"""Checks that sampled digits are what their labels say, by a classifier trained on the real ones.

    python tests/quality/check_digits.py runs/quickstart-1/samples/sample-1

reads the 100 numbered images of ``diffkit sample`` (image i is of class i mod 10), lets scikit-learn's SVC name
them, prints how many it names as asked for, and fails below 90.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

NEEDED = 90


def main(folder: Path) -> int:
    files = sorted(folder.glob("[0-9]*.png"))
    if len(files) != 100:
        print(f"{folder}: 100 images are needed, not {len(files)}")
        return 2
    real = load_digits()
    classifier = SVC(gamma=0.001).fit(real.data, real.target)
    images = np.stack([np.asarray(Image.open(file), dtype=np.float64).ravel() for file in files]) * 16 / 255
    right = int((classifier.predict(images) == np.arange(100) % 10).sum())
    print(f"{right} of 100 samples are named as asked for")
    return 0 if right >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
