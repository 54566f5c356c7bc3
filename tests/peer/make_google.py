"""Write a checkpoint with the original code: python make_google.py NAME --out DIR [--size H W] [--legacy].

NAME is d0 … d7x or lite0 … lite4. Writes DIR/keras/model.*, DIR/io.npz (``x`` (1, H, W, 3) normalised; ``cls0`` …,
``box0`` … fine to coarse) and DIR/names.txt; with ``--legacy`` also DIR/legacy/model.*, where the true values are the
moving averages and the plain ones are shaken.

Needs an environment of its own with Python 3.11: ``tensorflow-cpu==2.15.1 tensorflow-addons==0.23
tensorflow-model-optimization gin-config "numpy<2"``, and the original code, which the wheel of tflite-model-maker 0.4.3
carries: ``pip download --no-deps tflite-model-maker==0.4.3``, unzip, and put the folder on PYTHONPATH.

Weights are those of the original's initialisers; BN statistics are those of random images, and everything is shaken,
so that nothing can be left out unseen.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_examples.lite.model_maker.third_party.efficientdet import efficientdet_arch, hparams_config
from tensorflow_examples.lite.model_maker.third_party.efficientdet.keras import efficientdet_keras

tf1 = tf.compat.v1


def configure(name, size):
    config = hparams_config.get_efficientdet_config(f"efficientdet-{name}")
    config.image_size, config.is_training_bn = tuple(size), False
    return config


def shaken(name, value, rng):
    """Return a value for a variable after one pass in training mode."""
    kind = name.rsplit("/", 1)[1]
    if kind == "gamma":
        return rng.uniform(0.7, 1.3, value.shape)
    if kind == "moving_variance":
        return value * rng.uniform(0.8, 1.2, value.shape) + 0.05
    if kind in ("beta", "moving_mean", "bias"):
        return value + rng.normal(0, 0.1, value.shape)
    if kind.startswith("WSM"):
        return rng.uniform(-0.2, 1.5, value.shape)  # a negative weight counts as 0
    return value * 3 if "predict" in name else value


def run_keras(name, size, out, rng):
    net = efficientdet_keras.EfficientDetNet(config=configure(name, size))
    images = rng.normal(size=(2, *size, 3)).astype(np.float32)
    net.build(images.shape)
    for layer in net.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(tf.constant(images), training=True)
    for variable in net.weights:
        variable.assign(shaken(variable.name.split(":")[0], variable.numpy(), rng).astype(np.float32))

    net.save_weights(str(out / "keras" / "model"))
    values = {variable.name.split(":")[0]: variable.numpy() for variable in net.weights}
    (out / "names.txt").write_text("".join(sorted(f"{name} {value.shape}\n" for name, value in values.items())))
    classes, boxes = net(tf.constant(images[:1]), training=False)
    outputs = {f"cls{i}": x.numpy() for i, x in enumerate(classes)} | {
        f"box{i}": x.numpy() for i, x in enumerate(boxes)
    }
    np.savez(out / "io.npz", x=images[:1], **outputs)
    return values


def save_legacy(name, size, out, values, rng):
    with tf.Graph().as_default(), tf1.Session() as session:
        images = tf1.placeholder(tf.float32, (1, *size, 3))
        efficientdet_arch.efficientdet(images, model_name=None, config=configure(name, size))
        variables = tf1.global_variables()
        averages = tf1.train.ExponentialMovingAverage(0.9998)
        averages.apply(variables)
        step = tf1.train.get_or_create_global_step()

        def put(pairs):
            session.run([v.initializer for v, _ in pairs], {v.initializer.inputs[1]: value for v, value in pairs})

        session.run(step.initializer)
        true = [(variable, values[variable.op.name]) for variable in variables]
        put([(averages.average(variable), value) for variable, value in true])
        put([(variable, (value + rng.normal(0, 0.1, value.shape)).astype(np.float32)) for variable, value in true])
        (out / "legacy").mkdir(exist_ok=True)
        tf1.train.Saver().save(session, str(out / "legacy" / "model"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128))
    parser.add_argument("--legacy", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tf.keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    values = run_keras(args.name, args.size, args.out, rng)
    if args.legacy:
        save_legacy(args.name, args.size, args.out, values, rng)


if __name__ == "__main__":
    main()
