"""Write inputs and outputs of google's D0 with seeded values: python make_google_outputs.py OUT.npz.

OUT holds ``x`` (1, 128, 128, 3) normalised; ``cls0`` … ``cls4`` and ``box0`` … ``box4``, fine to coarse, for three
classes; and the statistics of batch normalisation by their names, float16, which come from a batch of random images.
All other values are those of ``seeded_values.py``. The environment is that of ``make_google.py``.
"""

import sys

import numpy as np
import tensorflow as tf
from seeded_values import seeded_value
from tensorflow_examples.lite.model_maker.third_party.efficientdet import hparams_config
from tensorflow_examples.lite.model_maker.third_party.efficientdet.keras import efficientdet_keras

SIZE = (128, 128)


def main():
    config = hparams_config.get_efficientdet_config("efficientdet-d0")
    config.image_size, config.is_training_bn, config.num_classes = SIZE, False, 3
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    net = efficientdet_keras.EfficientDetNet(config=config)
    net.build(images.shape)
    for layer in net.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    for variable in net.weights:
        name = variable.name.split(":")[0]
        if "moving_" not in name:
            variable.assign(seeded_value(name, tuple(variable.shape)))
    net(tf.constant(images), training=True)
    statistics = {}
    for variable in net.weights:
        name = variable.name.split(":")[0]
        if "moving_" in name:
            statistics[name] = variable.numpy().astype(np.float16)
            variable.assign(statistics[name].astype(np.float32))
    classes, boxes = net(tf.constant(images[:1]), training=False)
    outputs = {f"cls{level}": array.numpy() for level, array in enumerate(classes)}
    outputs |= {f"box{level}": array.numpy() for level, array in enumerate(boxes)}
    np.savez_compressed(sys.argv[1], x=images[:1], **outputs, **statistics)


if __name__ == "__main__":
    main()
