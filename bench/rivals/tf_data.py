"""tf.data: decode_and_crop_jpeg (fused), AUTOTUNE everywhere, unordered, private pool of as many threads as cores."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
from loop import MEAN, STD, count, files, run


def picture(args):
    mean, std = tf.constant(MEAN) * 255, tf.constant(STD) * 255
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def of(path):
        data = tf.io.read_file(path)
        if args.work == "D":
            image = tf.io.decode_png(data, channels=3)
            return tf.transpose((tf.cast(image, tf.float32) - mean) / std, [2, 0, 1])
        shape = tf.image.extract_jpeg_shape(data)
        if args.train:
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                shape, whole, min_object_covered=0.0, aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0), max_attempts=10
            )
            box = tf.stack([begin[0], begin[1], size[0], size[1]])
        else:
            side = tf.minimum(shape[0], shape[1]) * 224 // 256
            box = tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])
        image = tf.image.decode_and_crop_jpeg(data, box, channels=3)
        image = tf.image.resize(image, [224, 224], antialias=True)
        if args.train:
            image = tf.image.random_flip_left_right(image)
        return tf.ensure_shape(tf.transpose((image - mean) / std, [2, 0, 1]), [3, 224, 224])

    return of


def build(args):
    options = tf.data.Options()
    options.threading.private_threadpool_size = args.workers
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False
    samples = count(args)
    if args.data.endswith(".npy"):
        array = np.load(args.data, mmap_mode="r")

        def rows(indices):
            return array[indices]

        data = tf.data.Dataset.range(samples).shuffle(samples).batch(args.batch_size)
        kind = tf.TensorSpec([None, *array.shape[1:]], tf.float32)
        data = data.map(lambda i: tf.ensure_shape(tf.numpy_function(rows, [i], tf.float32), kind.shape), tf.data.AUTOTUNE)
    else:
        data = tf.data.Dataset.from_tensor_slices([path for path, _ in files(args)]).shuffle(samples)
        data = data.map(picture(args), tf.data.AUTOTUNE).batch(args.batch_size)
    data = data.prefetch(tf.data.AUTOTUNE).with_options(options)
    return lambda: data.as_numpy_iterator()


if __name__ == "__main__":
    run(build)
