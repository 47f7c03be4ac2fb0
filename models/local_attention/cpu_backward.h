// Gradients of the attention. Weights are computed again from the saved log-sum-exp; see cpu_common.h for tiles.
//
// A task is a strip of query rows against one frame of the memory. It adds what its queries give to keys and values into
// rows of its own, which reach over the strip by half a window; afterwards every pixel gathers from the few strips that
// reach it, in their order. So there are no atomics, and the bits do not depend on which thread took which task.

#pragma once

#include "cpu_common.h"

namespace {

constexpr long kKeys = 4;         // neighbouring keys whose gradients are summed in registers
constexpr long kPad = kKeys - 1;  // zero weights before and behind a window, so that kKeys keys share their queries

// dq[c][row][lane] += sum over j of w[row][j][lane] * k[c][j + lane], for RR rows and CC channels.
template <int RR, int CC>
inline void query_block(float* dq, const float* w, long row_stride, const float* k, long plane, long nx) {
    vec sum[CC][RR];
#pragma GCC unroll 8
    for (int c = 0; c < CC; c++)
#pragma GCC unroll 8
        for (int r = 0; r < RR; r++) sum[c][r] = load(dq + (c * kRows + r) * kLanes);
    for (long j = 0; j < nx; j++) {
        vec weight[RR];
#pragma GCC unroll 8
        for (int r = 0; r < RR; r++) weight[r] = load(w + r * row_stride + j * kLanes);
#pragma GCC unroll 8
        for (int c = 0; c < CC; c++) {
            const vec key = load(k + c * plane + j);
#pragma GCC unroll 8
            for (int r = 0; r < RR; r++) sum[c][r] += weight[r] * key;
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < CC; c++)
#pragma GCC unroll 8
        for (int r = 0; r < RR; r++) store(dq + (c * kRows + r) * kLanes, sum[c][r]);
}

template <int RR>
void query_rows(float* dq, const float* w, long row_stride, const float* k, long plane, long C, long nx) {
    long c = 0;
    for (; c + kDepth <= C; c += kDepth)
        query_block<RR, kDepth>(dq + c * kRows * kLanes, w, row_stride, k + c * plane, plane, nx);
    for (; c < C; c++) query_block<RR, 1>(dq + c * kRows * kLanes, w, row_stride, k + c * plane, plane, nx);
}

// to[g][block] += sum over rows and queries of w[row][g - query][query] * x[row][query][block], for GG keys in a row.
// w points at the offset of the first key seen from query 0, which falls by one from query to query.
template <int GG, int DD>
inline void key_block(float* to, const float* w, long row_stride, const float* x, long x_row, long rows, long from,
                      long until) {
    constexpr long width = DD * kLanes;
    vec sum[GG][DD];
#pragma GCC unroll 8
    for (int g = 0; g < GG; g++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) sum[g][d] = load(to + g * width + d * kLanes);
    for (long r = 0; r < rows; r++)
        for (long i = from; i < until; i++) {
            vec source[DD];
#pragma GCC unroll 8
            for (int d = 0; d < DD; d++) source[d] = load(x + r * x_row + i * width + d * kLanes);
            const float* weights = w + r * row_stride - i * (kLanes - 1);
#pragma GCC unroll 8
            for (int g = 0; g < GG; g++) {
                const vec weight = all(weights[g * kLanes]);
#pragma GCC unroll 8
                for (int d = 0; d < DD; d++) sum[g][d] += weight * source[d];
            }
        }
#pragma GCC unroll 8
    for (int g = 0; g < GG; g++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) store(to + g * width + d * kLanes, sum[g][d]);
}

// Queries x0 ... x0 + count of a tile -> the keys of one row of the frame; w at offset 0 of the tile's first row.
template <int DD>
void key_row(float* to, const float* w, long row_stride, const float* x, long x_row, long rows, const Shape& s, long x0,
             long count) {
    const long last = std::min(s.w, x0 + count + s.rx);
    for (long key = std::max(0L, x0 - s.rx); key < last; key += kKeys) {
        const long keys = std::min(kKeys, last - key), offset = key - x0 + s.rx;
        const long from = std::max(0L, offset - s.nx + 1), until = std::min(count, offset + keys);
        const float* weights = w + offset * kLanes;
        float* at = to + key * DD * kLanes;
        if (keys == 4) key_block<4, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else if (keys == 3) key_block<3, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else if (keys == 2) key_block<2, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else key_block<1, DD>(at, weights, row_stride, x, x_row, rows, from, until);
    }
}

using QueryRows = void (*)(float*, const float*, long, const float*, long, long, long);
using KeyRow = void (*)(float*, const float*, long, const float*, long, long, const Shape&, long, long);
constexpr QueryRows kQueryRows[] = {nullptr, query_rows<1>, query_rows<2>, query_rows<3>, query_rows<4>};
inline KeyRow key_row_for(long width) {
    constexpr KeyRow functions[] = {nullptr, key_row<1>, key_row<2>, key_row<kDepth - 1>, key_row<kDepth>};
    const long depth = width / kLanes;
    return functions[depth == kDepth ? 4 : depth == kDepth - 1 ? 3 : depth];
}

// Channels of a tensor in blocks of kBlock, the last rounded up to vectors.
struct Blocks {
    long channels, padded, count;
    explicit Blocks(long channels)
        : channels(channels), padded(Shape::up(channels, kLanes)), count((padded + kBlock - 1) / kBlock) {}
    long width(long block) const { return std::min<long>(kBlock, padded - block * kBlock); }
};

struct Strips {
    long height, count, rows;  // query rows of a strip, strips, rows that a strip reaches
    explicit Strips(const Shape& s)
        : height(Shape::up(std::max(16L, 3 * s.ry), kRows)), count((s.h + height - 1) / height),
          rows(std::min(height + 2 * s.ry, s.h)) {}
    long first_row(const Shape& s, long strip) const { return std::max(0L, strip * height - s.ry); }
    long last_row(const Shape& s, long strip) const { return std::min(s.h, (strip + 1) * height + s.ry); }
};

// A tile of a B C h w tensor as (block) [row][query][channel of the block]; zeros where the tile leaves the frame.
void pack_tile_last(const Shape& s, const float* x, const Blocks& z, long y0, long x0, float* to) {
    std::memset(to, 0, z.padded * kRows * kLanes * 4);
    const long valid = std::min<long>(kLanes, s.w - x0);
    for (long d = 0; d < z.channels; d += kLanes) {
        const long block = d / kBlock, width = z.width(block);
        float* at = to + block * kBlock * kRows * kLanes + d % kBlock;
        for (long r = 0; r < std::min<long>(kRows, s.h - y0); r++)
            channels_last(x + (d * s.h + y0 + r) * s.w + x0, s.h * s.w, std::min<long>(kLanes, z.channels - d), valid,
                          at + r * kLanes * width, width);
    }
}

struct BackwardScratch {
    long keys;  // key rows done at once
    Floats q, g, q_last, g_last, p, ds, dq;
    vec lse[kRows], delta[kRows];
    static long row_floats(const Shape& s) { return (s.nx + 2 * kPad) * kLanes; }
    BackwardScratch(const Shape& s, const Blocks& c, const Blocks& d)
        : keys(std::max(1L, std::min(2 * s.ry + kRows, kWeightFloats / 2 / (kRows * row_floats(s))))),
          q(s.C * kRows * kLanes), g(s.D * kRows * kLanes), q_last(c.padded * kRows * kLanes),
          g_last(d.padded * kRows * kLanes), p(keys * kRows * row_floats(s)), ds(keys * kRows * row_floats(s)),
          dq(s.C * kRows * kLanes) {
        std::memset(p.data, 0, keys * kRows * row_floats(s) * 4);
        std::memset(ds.data, 0, keys * kRows * row_floats(s) * 4);
    }
};

struct BackwardCall {
    Shape s;
    Blocks c, d;
    Strips strips;
    const float *grad, *query, *lse, *delta;  // delta: sum over channels of grad * out
    const float *keys, *values;               // both as planes
    float *dq, *dk, *dv;                      // one dq a frame; dk and dv strip by strip in blocks; null if not wanted

    size_t strip_floats(const Blocks& z) const { return size_t(strips.rows) * s.w * z.padded; }
    float* strip_of(float* x, const Blocks& z, long bt, long strip) const {
        return x ? x + (bt * strips.count + strip) * strip_floats(z) : nullptr;
    }

    void task(long index, BackwardScratch& f) const {
        const long strip = index % strips.count, bt = index / strips.count;
        float* const strip_k = strip_of(dk, c, bt, strip);
        float* const strip_v = strip_of(dv, d, bt, strip);
        if (dk) std::memset(strip_k, 0, strip_floats(c) * 4);
        if (dv) std::memset(strip_v, 0, strip_floats(d) * 4);
        for (long y0 = strip * strips.height; y0 < std::min(s.h, (strip + 1) * strips.height); y0 += kRows)
            for (long x0 = 0; x0 < s.w; x0 += kLanes) tile(f, bt, y0, x0, strips.first_row(s, strip), strip_k, strip_v);
    }

    void tile(BackwardScratch& f, long bt, long y0, long x0, long row0, float* strip_k, float* strip_v) const {
        const long frame = s.h * s.w, b = bt / s.T;
        pack_tile(s, query + b * s.C * frame, s.C, y0, x0, kLog2e, f.q.data);
        if (dk || dq) pack_tile(s, grad + b * s.D * frame, s.D, y0, x0, 1.f, f.g.data);
        pack_tile(s, lse + b * frame, 1, y0, x0, 1.f, reinterpret_cast<float*>(f.lse));
        pack_tile(s, delta + b * frame, 1, y0, x0, 1.f, reinterpret_cast<float*>(f.delta));
        if (dk) pack_tile_last(s, query + b * s.C * frame, c, y0, x0, f.q_last.data);
        if (dv) pack_tile_last(s, grad + b * s.D * frame, d, y0, x0, f.g_last.data);
        if (dq) std::memset(f.dq.data, 0, s.C * kRows * kLanes * 4);
        const long first = std::max(0L, y0 - s.ry), last = std::min(s.h, y0 + kRows + s.ry);
        const long count = std::min<long>(kLanes, s.w - x0);
        for (long from = first; from < last; from += f.keys) {
            const long to = std::min(from + f.keys, last);
            weights(f, bt, y0, x0, from, to);
            if (dq) add_to_query(f, bt, y0, x0, from, to);
            if (dk) add_to_strip(f.ds.data, f.q_last.data, c, strip_k, y0, x0, count, from, to, row0);
            if (dv) add_to_strip(f.p.data, f.g_last.data, d, strip_v, y0, x0, count, from, to, row0);
        }
        if (dq) store_query(f, dq + bt * s.C * frame, y0, x0, count);
    }

    // Weights p, and the gradients ds of the scores where they are wanted, of a chunk of key rows.
    void weights(BackwardScratch& f, long bt, long y0, long x0, long from, long to) const {
        const long stride = f.row_floats(s);
        dots(f.q.data, keys, s.C, f.p.data, stride, bt, y0, x0, from, to);
        if (dk || dq) dots(f.g.data, values, s.D, f.ds.data, stride, bt, y0, x0, from, to);
        for (long key = from; key < to; key++) {
            const Reach reach(s, y0, key);
            for (long r = reach.from; r < reach.to; r++) {
                float* p = f.p.data + ((key - from) * kRows + r) * stride + kPad * kLanes;
                float* ds = f.ds.data + ((key - from) * kRows + r) * stride + kPad * kLanes;
                const vec lse = f.lse[r], delta = f.delta[r];
                for (long j = 0; j < s.nx; j++) {
                    const vec weight = exp2_of(load(p + j * kLanes) - lse);
                    store(p + j * kLanes, weight);
                    store(ds + j * kLanes, weight * (load(ds + j * kLanes) - delta));
                }
            }
        }
    }

    // Dot products of a tile's queries with a chunk of key rows.
    void dots(const float* q, const float* planes, long C, float* to, long stride, long bt, long y0, long x0, long from,
              long until) const {
        for (long c0 = 0; c0 < C; c0 += kChannels)
            for (long key = from; key < until; key++) {
                const Reach reach(s, y0, key);
                const float* k = planes + ((bt * s.h + key) * C + c0) * s.plane + x0;
                float* at = to + ((key - from) * kRows + reach.from) * stride + kPad * kLanes;
                kScoresRows[reach.to - reach.from](q + (c0 * kRows + reach.from) * kLanes, k, s.plane,
                                                   std::min(kChannels + 0L, C - c0), at, stride, c0 > 0, s.nx);
            }
    }

    void add_to_query(BackwardScratch& f, long bt, long y0, long x0, long from, long to) const {
        const long stride = f.row_floats(s);
        for (long key = from; key < to; key++) {
            const Reach reach(s, y0, key);
            kQueryRows[reach.to - reach.from](f.dq.data + reach.from * kLanes,
                                              f.ds.data + ((key - from) * kRows + reach.from) * stride + kPad * kLanes,
                                              stride, keys + (bt * s.h + key) * s.C * s.plane + x0, s.plane, s.C, s.nx);
        }
    }

    void add_to_strip(const float* weights, const float* x, const Blocks& z, float* strip, long y0, long x0, long count,
                      long from, long to, long row0) const {
        const long stride = BackwardScratch::row_floats(s);
        for (long block = 0; block < z.count; block++) {
            const long width = z.width(block), x_row = kLanes * width;
            for (long key = from; key < to; key++) {
                const Reach reach(s, y0, key);
                key_row_for(width)(strip + (block * kBlock * strips.rows + (key - row0) * width) * s.w,
                                   weights + ((key - from) * kRows + reach.from) * stride + kPad * kLanes, stride,
                                   x + block * kBlock * kRows * kLanes + reach.from * x_row, x_row,
                                   reach.to - reach.from, s, x0, count);
            }
        }
    }

    void store_query(BackwardScratch& f, float* to, long y0, long x0, long count) const {
        for (long c = 0; c < s.C; c++)
            for (long r = 0; r < std::min<long>(kRows, s.h - y0); r++)
                std::memcpy(to + (c * s.h + y0 + r) * s.w + x0, f.dq.data + (c * kRows + r) * kLanes, count * 4);
    }

    // One row of one frame: the sum over the strips that reach it, channels first.
    void gather(const float* from, const Blocks& z, float* to, long index) const {
        const long y = index % s.h, bt = index / s.h, b = bt / s.T, t = bt % s.T, frame = s.h * s.w;
        const long lowest = std::max(0L, y - s.ry) / strips.height;
        const long highest = std::min(strips.count - 1, (y + s.ry) / strips.height);
        for (long d = 0; d < z.channels; d += kLanes) {
            const long block = d / kBlock, width = z.width(block);
            for (long x0 = 0; x0 < s.w; x0 += kLanes) {
                const long valid = std::min<long>(kLanes, s.w - x0);
                vec m[kLanes] = {};
                for (long strip = lowest; strip <= highest; strip++) {
                    const long row = y - strips.first_row(s, strip);
                    const float* at = from + (bt * strips.count + strip) * strip_floats(z) +
                                      (block * kBlock * strips.rows + row * width) * s.w + x0 * width + d % kBlock;
                    for (long i = 0; i < valid; i++) m[i] += load(at + i * width);
                }
                transpose(m);
                for (long i = 0; i < std::min<long>(kLanes, z.channels - d); i++)
                    std::memcpy(to + ((b * z.channels + d + i) * s.T + t) * frame + y * s.w + x0, &m[i], valid * 4);
            }
        }
    }

    // One row of the query's gradient: the sum over the frames.
    void gather_query(float* to, long index) const {
        const long y = index % s.h, b = index / s.h / s.T, size = s.C * s.h * s.w;
        for (long c = 0; c < s.C; c++) {
            const long at = (c * s.h + y) * s.w;
            std::memcpy(to + b * size + at, dq + b * s.T * size + at, s.w * 4);
            for (long t = 1; t < s.T; t++)
                for (long x = at; x < at + s.w; x++) to[b * size + x] += dq[(b * s.T + t) * size + x];
        }
    }
};

// delta[pixel] = sum over channels of grad * out.
bool sum_products(const Shape& s, const float* grad, const float* out, float* delta, long threads, GompParallel gomp) {
    return parallel(s.B * s.h, threads, gomp, no_scratch, [&](long i, None&) {
        const long b = i / s.h, y = i % s.h, frame = s.h * s.w;
        float* to = delta + i * s.w;
        std::memset(to, 0, s.w * 4);
        for (long d = 0; d < s.D; d++) {
            const long at = (b * s.D + d) * frame + y * s.w;
            for (long x = 0; x < s.w; x++) to[x] += grad[at + x] * out[at + x];
        }
    });
}

// The sink's weight is exp2(sink - lse) and its value 0, so its score's gradient at a pixel is -weight * delta.
float sink_gradient(const Shape& s, float sink, const float* lse, const float* delta) {
    double sum = 0;
    for (long i = 0; i < s.B * s.h * s.w; i++) sum -= double(std::exp2(sink * kLog2e - lse[i])) * delta[i];
    return float(sum);
}

}  // namespace
