// The depthwise convolution between two BNs, forward and backward.

#pragma once

#include "batch_norm.h"

namespace {

struct Shape {
    int64_t images;
    int height, width, channels, stride, top, left, out_height, out_width;
};

Shape read_shape(const int64_t* n) {
    return {n[0], (int)n[1], (int)n[2], (int)n[3], (int)n[4], (int)n[5], (int)n[6], (int)n[7], (int)n[8]};
}

// A row in the cache: 64-byte aligned, its channels in blocks of a vector's width, each block dense over the columns.
struct Row {
    float* data;
    int columns;

    template <class V> float* block(int c) const { return data + (int64_t)c * columns; }
};

// Rows of a map by their number, as many as a kernel is high.
class Ring {
    int slots, columns;
    int64_t size;
    std::vector<float> memory;
    std::vector<int64_t> held;
    float* start;

  public:
    Ring(int slots, int columns, int channels)
        : slots(slots), columns(columns), size(((int64_t)columns * channels + 15) / 16 * 16),
          memory(slots * size + 16), held(slots, -1) {
        start = memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64 / sizeof(float);
    }

    // A row; f fills it if it is not there yet.
    template <class F> Row get(int64_t number, F f) {
        const int slot = (int)(number % slots);
        Row row{start + slot * size, columns};
        if (held[slot] != number) f(row);
        held[slot] = number;
        return row;
    }
};

// One output row, from K padded input rows.
template <int K, class T> void convolve_row(const Row* rows, const float* weight, const Shape& s, T* out) {
    const int C = s.channels;
    over_channels(C, [&](int c, auto tag) {
        using V = decltype(tag);
        constexpr int L = lanes<V>();
        const int step = s.stride * L;
        V w[K * K];
        const float* in[K];
        for (int i = 0; i < K * K; i++) w[i] = load<V>(weight + i * C + c);
        for (int ky = 0; ky < K; ky++) in[ky] = rows[ky].template block<V>(c);
        T* to = out + c;
        int x = 0;
        for (; x + 2 <= s.out_width; x += 2, to += 2 * C) {
            V first = V{}, second = V{};
#pragma GCC unroll 5
            for (int ky = 0; ky < K; ky++) {
                const float* p = in[ky] + x * step;
#pragma GCC unroll 5
                for (int kx = 0; kx < K; kx++) {
                    first += w[ky * K + kx] * load<V>(p + kx * L);
                    second += w[ky * K + kx] * load<V>(p + step + kx * L);
                }
            }
            store<V>(to, first);
            store<V>(to + C, second);
        }
        for (; x < s.out_width; x++, to += C) {
            V sum = V{};
            for (int ky = 0; ky < K; ky++)
                for (int kx = 0; kx < K; kx++) sum += w[ky * K + kx] * load<V>(in[ky] + x * step + kx * L);
            store<V>(to, sum);
        }
    });
}

// y = depthwise(act(bn(x))); a row of the input is activated once, in a ring of K padded rows.
template <int K, int ACT, class T>
void depthwise(const T* x, Affine bn, const float* weight, const Shape& s, T* y, double* moments, int threads) {
    const int C = s.channels;
    std::vector<Moments> parts(threads, Moments(C));
    over_threads(threads, s.images * s.out_height, [&](int64_t begin, int64_t end, int thread) {
        Ring ring(K, s.width + 2 * K, C), nothing(1, s.width + 2 * K, C);
        const int64_t batch = block_rows(C) / s.out_width > 1 ? block_rows(C) / s.out_width : 1;
        int64_t counted = begin;
        for (int64_t number = begin; number < end; number++) {
            const int top = (int)(number % s.out_height) * s.stride - s.top;
            Row rows[K];
            for (int ky = 0; ky < K; ky++) {
                const int64_t source = number / s.out_height * s.height + top + ky;
                if (top + ky < 0 || top + ky >= s.height) {
                    rows[ky] = nothing.get(0, [](Row) {});
                    continue;
                }
                rows[ky] = ring.get(source, [&](Row row) {
                    const T* from = x + source * s.width * C;
                    for (int i = 0; i < s.width; i++, from += C)
                        over_channels(C, [&](int c, auto tag) {
                            using V = decltype(tag);
                            V z = load<V>(from + c) * load<V>(bn.scale + c) + load<V>(bn.shift + c);
                            store<V>(row.block<V>(c) + (s.left + i) * lanes<V>(), activate<ACT, T, V>(z));
                        });
                });
            }
            convolve_row<K>(rows, weight, s, y + number * s.out_width * C);
            if (moments && (number + 1 - counted == batch || number + 1 == end)) {
                parts[thread].add(y + counted * s.out_width * C, (number + 1 - counted) * s.out_width);
                counted = number + 1;
            }
        }
    });
    if (moments) write_moments(parts, moments);
}

// Columns first, first + stride, … of one input row, for those columns of one kernel row that reach them. The
// t-th of these, kernel column kx + t·stride, joins column first + j·stride with output column j + origin - t.
template <int T, class V>
inline void backward_columns(
    const float* in, const float* grad, const float* weight, int C, int stride, int count, float* d_in, float* d_weight) {
    constexpr int L = lanes<V>();
    const int step = stride * L;
    V w[T], partial[T];
    for (int t = 0; t < T; t++) {
        w[t] = load<V>(weight + t * stride * C);
        partial[t] = V{};
    }
    for (int j = 0; j < count; j++) {
        V a = load<V>(in + j * step), sum = load<V>(d_in + j * step);
#pragma GCC unroll 5
        for (int t = 0; t < T; t++) {
            V g = load<V>(grad + (j - t) * L);
            sum += w[t] * g;
            partial[t] += a * g;
        }
        store<V>(d_in + j * step, sum);
    }
    for (int t = 0; t < T; t++) {
        float* to = d_weight + t * stride * C;
        store<V>(to, load<V>(to) + partial[t]);
    }
}

// One channel block of the gradient of an input row, and what it adds to the gradient of the weight. `grads` are the
// rows of the output's gradient that the K kernel rows meet, K columns of padding on both sides, or null.
template <int K, class V>
inline void backward_block(
    const float* in, const Row* grads, const float* weight, const Shape& s, int c, float* d_in, float* d_weight) {
    const int C = s.channels;
    constexpr int L = lanes<V>();
    for (int ky = 0; ky < K; ky++) {
        if (!grads[ky].data) continue;
        for (int first = 0; first < s.stride; first++) {
            const int kx = (first + s.left) % s.stride, origin = (first + s.left - kx) / s.stride;
            const int columns = (K - kx + s.stride - 1) / s.stride;
            const int count = (s.width - first + s.stride - 1) / s.stride;
            const float *a = in + first * L, *g = grads[ky].template block<V>(c) + (origin + K) * L;
            const float* w = weight + (int64_t)(ky * K + kx) * C + c;
            float *da = d_in + first * L, *dw = d_weight + (int64_t)(ky * K + kx) * C + c;
            switch (columns) {
                case 5: backward_columns<5, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 3: backward_columns<3, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 2: backward_columns<2, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 1: backward_columns<1, V>(a, g, w, C, s.stride, count, da, dw); break;
            }
        }
    }
}

// The gradient at the output of the convolution, one row of it.
template <int OUT, class T>
inline void gradient_row(
    const T* dy, const T* y, const float* extra, Affine bn, Backward back, const Shape& s, int margin, Row row) {
    const int C = s.channels;
    for (int i = 0; i < s.out_width; i++, dy += C, y += y ? C : 0)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V g = load<V>(dy + c);
            if (y) {
                V v = load<V>(y + c), slope;
                if (extra) g += load<V>(extra + c);
                activate<OUT, T, V>(v * load<V>(bn.scale + c) + load<V>(bn.shift + c), slope);
                g = load<V>(back.a + c) * (g * slope) + load<V>(back.b + c) * v + load<V>(back.k + c);
            }
            store<V>(row.block<V>(c) + (margin + i) * lanes<V>(), g);
        });
}

// Everything between the gradient dy of act(bn(y)) and the gradient dz of bn(x), y = depthwise(act(bn(x))).
template <int K, int IN, int OUT, class T>
void depthwise_backward(
    const T* dy, const T* y, Affine out_bn, Backward back, const T* x, Affine in_bn, const float* mean,
    const float* weight, const Shape& s, T* dz, float* d_weight, double* sums, int threads) {
    const int C = s.channels;
    const int64_t width = (int64_t)s.width * C;
    std::vector<std::vector<double>> parts(threads, std::vector<double>(2 * C));
    std::vector<std::vector<float>> d_weights(threads, std::vector<float>(K * K * C));
    over_threads(threads, s.images * s.height, [&](int64_t begin, int64_t end, int thread) {
        Ring ring(K, s.out_width + 3 * K, C), buffers(3, s.width, 16);
        float *in = buffers.get(0, [](Row) {}).data, *slope = buffers.get(1, [](Row) {}).data;
        float* d_in = buffers.get(2, [](Row) {}).data;
        for (int64_t number = begin; number < end; number++) {
            const int64_t image = number / s.height;
            Row grads[K];
            for (int ky = 0; ky < K; ky++) {
                const int reach = (int)(number % s.height) + s.top - ky;
                grads[ky] = {nullptr, 0};
                if (reach < 0 || reach % s.stride || reach / s.stride >= s.out_height) continue;
                const int64_t target = image * s.out_height + reach / s.stride, at = target * s.out_width * C;
                grads[ky] = ring.get(target, [&](Row row) {
                    const float* extra = back.extra ? back.extra + image * C : nullptr;
                    gradient_row<OUT>(dy + at, y ? y + at : nullptr, extra, out_bn, back, s, K, row);
                });
            }
            const T* source = x + number * width;
            T* d_source = dz + number * width;
            over_channels(C, [&](int c, auto tag) {
                using V = decltype(tag);
                constexpr int L = lanes<V>();
                const bool normed = in_bn.scale;
                V scale = normed ? load<V>(in_bn.scale + c) : V{}, shift = normed ? load<V>(in_bn.shift + c) : V{};
                for (int i = 0; i < s.width; i++) {
                    V v = load<V>(source + (int64_t)i * C + c), k = fill<V>(1.0f);
                    store<V>(in + i * L, normed ? activate<IN, T, V>(v * scale + shift, k) : v);
                    store<V>(slope + i * L, k);
                    store<V>(d_in + i * L, V{});
                }
                backward_block<K, V>(in, grads, weight, s, c, d_in, d_weights[thread].data());
                V centre = normed ? load<V>(mean + c) : V{}, sum = V{}, product = V{};
                for (int i = 0; i < s.width; i++) {
                    V g = load<V>(d_in + i * L) * load<V>(slope + i * L);
                    store<V>(d_source + (int64_t)i * C + c, g);
                    sum += g;
                    product += g * (load<V>(source + (int64_t)i * C + c) - centre);
                }
                for (int j = 0; j < L; j++) {
                    parts[thread][c + j] += sum[j];
                    parts[thread][C + c + j] += product[j];
                }
            });
        }
    });
    for (int i = 0; i < K * K * C; i++) {
        d_weight[i] = 0;
        for (const auto& part : d_weights) d_weight[i] += part[i];
    }
    write_sums(parts, sums);
}

}  // namespace
