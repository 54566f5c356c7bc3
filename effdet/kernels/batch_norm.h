// BN and activation, forward and backward, and the moments that BN needs.

#pragma once

#include "vectors.h"

namespace {

enum Activation { IDENTITY = 0, SILU = 1, RELU6 = 2 };

// Of a map that holds numbers of type T.
template <int ACT, class T, class V> inline V activate(V z) {
    if (ACT == SILU) return Math<T>::divide(z, 1.0f + Math<T>::exp(-z));
    if (ACT == RELU6) {
        const V zero = V{}, six = fill<V>(6.0f);
        z = z < zero ? zero : z;
        return z > six ? six : z;
    }
    return z;
}

// The activation and its slope.
template <int ACT, class T, class V> inline V activate(V z, V& slope) {
    if (ACT == SILU) {
        V s = Math<T>::divide(fill<V>(1.0f), 1.0f + Math<T>::exp(-z));
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
    return activate<ACT, T, V>(z);
}

// Two sums over rows for each channel, in float32: (2, channels). f(c, first, last, s, q) adds to those of a vector of
// channels what some rows contribute. These are few, so that the L1 cache holds them until all channels are read.
template <class F> void sum_rows(int64_t rows, int C, float* sums, F f) {
    const int64_t step = 4096 / C > 1 ? 4096 / C : 1;
    memset(sums, 0, 2 * C * sizeof(float));
    for (int64_t first = 0; first < rows; first += step)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V s = load<V>(sums + c), q = load<V>(sums + C + c);
            f(c, first, first + step < rows ? first + step : rows, s, q);
            store<V>(sums + c, s);
            store<V>(sums + C + c, q);
        });
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
        sum_rows(rows, C, sums.data(), [&](int c, int64_t first, int64_t last, auto& s, auto& q) {
            using V = std::decay_t<decltype(s)>;
            V origin = load<V>(x + c);
            for (int64_t r = first; r < last; r++) {
                V v = load<V>(x + r * C + c) - origin;
                s += v;
                q += v * v;
            }
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
            store<V>(y + r * C + c, activate<ACT, T, V>(z));
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
            activate<ACT, T, V>(v * load<V>(bn.scale + c) + load<V>(bn.shift + c), slope);
            store<V>(dx + r * C + c, load<V>(back.a + c) * (g * slope) + load<V>(back.b + c) * v + load<V>(back.k + c));
        });
}

// Add Σ dz and Σ dz·(x - mean) to sums, (2, channels).
template <int ACT, class T>
void act_reduce_rows(
    const T* dy, const T* x, int64_t rows, int C, const float* extra, Affine bn, const float* mean,
    std::vector<double>& sums) {
    std::vector<float> part(2 * C);
    sum_rows(rows, C, part.data(), [&](int c, int64_t first, int64_t last, auto& s, auto& q) {
        using V = std::decay_t<decltype(s)>;
        V scale = load<V>(bn.scale + c), shift = load<V>(bn.shift + c), centre = load<V>(mean + c);
        V more = extra ? load<V>(extra + c) : V{};
        for (int64_t r = first; r < last; r++) {
            V v = load<V>(x + r * C + c), slope;
            activate<ACT, T, V>(v * scale + shift, slope);
            V dz = (load<V>(dy + r * C + c) + more) * slope;
            s += dz;
            q += dz * (v - centre);
        }
    });
    for (int i = 0; i < 2 * C; i++) sums[i] += part[i];
}

template <int ACT, class T>
void pool(const T* x, int64_t images, int64_t image_rows, int C, Affine bn, float* pooled, int threads) {
    std::vector<std::vector<double>> parts(threads, std::vector<double>(images * C));
    over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int thread) {
        std::vector<float> part(2 * C);
        over_blocks(begin, end, image_rows, C, [&](int64_t image, int64_t row, int64_t rows) {
            double* sums = parts[thread].data() + image * C;
            const T* from = x + row * C;
            sum_rows(rows, C, part.data(), [&](int c, int64_t first, int64_t last, auto& s, auto&) {
                using V = std::decay_t<decltype(s)>;
                V scale = load<V>(bn.scale + c), shift = load<V>(bn.shift + c);
                for (int64_t r = first; r < last; r++)
                    s += activate<ACT, T, V>(load<V>(from + r * C + c) * scale + shift);
            });
            for (int c = 0; c < C; c++) sums[c] += part[c];
        });
    });
    for (int64_t i = 0; i < images * C; i++) {
        double sum = 0;
        for (const auto& part : parts) sum += part[i];
        pooled[i] = sum / image_rows;
    }
}

}  // namespace
