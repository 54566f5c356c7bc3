// Kernels of the training step on a CPU: BN, activation, depthwise convolution and focal loss in one pass over memory.
//
// Every map is dense, channels last: (image, row, column, channel); the channels are a multiple of 8. All maps of a call
// hold float32 or all hold bfloat16, as `storage` says; everything else, and every computation, is in float32 or float64.
// z = scale[c]·x + shift[c] is BN as the step applies it. BN's backward pass is dx = a[c]·dz + b[c]·x + k[c].
// Threads share the rows of a map in fixed, equal parts and their sums are added in order, so that a result depends on
// nothing but the input and the number of threads.

#include "batch_norm.h"
#include "depthwise.h"
#include "focal.h"

namespace {

// Call f with the activation as a constant.
template <class F> void with_activation(int act, F f) {
    if (act == SILU) f(std::integral_constant<int, SILU>());
    else if (act == RELU6) f(std::integral_constant<int, RELU6>());
    else f(std::integral_constant<int, IDENTITY>());
}

template <class F> void with_kernel(int size, F f) {
    if (size == 3) f(std::integral_constant<int, 3>());
    else f(std::integral_constant<int, 5>());
}

enum Storage { FLOAT32 = 0, BFLOAT16 = 1 };

// Call f with a number of the type that the maps hold.
template <class F> void with_storage(int64_t storage, F f) {
    if (storage == BFLOAT16) f(bf16());
    else f(float());
}

}  // namespace

extern "C" {

// What BN does in this step, from the moments of its input, and the running statistics after it.
// out: (4, channels) scale, shift, mean, 1/σ.
void bn_prepare(
    const double* moments, int64_t channels, const float* weight, const float* bias, float* running_mean,
    float* running_var, double momentum, double eps, float* out) {
    const double count = moments[2 * channels];
    for (int64_t c = 0; c < channels; c++) {
        const double mean = moments[c], variance = moments[channels + c] / count;
        const double inverse = 1.0 / std::sqrt(variance + eps);
        out[c] = weight[c] * inverse;
        out[channels + c] = bias[c] - mean * weight[c] * inverse;
        out[2 * channels + c] = mean;
        out[3 * channels + c] = inverse;
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_var[c] += momentum * (moments[channels + c] / (count - 1) - running_var[c]);
    }
}

// The backward pass of BN from the sums of dz and dz·(x - mean) over `count` rows; count 0: of frozen statistics.
// prepared: as from bn_prepare; out: (5, channels) a, b, k, gradient of weight, gradient of bias.
void bn_finish(const double* sums, double count, int64_t channels, const float* prepared, float* out) {
    for (int64_t c = 0; c < channels; c++) {
        const double scale = prepared[c], mean = prepared[2 * channels + c], inverse = prepared[3 * channels + c];
        const double b = count ? -scale * inverse * inverse * sums[channels + c] / count : 0.0;
        out[c] = scale;
        out[channels + c] = b;
        out[2 * channels + c] = count ? -scale * sums[c] / count - b * mean : 0.0;
        out[3 * channels + c] = inverse * sums[channels + c];
        out[4 * channels + c] = sums[c];
    }
}

void bn_moments(const void* x, int64_t rows, int64_t channels, double* moments, int64_t storage, int64_t threads) {
    std::vector<Moments> parts(threads, Moments(channels));
    with_storage(storage, [&](auto number) {
        const auto* from = (const decltype(number)*)x;
        over_threads(threads, rows, [&](int64_t begin, int64_t end, int thread) {
            over_blocks(begin, end, rows, channels, [&](int64_t, int64_t row, int64_t count) {
                parts[thread].add(from + row * channels, count);
            });
        });
    });
    write_moments(parts, moments);
}

void act_forward(
    const void* x, int64_t rows, int64_t channels, const float* scale, const float* shift, int64_t act, void* y,
    int64_t storage, int64_t threads) {
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_activation(act, [&](auto ACT) {
            over_threads(threads, rows, [&](int64_t begin, int64_t end, int) {
                const int64_t first = begin * channels;
                act_rows<ACT>((const T*)x + first, end - begin, channels, {scale, shift}, (T*)y + first);
            });
        });
    });
}

void act_pool(
    const void* x, int64_t images, int64_t image_rows, int64_t channels, const float* scale, const float* shift, int64_t act,
    float* pooled, int64_t storage, int64_t threads) {
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_activation(act, [&](auto ACT) {
            pool<ACT>((const T*)x, images, image_rows, channels, {scale, shift}, pooled, threads);
        });
    });
}

void act_reduce(
    const void* dy, const void* x, int64_t images, int64_t image_rows, int64_t channels, const float* extra,
    const float* scale, const float* shift, int64_t act, const float* mean, double* sums, int64_t storage,
    int64_t threads) {
    std::vector<std::vector<double>> parts(threads, std::vector<double>(2 * channels));
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_activation(act, [&](auto ACT) {
            over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int thread) {
                over_blocks(begin, end, image_rows, channels, [&](int64_t image, int64_t row, int64_t rows) {
                    const int64_t first = row * channels;
                    act_reduce_rows<ACT>(
                        (const T*)dy + first, (const T*)x + first, rows, channels,
                        extra ? extra + image * channels : nullptr, {scale, shift}, mean, parts[thread]);
                });
            });
        });
    });
    write_sums(parts, sums);
}

void act_backward(
    const void* dy, const void* x, int64_t images, int64_t image_rows, int64_t channels, const float* extra,
    const float* scale, const float* shift, int64_t act, const float* a, const float* b, const float* k, void* dx,
    int64_t storage, int64_t threads) {
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_activation(act, [&](auto ACT) {
            over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int) {
                over_blocks(begin, end, image_rows, channels, [&](int64_t image, int64_t row, int64_t rows) {
                    const int64_t first = row * channels;
                    act_backward_rows<ACT>(
                        (const T*)dy + first, (const T*)x + first, rows, channels,
                        extra ? extra + image * channels : nullptr, {scale, shift}, {a, b, k, nullptr}, (T*)dx + first);
                });
            });
        });
    });
}

void depthwise_forward(
    const void* x, const float* scale, const float* shift, int64_t act, const float* weight, int64_t kernel,
    const int64_t* sizes, void* y, double* moments, int64_t storage, int64_t threads) {
    const Shape s = read_shape(sizes);
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_kernel(kernel, [&](auto K) {
            with_activation(act, [&](auto ACT) {
                depthwise<K, ACT>((const T*)x, {scale, shift}, weight, s, (T*)y, moments, threads);
            });
        });
    });
}

void depthwise_backward(
    const void* dy, const void* y, const float* extra, const float* out_scale, const float* out_shift, int64_t out_act,
    const float* a, const float* b, const float* k, const void* x, const float* scale, const float* shift, int64_t act,
    const float* mean, const float* weight, int64_t kernel, const int64_t* sizes, void* dz, float* d_weight, double* sums,
    int64_t storage, int64_t threads) {
    const Shape s = read_shape(sizes);
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        with_kernel(kernel, [&](auto K) {
            with_activation(act, [&](auto IN) {
                with_activation(out_act, [&](auto OUT) {
                    depthwise_backward<K, IN, OUT>(
                        (const T*)dy, (const T*)y, {out_scale, out_shift}, {a, b, k, extra}, (const T*)x, {scale, shift},
                        mean, weight, s, (T*)dz, d_weight, sums, threads);
                });
            });
        });
    });
}

// The sum of weight·h(x) over all logits, and weight·h'(x) of each.
void focal_background(
    const void* x, int64_t count, double gamma, double smoothing, double weight, void* gradient, double* total,
    int64_t storage, int64_t threads) {
    with_storage(storage, [&](auto number) {
        using T = decltype(number);
        *total = weight * focal_sum((const T*)x, count, gamma, smoothing, weight, (T*)gradient, threads);
    });
}
}
