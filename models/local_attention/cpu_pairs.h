// The forward's products of weights and values, in pairs of bfloat16: neighboring columns are added up at once.
//
// A row of values has pairs of columns, the first of an even number. A query's window takes part in one pair more than
// half of its columns: one neighbor of it is paired with a column outside, whose weight is zero.

#pragma once

#include "cpu_bfloat16.h"

#if defined(__AVX512BF16__)

namespace {

struct Pairs {
    long count, columns;  // of a window; of a row of the frame
    explicit Pairs(const Shape& s) : count(s.rx + 1), columns((s.w + 1) / 2) {}
    size_t floats(const Shape& s) const { return size_t(s.B) * s.T * s.h * columns * s.Dp; }
    // Of a query's window, counted from the frame's first column; rounded down, as columns may be below zero.
    static long first(const Shape& s, long x) { return (x - s.rx) >> 1; }
};

// B T (block) h w (channels of the block) -> B T (block) h (w / 2) (channels of the block) 2.
bool pack_pairs(const Shape& s, const float* from, float* to, long threads, GompParallel gomp) {
    const Pairs pairs(s);
    return parallel(s.B * s.T * s.h, threads, gomp, no_scratch, [&](long i, None&) {
        const long y = i % s.h, bt = i / s.h;
        for (long block = 0; block < s.blocks; block++) {
            const long width = s.width(block), channels = bt * s.Dp + block * kBlock;
            const float* source = from + channels * s.h * s.w + y * s.w * width;
            float* at = to + (channels * s.h + y * width) * pairs.columns;
            for (long x = 0; x < s.w; x += 2, source += 2 * width, at += width)
                for (long d = 0; d < width; d += kLanes)
                    store(at + d, pair_of(load(source + d), x + 1 < s.w ? load(source + width + d) : vec{}));
        }
    });
}

// Scores of a key row -> pairs of weights, whose sum is counted: what is rounded is divided by the sum of what is rounded.
inline void pair_weights(const Shape& s, const float* scores, Reach reach, float* pairs, const vec* top, vec* sums) {
    const long stride = s.nx * kLanes, pair_stride = Pairs(s).count * kLanes;
    // Of the halves of the two weights before (from 0 on) and of the two here (from 2 kLanes on), for each lane: the two
    // here, or where a window starts in the midst of a pair, the later one before and the first here.
    std::array<int16_t, 2 * kLanes> order;
    for (int l = 0; l < kLanes; l++) {
        const bool starts_odd = (l ^ s.rx) & 1;
        order[2 * l] = int16_t(l + (starts_odd ? kLanes : 2 * kLanes));
        order[2 * l + 1] = int16_t(l + (starts_odd ? 2 * kLanes : 3 * kLanes));
    }
    const __m512i chosen = _mm512_loadu_si512(order.data());
    for (long r = reach.from; r < reach.to; r++) {
        const float* p = scores + r * stride;
        float* to = pairs + r * pair_stride;
        __m512i before{};
        vec sum{};
        for (long j = 0; j < s.nx; j += 2, p += 2 * kLanes, to += kLanes) {
            const vec first = exp2_to_round(load(p) - top[r]);
            const vec second = j + 1 < s.nx ? exp2_to_round(load(p + kLanes) - top[r]) : vec{};
            const __m512i here = halves_of(first, second);
            const vec pair = (vec)_mm512_permutex2var_epi16(before, chosen, here);
            store(to, pair);
            add_both(sum, pair);
            before = here;
        }
        sums[r] += sum;
    }
}

constexpr long kTogetherRows = 3;  // key rows whose values are added up before sums are stored: these fit the first cache

struct KeyRows {
    long count, weights, values;  // distances, in floats, from one to the next
};

// acc[row][x][block] += sum over pairs i of p[row][i][x] * v[i][block], for RR rows, DD vectors of channels, and over rows
// of keys.
template <int RR, int DD>
inline void read_pairs_block(float* acc, const float* p, long row_stride, const float* v, KeyRows keys, long from, long to) {
    constexpr long width = DD * kLanes;
    vec sum[RR][DD];
    load_sums(sum, acc);
    for (long key = 0; key < keys.count; key++, p += keys.weights, v += keys.values)
        for (long i = from; i < to; i++) {
            vec value[DD];
#pragma GCC unroll 8
            for (int d = 0; d < DD; d++) value[d] = held(v + i * width + d * kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < RR; r++) {
                const vec weight = all_of(reinterpret_cast<const bfloat16*>(p + r * row_stride + i * kLanes));
#pragma GCC unroll 8
                for (int d = 0; d < DD; d++) add_product<bfloat16>(sum[r][d], weight, value[d]);
            }
        }
    store_sums(acc, sum);
}

struct ReadPairs {
    using Function = void (*)(float*, const float*, long, const float*, const Shape&, long, long, KeyRows);
    template <int RR, int DD>
    static void call(float* acc, const float* p, long row_stride, const float* v, const Shape& s, long x0, long count,
                     KeyRows keys) {
        const Pairs pairs(s);
        for (long x = 0; x < count; x++) {
            const long first = Pairs::first(s, x0 + x);
            const long from = std::max(0L, -first), to = std::min(pairs.count, pairs.columns - first);
            read_pairs_block<RR, DD>(acc + x * kBlock, p + x, row_stride, v + first * DD * kLanes, keys, from, to);
        }
    }
};

// As `read` in cpu_common.h, of pairs.
void read_pairs(const Shape& s, float* acc, const float* weights, const float* values, long y0, long x0, long count,
                long from, long to) {
    const Pairs pairs(s);
    const long stride = pairs.count * kLanes;
    for (long group = 0; group < s.blocks; group += kTogether)
        for (long key = from, until; key < to; key = until) {
            const Reach reach(s, y0, key);
            for (until = key + 1; until < std::min(to, key + kTogetherRows); until++) {
                const Reach next(s, y0, until);
                if (next.from != reach.from || next.to != reach.to) break;
            }
            const float* p = weights + ((key - from) * kRows + reach.from) * stride;
            for (long block = group; block < std::min(s.blocks, group + kTogether); block++) {
                const long width = s.width(block), row = pairs.columns * width;
                const float* v = values + block * kBlock * s.h * pairs.columns + key * row;
                for (long next = until; next < std::min(to, until + kTogetherRows); next++)
                    fetch(v + (next - key) * row + std::max(0L, Pairs::first(s, x0)) * width,
                          v + (next - key) * row + std::min(pairs.columns, Pairs::first(s, x0 + kLanes) + pairs.count) * width);
                row_function<ReadPairs>(reach.to - reach.from, width)(
                    acc + (block * kRows + reach.from) * kLanes * kBlock, p, stride, v, s, x0, count,
                    {until - key, kRows * stride, row});
            }
        }
}

}  // namespace

#endif
