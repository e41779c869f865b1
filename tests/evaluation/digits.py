"""The digits of scikit-learn as every evaluation test splits them."""

import functools

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


@functools.cache
def pixels():
    """Training pixels and labels, test pixels and labels; a quarter held out."""
    data = load_digits()
    images = (data.data / 16).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        images, data.target, test_size=0.25, stratify=data.target, random_state=0
    )
    return train, train_labels, test, test_labels
