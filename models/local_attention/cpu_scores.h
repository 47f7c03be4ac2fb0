// Scores of a tile's queries and the keys of their windows. Channels lie each in the place of a float, or two in bfloat16 in
// one.

#pragma once

#include "cpu_bfloat16.h"

namespace {

template <class Factor>
constexpr long kTogetherChannels = sizeof(float) / sizeof(Factor);

// Places of so many channels, each of a float.
template <class Factor>
long places_of(long channels) {
    return (channels + kTogetherChannels<Factor> - 1) / kTogetherChannels<Factor>;
}

inline long places_of(long channels, bool in_bfloat16) {
    return in_bfloat16 ? places_of<bfloat16>(channels) : places_of<float>(channels);
}

// What lies at a place, of kLanes pixels: at(c) are those of a channel.
template <class Factor, class At>
inline vec factors_at(long place, [[maybe_unused]] long channels, const At& at) {
    const long c = place * kTogetherChannels<Factor>;
#if defined(__AVX512BF16__)
    if constexpr (kTogetherChannels<Factor> == 2) return pair_of(at(c), c + 1 < channels ? at(c + 1) : vec{});
#endif
    return at(c);
}

// B C T h w -> B T h (places of C) plane, with rx zeros on the left and zeros up to the end.
template <class Factor>
bool pack_planes(const Shape& s, long C, const float* from, float* to, long threads, GompParallel gomp) {
    const long places = places_of<Factor>(C);
    return parallel(s.B * s.T * s.h, threads, gomp, no_scratch, [&](long i, None&) {
        const long y = i % s.h, t = i / s.h % s.T, b = i / s.h / s.T;
        for (long place = 0; place < places; place++) {
            float* row = to + (i * places + place) * s.plane;
            std::memset(row, 0, s.rx * 4);
            for (long x = 0; x < s.w; x += kLanes) {
                const long valid = std::min<long>(kLanes, s.w - x);
                const float* channels = from + ((b * C * s.T + t) * s.h + y) * s.w + x;
                const auto channel = [&](long c) { return load_part(channels + c * s.T * s.h * s.w, valid); };
                store_part(row + s.rx + x, factors_at<Factor>(place, C, channel), valid);
            }
            std::memset(row + s.rx + s.w, 0, (s.plane - s.rx - s.w) * 4);
        }
    });
}

// A tile of planes `channel` floats apart as [place of channels][row][lane]; zeros where the tile leaves the frame.
template <class Factor>
void pack_tile(const Shape& s, const float* x, long channels, long channel, long y0, long x0, float scale, float* to) {
    const long rows = std::min<long>(kRows, s.h - y0), valid = std::min<long>(kLanes, s.w - x0);
    for (long place = 0; place < places_of<Factor>(channels); place++)
        for (long r = 0; r < kRows; r++, to += kLanes) {
            const float* row = x + (y0 + r) * s.w + x0;
            const auto scaled = [&](long c) { return load_part(row + c * channel, valid) * scale; };
            store(to, r < rows ? factors_at<Factor>(place, channels, scaled) : vec{});
        }
}

// s[row][j][lane] (+)= sum over places c of q[c][row][lane] * k[c][j + lane], for RR rows and J offsets.
template <class Factor, int RR, int J>
inline void scores_block(const float* q, const float* k, long plane, long C, float* s, long row_stride, bool add) {
    vec sum[RR][J];
#pragma GCC unroll 8
    for (int r = 0; r < RR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < J; j++) sum[r][j] = add ? load(s + r * row_stride + j * kLanes) : vec{};
    for (long c = 0; c < C; c++, q += kRows * kLanes, k += plane) {
        vec key[J];
#pragma GCC unroll 8
        for (int j = 0; j < J; j++) key[j] = held(k + j);
#pragma GCC unroll 8
        for (int r = 0; r < RR; r++) {
            const vec query = held(q + r * kLanes);
#pragma GCC unroll 8
            for (int j = 0; j < J; j++) add_product<Factor>(sum[r][j], query, key[j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < RR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < J; j++) store(s + r * row_stride + j * kLanes, sum[r][j]);
}

template <class Factor, int RR, int J>
inline void scores_rest(const float* q, const float* k, long plane, long C, float* s, long stride, bool add, long nx) {
    if constexpr (J > 0) {
        if (nx == J) scores_block<Factor, RR, J>(q, k, plane, C, s, stride, add);
        else scores_rest<Factor, RR, J - 1>(q, k, plane, C, s, stride, add, nx);
    }
}

template <class Factor, int RR>
void scores_rows(const float* q, const float* k, long plane, long C, float* s, long stride, bool add, long nx) {
    for (; nx >= kOffsets; nx -= kOffsets, k += kOffsets, s += kOffsets * kLanes)
        scores_block<Factor, RR, kOffsets>(q, k, plane, C, s, stride, add);
    scores_rest<Factor, RR, kOffsets - 1>(q, k, plane, C, s, stride, add, nx);
}

using ScoresRows = void (*)(const float*, const float*, long, long, float*, long, bool, long);
template <class Factor, int... R>
ScoresRows scores_rows_for(long rows, std::integer_sequence<int, R...>) {
    static constexpr ScoresRows functions[] = {scores_rows<Factor, R + 1>...};
    return functions[rows - 1];
}
template <class Factor>
ScoresRows scores_rows_for(long rows) {
    return scores_rows_for<Factor>(rows, std::make_integer_sequence<int, kRows>{});
}
inline ScoresRows scores_rows_for(long rows, [[maybe_unused]] bool in_bfloat16) {
#if defined(__AVX512BF16__)
    if (in_bfloat16) return scores_rows_for<bfloat16>(rows);
#endif
    return scores_rows_for<float>(rows);
}

// The next row of many channels: pieces of a few cache lines each, too short for the processor to foresee.
inline void fetch_planes(const float* plane, long channels, const Shape& s) {
    for (long c = 0; c < channels; c++, plane += s.plane)
        for (long x = 0; x < s.nx + kLanes; x += 16) __builtin_prefetch(plane + x);
}

}  // namespace
