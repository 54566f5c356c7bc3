// BN and activation, forward and backward, and the moments that BN needs.

#pragma once

#include "vectors.h"

namespace {

enum Activation { IDENTITY = 0, SILU = 1, RELU6 = 2 };

template <int ACT, class V> inline V activate(V z) {
    if (ACT == SILU) return z / (1.0f + exponential<V>(-z));
    if (ACT == RELU6) {
        const V zero = V{}, six = fill<V>(6.0f);
        z = z < zero ? zero : z;
        return z > six ? six : z;
    }
    return z;
}

// The activation and its slope.
template <int ACT, class V> inline V activate(V z, V& slope) {
    if (ACT == SILU) {
        V s = 1.0f / (1.0f + exponential<V>(-z));
        V y = z * s;
        slope = s + y * (1.0f - s);
        return y;
    }
    const V zero = V{}, one = fill<V>(1.0f), six = fill<V>(6.0f);
    slope = one;
    if (ACT == RELU6) {
        slope = z > zero ? (z < six ? one : zero) : zero;
        slope = z == z ? slope : z;  // NaN stays NaN
    }
    return activate<ACT, V>(z);
}

// Mean and sum of squared distances from it, of several runs of rows.
struct Moments {
    int channels;
    double count = 0;
    std::vector<double> mean, squares;
    std::vector<float> sums;

    explicit Moments(int channels) : channels(channels), mean(channels), squares(channels), sums(2 * channels) {}

    void merge(double n, int c, double m, double s) {
        double total = count + n, delta = m - mean[c];
        mean[c] += delta * n / total;
        squares[c] += s + delta * delta * count * n / total;
    }

    template <class T> void add(const T* x, int64_t rows) {
        const int C = channels;
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V origin = load<V>(x + c), s = V{}, q = V{};
            for (int64_t r = 0; r < rows; r++) {
                V v = load<V>(x + r * C + c) - origin;
                s += v;
                q += v * v;
            }
            store<V>(&sums[c], s);
            store<V>(&sums[C + c], q);
        });
        for (int c = 0; c < C; c++) {
            double s = sums[c], q = sums[C + c];
            merge(rows, c, widen(x[c]) + s / rows, q - s * s / rows);
        }
        count += rows;
    }

    void add(const Moments& other) {
        if (other.count == 0) return;
        for (int c = 0; c < channels; c++) merge(other.count, c, other.mean[c], other.squares[c]);
        count += other.count;
    }
};

// out is (mean, sum of squared distances, count of rows): what was there is continued.
void write_moments(const std::vector<Moments>& parts, double* out) {
    const int C = parts[0].channels;
    Moments all(C);
    all.count = out[2 * C];
    memcpy(all.mean.data(), out, C * sizeof(double));
    memcpy(all.squares.data(), out + C, C * sizeof(double));
    for (const Moments& part : parts) all.add(part);
    memcpy(out, all.mean.data(), C * sizeof(double));
    memcpy(out + C, all.squares.data(), C * sizeof(double));
    out[2 * C] = all.count;
}

// BN, activation, and the backward pass of both.
struct Affine {
    const float *scale, *shift;
};
struct Backward {
    const float *a, *b, *k;  // dx = a·dz + b·x + k
    const float* extra;      // (image, channel) added to the gradient before the activation, or null
};

template <int ACT, class T> void act_rows(const T* x, int64_t rows, int C, Affine bn, T* y) {
    for (int64_t r = 0; r < rows; r++)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V z = load<V>(x + r * C + c) * load<V>(bn.scale + c) + load<V>(bn.shift + c);
            store<V>(y + r * C + c, activate<ACT, V>(z));
        });
}

template <int ACT, class T>
void act_backward_rows(
    const T* dy, const T* x, int64_t rows, int C, const float* extra, Affine bn, Backward back, T* dx) {
    for (int64_t r = 0; r < rows; r++)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V v = load<V>(x + r * C + c), g = load<V>(dy + r * C + c), slope;
            if (extra) g += load<V>(extra + c);
            activate<ACT, V>(v * load<V>(bn.scale + c) + load<V>(bn.shift + c), slope);
            store<V>(dx + r * C + c, load<V>(back.a + c) * (g * slope) + load<V>(back.b + c) * v + load<V>(back.k + c));
        });
}

// Add Σ dz and Σ dz·(x - mean) to sums, (2, channels).
template <int ACT, class T>
void act_reduce_rows(
    const T* dy, const T* x, int64_t rows, int C, const float* extra, Affine bn, const float* mean,
    std::vector<double>& sums) {
    over_channels(C, [&](int c, auto tag) {
        using V = decltype(tag);
        V scale = load<V>(bn.scale + c), shift = load<V>(bn.shift + c), centre = load<V>(mean + c);
        V more = extra ? load<V>(extra + c) : V{}, s = V{}, q = V{};
        for (int64_t r = 0; r < rows; r++) {
            V v = load<V>(x + r * C + c), slope;
            activate<ACT, V>(v * scale + shift, slope);
            V dz = (load<V>(dy + r * C + c) + more) * slope;
            s += dz;
            q += dz * (v - centre);
        }
        for (size_t i = 0; i < sizeof(V) / sizeof(float); i++) {
            sums[c + i] += s[i];
            sums[C + c + i] += q[i];
        }
    });
}

template <int ACT, class T>
void pool(const T* x, int64_t images, int64_t image_rows, int C, Affine bn, float* pooled, int threads) {
    std::vector<std::vector<double>> parts(threads, std::vector<double>(images * C));
    over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int thread) {
        over_blocks(begin, end, image_rows, C, [&](int64_t image, int64_t row, int64_t rows) {
            double* sums = parts[thread].data() + image * C;
            const T* first = x + row * C;
            over_channels(C, [&](int c, auto tag) {
                using V = decltype(tag);
                V scale = load<V>(bn.scale + c), shift = load<V>(bn.shift + c), s = V{};
                for (int64_t r = 0; r < rows; r++) s += activate<ACT, V>(load<V>(first + r * C + c) * scale + shift);
                for (size_t i = 0; i < sizeof(V) / sizeof(float); i++) sums[c + i] += s[i];
            });
        });
    });
    for (int64_t i = 0; i < images * C; i++) {
        double sum = 0;
        for (const auto& part : parts) sum += part[i];
        pooled[i] = sum / image_rows;
    }
}

}  // namespace
