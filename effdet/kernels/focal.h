// The focal loss of background logits.

#pragma once

#include "vectors.h"

namespace {

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

// The sum of h(x) over `count` logits; weight·h'(x) of each goes to `gradient`.
template <class T>
double focal_sum(const T* x, int64_t count, float gamma, float smoothing, float weight, T* gradient, int threads) {
    constexpr int L = lanes<Widest>();
    std::vector<double> parts(threads);
    auto term = [=](const T* from, T* to) {
        Widest slope;
        const Widest value = focal<Widest>(load<Widest>(from), gamma, smoothing, slope);
        store<Widest>(to, slope * weight);
        return value;
    };
    over_threads(threads, count / L, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t first = begin; first < end; first += BLOCK / L) {
            const int64_t last = first + BLOCK / L < end ? first + BLOCK / L : end;
            Widest sum = Widest{};
            for (int64_t i = first; i < last; i++) sum += term(x + i * L, gradient + i * L);
            for (int j = 0; j < L; j++) parts[thread] += sum[j];
        }
    });
    const int64_t done = count / L * L;
    T rest[L] = {}, slopes[L];
    memcpy(rest, x + done, (count - done) * sizeof(T));
    const Widest values = term(rest, slopes);
    memcpy(gradient + done, slopes, (count - done) * sizeof(T));
    double sum = 0;
    for (int j = 0; j < count - done; j++) sum += values[j];
    for (double part : parts) sum += part;
    return sum;
}

}  // namespace
