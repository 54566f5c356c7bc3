// Kernels of the training step on a CPU: BN, activation, depthwise convolution and focal loss in one pass over memory.
//
// Every map is dense, channels last: (image, row, column, channel), float32; the channels are a multiple of 8.
// z = scale[c]·x + shift[c] is BN as the step applies it. BN's backward pass is dx = a[c]·dz + b[c]·x + k[c].
// Threads share the rows of a map in fixed, equal parts and their sums are added in order, so that a result depends on
// nothing but the input and the number of threads.

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

typedef float vf16 __attribute__((vector_size(64)));
typedef float vf8 __attribute__((vector_size(32)));

namespace {

enum Activation { IDENTITY = 0, SILU = 1, RELU6 = 2 };

constexpr int BLOCK = 16384;  // floats that a sum in float32 covers before it goes into a sum in float64

template <class V> inline V load(const float* p) {
    V v;
    memcpy(&v, p, sizeof(V));
    return v;
}
template <class V> inline void store(float* p, V v) { memcpy(p, &v, sizeof(V)); }
template <class V> inline V fill(float x) { return x - V{}; }

// Call f(c, V()) for every run of channels: 16 at a time, then 8.
template <class F> inline void over_channels(int channels, F f) {
    int c = 0;
    for (; c + 16 <= channels; c += 16) f(c, vf16());
    for (; c < channels; c += 8) f(c, vf8());
}

// e^x, relative error below 2e-7; x is cut to where the result is a normal number.
template <class V> inline V exponential(V x) {
    typedef int32_t I __attribute__((vector_size(sizeof(V))));
    const V low = fill<V>(-87.0f), high = fill<V>(88.0f), magic = fill<V>(12582912.0f);  // 1.5·2^23 rounds
    x = x < low ? low : x;
    x = x > high ? high : x;
    V t = x * 1.44269504f + magic;
    V n = t - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V p = fill<V>(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    I exponent = ((I)t - 0x4B400000 + 127) << 23;
    return p * (V)exponent;
}

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

// Call f(begin, end, thread) on every thread with its part of `count`.
template <class F> inline void over_threads(int threads, int64_t count, F f) {
    if (threads > count) threads = count > 0 ? count : 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int thread = omp_get_thread_num(), team = omp_get_num_threads();
        f(count * thread / team, count * (thread + 1) / team, thread);
    }
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

    void add(const float* x, int64_t rows) {
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
            merge(rows, c, x[c] + s / rows, q - s * s / rows);
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

void write_sums(const std::vector<std::vector<double>>& parts, double* out) {
    for (size_t i = 0; i < parts[0].size(); i++) {
        double sum = 0;
        for (const auto& part : parts) sum += part[i];
        out[i] = sum;
    }
}

inline int64_t block_rows(int channels) { return BLOCK / channels > 8 ? BLOCK / channels : 8; }

// log(1 + e) for e in [0, 1], relative error below 3e-7: 2·artanh(e / (2 + e)) by its series.
template <class V> inline V log_one_plus(V e) {
    const V z = e / (2.0f + e), q = z * z;
    V p = fill<V>(1.0f / 15);
    p = p * q + 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    return 2.0f * z * (p * q + 1.0f);
}

// h(x) = p^gamma·c and its slope, with p the sigmoid of x and c = softplus(x) - smoothing/2·x.
template <class V> inline V focal(V x, float gamma, float smoothing, V& slope) {
    const V zero = V{}, negative = x < zero ? x : zero, positive = x < zero ? zero : x;
    const V e = exponential<V>(negative - positive), s = 1.0f / (1.0f + e), l = log_one_plus<V>(e);
    const V p = x < zero ? e * s : s, q = x < zero ? s : e * s;  // q = 1 - p
    const V c = positive + l - (0.5f * smoothing) * x, w = exponential<V>(gamma * (negative - l));
    slope = w * (gamma * q * c + p - 0.5f * smoothing);
    return w * c;
}

// BN, activation, and the backward pass of both.
struct Affine {
    const float *scale, *shift;
};
struct Backward {
    const float *a, *b, *k;  // dx = a·dz + b·x + k
    const float* extra;      // (image, channel) added to the gradient before the activation, or null
};

template <int ACT> void act_rows(const float* x, int64_t rows, int C, Affine bn, float* y) {
    for (int64_t r = 0; r < rows; r++)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V z = load<V>(x + r * C + c) * load<V>(bn.scale + c) + load<V>(bn.shift + c);
            store<V>(y + r * C + c, activate<ACT, V>(z));
        });
}

template <int ACT>
void act_backward_rows(
    const float* dy, const float* x, int64_t rows, int C, const float* extra, Affine bn, Backward back, float* dx) {
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
template <int ACT>
void act_reduce_rows(
    const float* dy, const float* x, int64_t rows, int C, const float* extra, Affine bn, const float* mean,
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

template <class F> void over_blocks(int64_t begin, int64_t end, int64_t image_rows, int C, F f) {
    for (int64_t r = begin; r < end;) {
        int64_t image = r / image_rows, stop = (image + 1) * image_rows;
        if (stop > end) stop = end;
        int64_t rows = stop - r < block_rows(C) ? stop - r : block_rows(C);
        f(image, r, rows);
        r += rows;
    }
}

template <int ACT>
void pool(const float* x, int64_t images, int64_t image_rows, int C, Affine bn, float* pooled, int threads) {
    std::vector<std::vector<double>> parts(threads, std::vector<double>(images * C));
    over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int thread) {
        over_blocks(begin, end, image_rows, C, [&](int64_t image, int64_t row, int64_t rows) {
            double* sums = parts[thread].data() + image * C;
            const float* first = x + row * C;
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

// ---------------------------------------------------------------------------------------- depthwise convolution

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

template <class V> constexpr int lanes() { return sizeof(V) / sizeof(float); }

// One output row, from K padded input rows.
template <int K> void convolve_row(const Row* rows, const float* weight, const Shape& s, float* out) {
    const int C = s.channels;
    over_channels(C, [&](int c, auto tag) {
        using V = decltype(tag);
        constexpr int L = lanes<V>();
        const int step = s.stride * L;
        V w[K * K];
        const float* in[K];
        for (int i = 0; i < K * K; i++) w[i] = load<V>(weight + i * C + c);
        for (int ky = 0; ky < K; ky++) in[ky] = rows[ky].template block<V>(c);
        float* to = out + c;
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
template <int K, int ACT>
void depthwise(const float* x, Affine bn, const float* weight, const Shape& s, float* y, double* moments, int threads) {
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
                    const float* from = x + source * s.width * C;
                    for (int i = 0; i < s.width; i++, from += C)
                        over_channels(C, [&](int c, auto tag) {
                            using V = decltype(tag);
                            V z = load<V>(from + c) * load<V>(bn.scale + c) + load<V>(bn.shift + c);
                            store<V>(row.block<V>(c) + (s.left + i) * lanes<V>(), activate<ACT, V>(z));
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

// Columns first, first + stride, … of one input row, for the taps of one kernel row that reach them: tap t is kernel
// column kx + t·stride and joins column first + j·stride with output column j + origin - t.
template <int T, class V>
inline void backward_taps(
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
            const int taps = (K - kx + s.stride - 1) / s.stride;
            const int count = (s.width - first + s.stride - 1) / s.stride;
            const float *a = in + first * L, *g = grads[ky].template block<V>(c) + (origin + K) * L;
            const float* w = weight + (int64_t)(ky * K + kx) * C + c;
            float *da = d_in + first * L, *dw = d_weight + (int64_t)(ky * K + kx) * C + c;
            switch (taps) {
                case 5: backward_taps<5, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 3: backward_taps<3, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 2: backward_taps<2, V>(a, g, w, C, s.stride, count, da, dw); break;
                case 1: backward_taps<1, V>(a, g, w, C, s.stride, count, da, dw); break;
            }
        }
    }
}

// The gradient at the output of the convolution, one row of it.
template <int OUT>
inline void gradient_row(
    const float* dy, const float* y, const float* extra, Affine bn, Backward back, const Shape& s, int margin, Row row) {
    const int C = s.channels;
    for (int i = 0; i < s.out_width; i++, dy += C, y += y ? C : 0)
        over_channels(C, [&](int c, auto tag) {
            using V = decltype(tag);
            V g = load<V>(dy + c);
            if (y) {
                V v = load<V>(y + c), slope;
                if (extra) g += load<V>(extra + c);
                activate<OUT, V>(v * load<V>(bn.scale + c) + load<V>(bn.shift + c), slope);
                g = load<V>(back.a + c) * (g * slope) + load<V>(back.b + c) * v + load<V>(back.k + c);
            }
            store<V>(row.block<V>(c) + (margin + i) * lanes<V>(), g);
        });
}

// Everything between the gradient dy of act(bn(y)) and the gradient dz of bn(x), y = depthwise(act(bn(x))).
template <int K, int IN, int OUT>
void depthwise_backward(
    const float* dy, const float* y, Affine out_bn, Backward back, const float* x, Affine in_bn, const float* mean,
    const float* weight, const Shape& s, float* dz, float* d_weight, double* sums, int threads) {
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
            const float* source = x + number * width;
            float* d_source = dz + number * width;
            over_channels(C, [&](int c, auto tag) {
                using V = decltype(tag);
                constexpr int L = lanes<V>();
                const bool normed = in_bn.scale;
                V scale = normed ? load<V>(in_bn.scale + c) : V{}, shift = normed ? load<V>(in_bn.shift + c) : V{};
                for (int i = 0; i < s.width; i++) {
                    V v = load<V>(source + (int64_t)i * C + c), k = fill<V>(1.0f);
                    store<V>(in + i * L, normed ? activate<IN, V>(v * scale + shift, k) : v);
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

void bn_moments(const float* x, int64_t rows, int64_t channels, double* moments, int64_t threads) {
    std::vector<Moments> parts(threads, Moments(channels));
    over_threads(threads, rows, [&](int64_t begin, int64_t end, int thread) {
        over_blocks(begin, end, rows, channels, [&](int64_t, int64_t row, int64_t count) {
            parts[thread].add(x + row * channels, count);
        });
    });
    write_moments(parts, moments);
}

void act_forward(
    const float* x, int64_t rows, int64_t channels, const float* scale, const float* shift, int64_t act, float* y, int64_t threads) {
    with_activation(act, [&](auto ACT) {
        over_threads(threads, rows, [&](int64_t begin, int64_t end, int) {
            act_rows<ACT>(x + begin * channels, end - begin, channels, {scale, shift}, y + begin * channels);
        });
    });
}

void act_pool(
    const float* x, int64_t images, int64_t image_rows, int64_t channels, const float* scale, const float* shift, int64_t act,
    float* pooled, int64_t threads) {
    with_activation(act, [&](auto ACT) { pool<ACT>(x, images, image_rows, channels, {scale, shift}, pooled, threads); });
}

void act_reduce(
    const float* dy, const float* x, int64_t images, int64_t image_rows, int64_t channels, const float* extra,
    const float* scale, const float* shift, int64_t act, const float* mean, double* sums, int64_t threads) {
    std::vector<std::vector<double>> parts(threads, std::vector<double>(2 * channels));
    with_activation(act, [&](auto ACT) {
        over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int thread) {
            over_blocks(begin, end, image_rows, channels, [&](int64_t image, int64_t row, int64_t rows) {
                act_reduce_rows<ACT>(
                    dy + row * channels, x + row * channels, rows, channels,
                    extra ? extra + image * channels : nullptr, {scale, shift}, mean, parts[thread]);
            });
        });
    });
    write_sums(parts, sums);
}

void act_backward(
    const float* dy, const float* x, int64_t images, int64_t image_rows, int64_t channels, const float* extra,
    const float* scale, const float* shift, int64_t act, const float* a, const float* b, const float* k, float* dx,
    int64_t threads) {
    with_activation(act, [&](auto ACT) {
        over_threads(threads, images * image_rows, [&](int64_t begin, int64_t end, int) {
            over_blocks(begin, end, image_rows, channels, [&](int64_t image, int64_t row, int64_t rows) {
                act_backward_rows<ACT>(
                    dy + row * channels, x + row * channels, rows, channels,
                    extra ? extra + image * channels : nullptr, {scale, shift}, {a, b, k, nullptr}, dx + row * channels);
            });
        });
    });
}

void depthwise_forward(
    const float* x, const float* scale, const float* shift, int64_t act, const float* weight, int64_t kernel,
    const int64_t* sizes, float* y, double* moments, int64_t threads) {
    const Shape s = read_shape(sizes);
    with_kernel(kernel, [&](auto K) {
        with_activation(act, [&](auto ACT) {
            depthwise<K, ACT>(x, {scale, shift}, weight, s, y, moments, threads);
        });
    });
}

void depthwise_backward(
    const float* dy, const float* y, const float* extra, const float* out_scale, const float* out_shift, int64_t out_act,
    const float* a, const float* b, const float* k, const float* x, const float* scale, const float* shift, int64_t act,
    const float* mean, const float* weight, int64_t kernel, const int64_t* sizes, float* dz, float* d_weight, double* sums,
    int64_t threads) {
    const Shape s = read_shape(sizes);
    with_kernel(kernel, [&](auto K) {
        with_activation(act, [&](auto IN) {
            with_activation(out_act, [&](auto OUT) {
                depthwise_backward<K, IN, OUT>(
                    dy, y, {out_scale, out_shift}, {a, b, k, extra}, x, {scale, shift}, mean, weight, s, dz, d_weight,
                    sums, threads);
            });
        });
    });
}

// The sum of weight·h(x) over all logits, and weight·h'(x) of each.
void focal_background(
    const float* x, int64_t count, double gamma, double smoothing, double weight, float* gradient, double* total,
    int64_t threads) {
    constexpr int L = lanes<vf16>();
    std::vector<double> parts(threads);
    auto term = [=](vf16 v, vf16& slope) {
        vf16 value = focal<vf16>(v, (float)gamma, (float)smoothing, slope);
        slope = slope * (float)weight;
        return value;
    };
    over_threads(threads, count / L, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t first = begin; first < end; first += BLOCK / L) {
            const int64_t last = first + BLOCK / L < end ? first + BLOCK / L : end;
            vf16 sum = vf16{}, slope;
            for (int64_t i = first; i < last; i++) {
                sum += term(load<vf16>(x + i * L), slope);
                store<vf16>(gradient + i * L, slope);
            }
            for (int j = 0; j < L; j++) parts[thread] += sum[j];
        }
    });
    const int64_t done = count / L * L;
    vf16 v = vf16{}, slope;
    memcpy(&v, x + done, (count - done) * sizeof(float));
    const vf16 value = term(v, slope);
    memcpy(gradient + done, &slope, (count - done) * sizeof(float));
    for (int j = 0; j < count - done; j++) parts[0] += value[j];
    *total = 0;
    for (double part : parts) *total += weight * part;
}
}
