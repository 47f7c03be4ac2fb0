// Products of bfloat16, the upper halves of floats, whose sums are floats: two of each lane at once, where the processor
// has them. A pair lies in the place of a float: the first factor in its lower half.

#pragma once

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
inline vec pair_of(vec first, vec second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (vec)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
inline vec first_of(vec pair) { return (vec)((ivec)pair << 16); }
inline vec second_of(vec pair) { return (vec)((ivec)pair & int32_t(0xffff0000)); }
#else
constexpr bool kHasBfloat16 = false;
#endif

}  // namespace
