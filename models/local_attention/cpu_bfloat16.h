// Products of bfloat16, the upper halves of floats, whose sums are floats: two of each lane at once, where the processor
// has them. A pair lies in the place of a float: the first factor in its lower half.

#pragma once

#include <array>

#include "cpu_common.h"

namespace {

struct bfloat16 {
    uint16_t bits;
};

// The same for products of floats, which are their own pairs.
inline void put(float* to, vec x) { store(to, x); }
inline vec all_of(const float* x) { return all(*x); }
template <class Factor>
inline void add_product(vec& sum, vec x, vec w);
template <>
inline void add_product<float>(vec& sum, vec x, vec w) {
    sum += x * w;
}

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;

inline void put(bfloat16* to, vec x) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &rounded, sizeof rounded);
}
template <int... I>
constexpr std::array<int16_t, 2 * kLanes> interleaved(std::integer_sequence<int, I...>) {
    return {int16_t(I / 2 + I % 2 * kLanes)...};
}
// A pair in all lanes: not by arithmetic, to which it may look like a number too small to count.
inline vec all_of(const bfloat16* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return (vec)_mm512_set1_epi32(pair);
}
template <>
inline void add_product<bfloat16>(vec& sum, vec x, vec w) {
    sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
inline __m512i halves_of(vec first, vec second) {  // all of `first`, then all of `second`
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
inline vec pair_of(vec first, vec second) {
    static constexpr auto order = interleaved(std::make_integer_sequence<int, 2 * kLanes>{});
    return (vec)_mm512_permutexvar_epi16(_mm512_loadu_si512(order.data()), halves_of(first, second));
}
// 2^x as `exp2_of` in cpu_common.h, to 8e-5, which rounding (2e-3) hides: of the least relative error for 0 <= f < 1.
inline vec exp2_to_round(vec x) {
    const __m512 least = _mm512_max_ps((__m512)all(-126.f), (__m512)x);  // a NaN of the second stays
    const vec f = (vec)_mm512_reduce_ps(least, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const vec p = polynomial(f, all(7.802452264e-2f), 2.260671554e-1f, 6.958335405e-1f, 9.999252186e-1f);
    return (vec)_mm512_scalef_ps((__m512)p, least);  // which rounds down the exponent itself
}
// Adds both numbers of each pair.
inline void add_both(vec& sum, vec pair) {
    const bfloat16 one{0x3f80}, ones[] = {one, one};
    add_product<bfloat16>(sum, pair, all_of(ones));
}
#else
constexpr bool kHasBfloat16 = false;
#endif

}  // namespace
