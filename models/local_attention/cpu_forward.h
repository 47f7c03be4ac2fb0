// out = softmax over the window of (query . key) applied to the values; see cpu_common.h for tiles and layouts.

#pragma once

#include "cpu_pairs.h"
#include "cpu_scores.h"

namespace {

struct ForwardScratch {
    long keys;  // key rows done at once
    Floats q, weights, acc, pairs;
    vec top[kRows], sum[kRows], scale[kRows];  // running maximum, sum of weights, what the sums still have to be scaled by
    ForwardScratch(const Shape& s, bool in_bfloat16)
        : keys(std::max(1L, std::min(2 * s.ry + kRows, kWeightFloats / (kRows * s.nx * kLanes)))),
          q(s.C * kRows * kLanes), weights(keys * kRows * s.nx * kLanes), acc(s.blocks * kRows * kLanes * kBlock),
          pairs(in_bfloat16 ? keys * kRows * (s.rx + 1) * kLanes : 0) {}
};

// The running maximum follows the scores of key row i of a chunk lazily: it is lifted only where they are far above it, so
// that the usual row does not have the sums so far rescaled. Returns whether it was.
bool follow(ForwardScratch& f, const Shape& s, long i, Reach reach) {
    vec high[kRows];
    ivec passed{};
    for (long r = reach.from; r < reach.to; r++) {
        const float* p = f.weights.data + (i * kRows + r) * s.nx * kLanes;
        high[r] = all(-1e30f);
        for (long j = 0; j < s.nx; j++) high[r] = maximum(load(p + j * kLanes), high[r]);
        passed |= high[r] > f.top[r] + kLazy;
    }
    bool any = false;
    for (int l = 0; l < kLanes; l++) any |= passed[l] != 0;
    for (long r = reach.from; any && r < reach.to; r++) {
        const vec top = high[r] > f.top[r] + kLazy ? high[r] : f.top[r];
        const vec factor = top > f.top[r] ? exp2_of(f.top[r] - top) : all(1.f);
        f.sum[r] *= factor, f.scale[r] *= factor, f.top[r] = top;
    }
    return any;
}

// Scores of key row i of a chunk -> weights, in place.
void weigh(ForwardScratch& f, const Shape& s, long i, Reach reach) {
    for (long r = reach.from; r < reach.to; r++) {
        float* p = f.weights.data + (i * kRows + r) * s.nx * kLanes;
        const vec top = f.top[r];
        vec sum{};
        for (long j = 0; j < s.nx; j++) {
            const vec e = exp2_of(load(p + j * kLanes) - top);
            store(p + j * kLanes, e);
            sum += e;
        }
        f.sum[r] += sum;
    }
}

void rescale(ForwardScratch& f, const Shape& s) {
    for (long block = 0; block < s.blocks; block++)
        for (long r = 0; r < kRows; r++)
            for (long x = 0; x < kLanes; x++) {
                float* acc = f.acc.data + ((block * kRows + r) * kLanes + x) * kBlock;
                for (long d = 0; d < kBlock; d += kLanes) store(acc + d, load(acc + d) * f.scale[r][x]);
            }
    for (vec& x : f.scale) x = all(1.f);
}

// out[y][x][d] of a row of a tile.
void write_channels_last(const Shape& s, const float* acc, vec inverse, float* out, long valid) {
    for (long x = 0; x < valid; x++)
        for (long d = 0; d < s.D; d += kLanes) {
            const vec result = load(acc + d / kBlock * (kRows * kLanes * kBlock) + x * kBlock + d % kBlock) * inverse[x];
            if (d + kLanes <= s.D) store(out + x * s.D + d, result);
            else std::memcpy(out + x * s.D + d, &result, (s.D - d) * 4);
        }
}

// Adds the scores that have no value, writes the output and the logarithm (base 2) of the sum of weights.
void finish(ForwardScratch& f, const Shape& s, const float* sink, bool nhwc, float* out, float* lse, long y0, long x0) {
    const long valid = std::min<long>(kLanes, s.w - x0), frame = s.h * s.w;
    for (long r = 0; r < std::min<long>(kRows, s.h - y0); r++) {
        const float outside = s.outside(y0 + r);
        vec inverse{};
        for (long x = 0; x < valid; x++) {
            float top = f.top[r][x];
            if (outside > 0) top = std::fmax(top, 0.f);
            if (sink) top = std::fmax(top, *sink * kLog2e);
            const float shrink = std::exp2(f.top[r][x] - top);
            float sum = f.sum[r][x] * shrink;
            if (outside > 0) sum += outside * std::exp2(-top);
            if (sink) sum += std::exp2(*sink * kLog2e - top);
            inverse[x] = shrink / sum;
            lse[(y0 + r) * s.w + x0 + x] = top + std::log2(sum);
        }
        const float* acc = f.acc.data + r * kLanes * kBlock;
        const long pixel = (y0 + r) * s.w + x0;
        if (nhwc) write_channels_last(s, acc, inverse, out + pixel * s.D, valid);
        else write_planes(s, acc, inverse, out + pixel, frame, valid);
    }
}

struct ForwardCall {
    Shape s;
    const float *query, *keys, *values, *sink;  // keys as planes, values in blocks
    bool nhwc;                                  // the output is B h w D, otherwise B D h w
    bool in_bfloat16;                           // keys, queries and values are pairs
    float *out, *lse;

    void tile(long index, ForwardScratch& f) const {
        const long x0 = index % s.cols * kLanes, y0 = index / s.cols % s.rows * kRows, b = index / s.cols / s.rows;
        const long frame = s.h * s.w, count = std::min<long>(kLanes, s.w - x0);
        const auto pack = in_bfloat16 ? pack_tile<bfloat16> : pack_tile<float>;
        pack(s, query + b * s.C * frame, s.C, frame, y0, x0, kLog2e, f.q.data);
        std::memset(f.acc.data, 0, s.blocks * kRows * kLanes * kBlock * 4);
        for (long r = 0; r < kRows; r++) f.top[r] = all(-1e30f), f.sum[r] = vec{}, f.scale[r] = all(1.f);
        const long first = std::max(0L, y0 - s.ry), last = std::min(s.h, y0 + kRows + s.ry);
        for (long t = 0; t < s.T; t++)
            for (long from = first; from < last; from += f.keys)
                chunk(f, b * s.T + t, y0, x0, count, from, std::min(from + f.keys, last));
        finish(f, s, sink, nhwc, out + b * s.D * frame, lse + b * frame, y0, x0);
    }

    void chunk(ForwardScratch& f, long bt, long y0, long x0, long count, long from, long to) const {
        const long stride = s.nx * kLanes, key_stride = kRows * stride, frame = s.h * s.w;
        const long places = places_of(s.C, in_bfloat16);
        bool lifted = false;
        for (long key = from; key < to; key++) {
            const Reach reach(s, y0, key);
            float* p = f.weights.data + (key - from) * key_stride + reach.from * stride;
            const float* k = keys + (bt * s.h + key) * places * s.plane + x0;
            if (key + 1 < to) fetch_planes(k + places * s.plane, places, s);
            for (long c = 0; c < places; c += kChannels)
                scores_rows_for(reach.to - reach.from, in_bfloat16)(
                    f.q.data + (c * kRows + reach.from) * kLanes, k + c * s.plane, s.plane,
                    std::min<long>(kChannels, places - c), p, stride, c > 0, s.nx);
            lifted |= follow(f, s, key - from, reach);
        }
        if (lifted) rescale(f, s);
#if defined(__AVX512BF16__)
        if (in_bfloat16) {
            for (long key = from; key < to; key++)
                pair_weights(s, f.weights.data + (key - from) * key_stride, Reach(s, y0, key),
                             f.pairs.data + (key - from) * kRows * Pairs(s).count * kLanes, f.top, f.sum);
            const float* pairs = values + bt * s.Dp * s.h * Pairs(s).columns;
            return read_pairs(s, f.acc.data, f.pairs.data, pairs, y0, x0, count, from, to);
        }
#endif
        for (long key = from; key < to; key++) weigh(f, s, key - from, Reach(s, y0, key));
        read(s, f.acc.data, f.weights.data, stride, values + bt * s.Dp * frame, y0, x0, count, from, to);
    }
};

}  // namespace
