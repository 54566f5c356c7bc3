// Vectors of floats, the numbers that maps hold in memory, and how threads share the rows of a map.

#pragma once

#include <omp.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

typedef float vf16 __attribute__((vector_size(64)));
typedef float vf8 __attribute__((vector_size(32)));
typedef float vf4 __attribute__((vector_size(16)));

// What a register holds. GCC keeps wider vectors in memory: on AVX2 a training step then takes 1.6 to 1.8 times as long.
#if defined(__AVX512F__)
typedef vf16 Widest;
#elif defined(__AVX__)
typedef vf8 Widest;
#else
typedef vf4 Widest;
#endif

// bfloat16: the upper half of a float32. Maps may hold it; every computation is in float32.
struct bf16 {
    uint16_t bits;
};

namespace {

constexpr int BLOCK = 16384;  // floats that a sum in float32 covers before it goes into a sum in float64

template <class V> inline V load(const float* p) {
    V v;
    memcpy(&v, p, sizeof(V));
    return v;
}
template <class V> inline void store(float* p, V v) { memcpy(p, &v, sizeof(V)); }
template <class V> inline V fill(float x) { return x - V{}; }

template <class V> constexpr int lanes() { return sizeof(V) / sizeof(float); }

template <class V> struct Bits {
    typedef uint32_t wide __attribute__((vector_size(sizeof(V))));
    typedef uint16_t half __attribute__((vector_size(sizeof(V) / 2)));
};

template <class V> inline V load(const bf16* p) {
    typename Bits<V>::half bits;
    memcpy(&bits, p, sizeof(bits));
    return (V)(__builtin_convertvector(bits, typename Bits<V>::wide) << 16);
}

// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
template <class V> inline void store(bf16* p, V v) {
    typedef typename Bits<V>::wide I;
    const I bits = (I)v;
    const I rounded = v == v ? bits + 0x7FFF + (bits >> 16 & 1) : bits | 0x400000;
    const auto half = __builtin_convertvector(rounded >> 16, typename Bits<V>::half);
    memcpy(p, &half, sizeof(half));
}
// One instruction each, for which the compiler finds several.
#ifdef __AVX2__
template <> inline vf8 load<vf8>(const bf16* p) {
    return (vf8)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
#endif
#ifdef __AVX512F__
template <> inline vf16 load<vf16>(const bf16* p) {
    return (vf16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
#endif
#ifdef __AVX512BF16__
template <> inline void store(bf16* p, vf16 v) {
    const auto half = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &half, sizeof(half));
}
#endif

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float result;
    memcpy(&result, &bits, sizeof(result));
    return result;
}

// Call f(c, V()) for every run of channels, of which there are a multiple of 8, with the widest vectors that fit.
template <class F> inline void over_channels(int channels, F f) {
    constexpr int L = lanes<Widest>();
    int c = 0;
    for (; c + L <= channels; c += L) f(c, Widest());
    if constexpr (L > 8)
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

template <class V> inline V reciprocal(V x) { return 1.0f / x; }
#ifdef __AVX512F__
template <> inline vf16 reciprocal(vf16 x) { return (vf16)_mm512_rcp14_ps((__m512)x); }  // relative error below 7e-5
#endif

// e^x and quotients, as exact as maps of T deserve: bfloat16 rounds by up to 2e-3 of a number.
template <class T> struct Math {
    template <class V> static V exp(V x) { return exponential<V>(x); }
    template <class V> static V divide(V a, V b) { return a / b; }
};

template <> struct Math<bf16> {
    // Relative error below 2e-4.
    template <class V> static V exp(V x) {
        typedef int32_t I __attribute__((vector_size(sizeof(V))));
        const V low = fill<V>(-126.0f), high = fill<V>(126.0f), magic = fill<V>(12582912.0f);  // 1.5·2^23 rounds
        V t = x * 1.44269504f;
        t = t < low ? low : t;
        t = t > high ? high : t;
        const V n = t + magic, f = t - (n - magic);
        const V power = ((f * 0.05583828f + 0.24263948f) * f + 0.69313673f) * f + 0.99992456f;  // 2^f
        return (V)((I)power + ((I)n << 23));
    }

    template <class V> static V divide(V a, V b) { return a * reciprocal<V>(b); }
};

// Call f(begin, end, thread) on every thread with its part of `count`.
template <class F> inline void over_threads(int threads, int64_t count, F f) {
    if (threads > count) threads = count > 0 ? count : 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int thread = omp_get_thread_num(), team = omp_get_num_threads();
        f(count * thread / team, count * (thread + 1) / team, thread);
    }
}

inline int64_t block_rows(int channels) { return BLOCK / channels > 8 ? BLOCK / channels : 8; }

// Call f(image, first row, rows) for blocks of rows between begin and end, none of which has rows of two images.
template <class F> void over_blocks(int64_t begin, int64_t end, int64_t image_rows, int C, F f) {
    for (int64_t r = begin; r < end;) {
        int64_t image = r / image_rows, stop = (image + 1) * image_rows;
        if (stop > end) stop = end;
        int64_t rows = stop - r < block_rows(C) ? stop - r : block_rows(C);
        f(image, r, rows);
        r += rows;
    }
}

void write_sums(const std::vector<std::vector<double>>& parts, double* out) {
    for (size_t i = 0; i < parts[0].size(); i++) {
        double sum = 0;
        for (const auto& part : parts) sum += part[i];
        out[i] = sum;
    }
}

}  // namespace
