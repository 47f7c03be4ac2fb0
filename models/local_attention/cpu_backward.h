// Gradients of the attention. Weights are computed again from the saved log-sum-exp; see cpu_common.h for tiles.
//
// It is the forward seen from the other side: a tile is of keys, and its window holds the queries that reach them, since
// a window is as wide to both. So a tile reads its keys' and values' gradients from the queries and their gradients as the
// forward reads values. Only the gradient of the queries has to be brought together from many tiles: a task, which is a
// strip of rows of one frame of the memory, sums the contributions of its keys in rows of its own, which reach over the
// strip by half a window; afterwards every pixel gathers from the few strips that reach it, in their order. So there are
// no atomics, and the bits do not depend on which thread took which task.

#pragma once

#include "cpu_scores.h"

namespace {

constexpr long kGroup = 4;         // neighbouring queries whose gradients are summed in registers
constexpr long kPad = kGroup - 1;  // zero weights before and behind a window, so that kGroup queries share their keys

// to[g][block] += sum over rows and keys of w[row][g - key][key] * x[row][key][block], for GG queries in a row.
// w points at the offset of the first query seen from key 0, which falls by one from key to key.
template <int GG, int DD>
inline void group_block(float* to, const float* w, long row_stride, const float* x, long x_row, long rows, long from,
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
            for (int d = 0; d < DD; d++) source[d] = held(x + r * x_row + i * width + d * kLanes);
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

// Keys x0 ... x0 + count of a tile -> the queries of one row of the frame; w at offset 0 of the tile's first row.
template <int DD>
void group_row(float* to, const float* w, long row_stride, const float* x, long x_row, long rows, const Shape& s, long x0,
               long count) {
    const long last = std::min(s.w, x0 + count + s.rx);
    for (long first = std::max(0L, x0 - s.rx); first < last; first += kGroup) {
        const long size = std::min(kGroup, last - first), offset = first - x0 + s.rx;
        const long from = std::max(0L, offset - s.nx + 1), until = std::min(count, offset + size);
        const float* weights = w + offset * kLanes;
        float* at = to + first * DD * kLanes;
        if (size == 4) group_block<4, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else if (size == 3) group_block<3, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else if (size == 2) group_block<2, DD>(at, weights, row_stride, x, x_row, rows, from, until);
        else group_block<1, DD>(at, weights, row_stride, x, x_row, rows, from, until);
    }
}

using GroupRow = void (*)(float*, const float*, long, const float*, long, long, const Shape&, long, long);
inline GroupRow group_row_for(long width) {
    constexpr GroupRow functions[] = {nullptr, group_row<1>, group_row<2>, group_row<kDepth - 1>, group_row<kDepth>};
    const long depth = width / kLanes;
    return functions[depth == kDepth ? 4 : depth == kDepth - 1 ? 3 : depth];
}

struct Strips {
    long height, count, rows;  // key rows of a strip, strips, rows that a strip reaches
    explicit Strips(const Shape& s)
        : height(even_height(s.h, std::max(16L, 3 * s.ry))), count((s.h + height - 1) / height),
          rows(std::min(height + 2 * s.ry, s.h)) {}
    // About `wanted` rows, so that the last strip is not one of few rows that reaches over many.
    static long even_height(long h, long wanted) {
        const long count = std::max(1L, (h + wanted / 2) / wanted);
        return Shape::up((h + count - 1) / count, kRows);
    }
    long first_row(const Shape& s, long strip) const { return std::max(0L, strip * height - s.ry); }
};

// A tile of planes `channel` floats apart as (block) [row][lane][channel of the block], of s.D channels; zeros where the
// tile leaves the frame.
void pack_tile_last(const Shape& s, const float* x, long channel, long y0, long x0, float* to) {
    std::memset(to, 0, s.Dp * kRows * kLanes * 4);
    const long valid = std::min<long>(kLanes, s.w - x0);
    for (long d = 0; d < s.D; d += kLanes) {
        const long block = d / kBlock, width = s.width(block);
        float* at = to + block * kBlock * kRows * kLanes + d % kBlock;
        for (long r = 0; r < std::min<long>(kRows, s.h - y0); r++)
            transposed(x + d * channel + (y0 + r) * s.w + x0, channel, std::min<long>(kLanes, s.D - d), valid,
                       at + r * kLanes * width, width);
    }
}

struct BackwardScratch {
    long rows;  // query rows done at once
    Floats k, v, k_last, p, ds, acc_k, acc_v;
    static long row_floats(const Shape& s) { return (s.nx + 2 * kPad) * kLanes; }
    static size_t sums(const Shape& s) { return s.blocks * kRows * kLanes * kBlock; }
    BackwardScratch(const Shape& queries, const Shape& grads)
        : rows(std::max(1L, std::min(2 * grads.ry + kRows, 2 * kWeightFloats / (kRows * row_floats(grads))))),
          k(queries.D * kRows * kLanes), v(grads.D * kRows * kLanes), k_last(queries.Dp * kRows * kLanes),
          p(rows * kRows * row_floats(grads)), ds(rows * kRows * row_floats(grads)), acc_k(sums(queries)),
          acc_v(sums(grads)) {
        std::memset(p.data, 0, rows * kRows * row_floats(grads) * 4);
        std::memset(ds.data, 0, rows * kRows * row_floats(grads) * 4);
    }
};

struct BackwardCall {
    Shape s;               // of the call
    Shape queries, grads;  // of the queries and of their gradients, each one frame of values to be read
    Strips strips;
    const float *keys, *values;
    const float *query_planes, *grad_planes, *lse, *delta;  // as planes; delta: sum over channels of grad * out
    const float *query_blocks, *grad_blocks;
    float *dq, *dk, *dv;  // dq strip by strip in blocks; null if not wanted

    size_t strip_floats() const { return size_t(strips.rows) * s.w * queries.Dp; }

    void task(long index, BackwardScratch& f) const {
        const long strip = index % strips.count;
        float* const strip_q = dq ? dq + index * strip_floats() : nullptr;
        if (dq) std::memset(strip_q, 0, strip_floats() * 4);
        // Downwards: a tile shares most of its window with the one above, which the cache still holds.
        for (long x0 = 0; x0 < s.w; x0 += kLanes)
            for (long y0 = strip * strips.height; y0 < std::min(s.h, (strip + 1) * strips.height); y0 += kRows)
                tile(f, index / strips.count, y0, x0, strips.first_row(s, strip), strip_q);
    }

    void tile(BackwardScratch& f, long bt, long y0, long x0, long row0, float* strip_q) const {
        const long b = bt / s.T, frame = s.h * s.w, channel = s.T * frame, stride = f.row_floats(s);
        const long k_at = (b * s.C * s.T + bt % s.T) * frame, v_at = (b * s.D * s.T + bt % s.T) * frame;
        pack_tile<float>(s, keys + k_at, s.C, channel, y0, x0, kLog2e, f.k.data);
        if (dq || dk) pack_tile<float>(s, values + v_at, s.D, channel, y0, x0, 1.f, f.v.data);
        if (dq) pack_tile_last(queries, keys + k_at, channel, y0, x0, f.k_last.data);
        if (dk) std::memset(f.acc_k.data, 0, f.sums(queries) * 4);
        if (dv) std::memset(f.acc_v.data, 0, f.sums(grads) * 4);
        const long first = std::max(0L, y0 - s.ry), last = std::min(s.h, y0 + kRows + s.ry);
        const long count = std::min<long>(kLanes, s.w - x0);
        const float *p = f.p.data + kPad * kLanes, *ds = f.ds.data + kPad * kLanes;
        for (long from = first; from < last; from += f.rows) {
            const long to = std::min(from + f.rows, last);
            weigh(f, b, y0, x0, from, to);
            if (dq) add_to_strip(f, strip_q, y0, x0, count, from, to, row0);
            if (dk) read(queries, f.acc_k.data, ds, stride, query_blocks + b * queries.Dp * frame, y0, x0, count, from, to);
            if (dv) read(grads, f.acc_v.data, p, stride, grad_blocks + b * grads.Dp * frame, y0, x0, count, from, to);
        }
        for (long r = 0; r < std::min<long>(kRows, s.h - y0); r++) {
            const long row = r * kLanes * kBlock, pixel = (y0 + r) * s.w + x0;
            if (dk) write_planes(queries, f.acc_k.data + row, all(1.f), dk + k_at + pixel, channel, count);
            if (dv) write_planes(grads, f.acc_v.data + row, all(1.f), dv + v_at + pixel, channel, count);
        }
    }

    // Weights p, and the gradients ds of the scores where they are wanted, of a chunk of query rows.
    void weigh(BackwardScratch& f, long b, long y0, long x0, long from, long to) const {
        const long stride = f.row_floats(s);
        dots(f.k.data, query_planes, s.C, f.p.data, stride, b, y0, x0, from, to);
        if (dq || dk) dots(f.v.data, grad_planes, s.D, f.ds.data, stride, b, y0, x0, from, to);
        for (long row = from; row < to; row++) {
            const Reach reach(s, y0, row);
            const long plane = (b * s.h + row) * s.plane + x0;
            for (long r = reach.from; r < reach.to; r++) {
                float* p = f.p.data + ((row - from) * kRows + r) * stride + kPad * kLanes;
                float* ds = f.ds.data + ((row - from) * kRows + r) * stride + kPad * kLanes;
                for (long j = 0; j < s.nx; j++) {
                    const vec weight = exp2_of(load(p + j * kLanes) - load(lse + plane + j));
                    store(p + j * kLanes, weight);
                    store(ds + j * kLanes, weight * (load(ds + j * kLanes) - load(delta + plane + j)));
                }
            }
        }
    }

    // Dot products of a tile with a chunk of rows.
    void dots(const float* tile, const float* planes, long C, float* to, long stride, long b, long y0, long x0, long from,
              long until) const {
        for (long c0 = 0; c0 < C; c0 += kChannels)
            for (long row = from; row < until; row++) {
                const Reach reach(s, y0, row);
                const long channels = std::min(kChannels + 0L, C - c0);
                const float* plane = planes + ((b * s.h + row) * C + c0) * s.plane + x0;
                if (row + 1 < until) fetch_planes(plane + C * s.plane, channels, s);
                float* at = to + ((row - from) * kRows + reach.from) * stride + kPad * kLanes;
                scores_rows_for<float>(reach.to - reach.from)(tile + (c0 * kRows + reach.from) * kLanes, plane, s.plane,
                                                              channels, at, stride, c0 > 0, s.nx);
            }
    }

    void add_to_strip(const BackwardScratch& f, float* strip_q, long y0, long x0, long count, long from, long to,
                      long row0) const {
        const long stride = f.row_floats(s);
        for (long block = 0; block < queries.blocks; block++) {
            const long width = queries.width(block), tile_row = kLanes * width;
            for (long row = from; row < to; row++) {
                const Reach reach(s, y0, row);
                group_row_for(width)(strip_q + (block * kBlock * strips.rows + (row - row0) * width) * s.w,
                                     f.ds.data + ((row - from) * kRows + reach.from) * stride + kPad * kLanes, stride,
                                     f.k_last.data + block * kBlock * kRows * kLanes + reach.from * tile_row, tile_row,
                                     reach.to - reach.from, s, x0, count);
            }
        }
    }

    // One row of the queries' gradient: the sum over the frames and the strips that reach it, channels first.
    void gather(float* to, long index) const {
        const long y = index % s.h, b = index / s.h, frame = s.h * s.w;
        const long lowest = std::max(0L, y - s.ry) / strips.height;
        const long highest = std::min(strips.count - 1, (y + s.ry) / strips.height);
        for (long d = 0; d < s.C; d += kLanes) {
            const long block = d / kBlock, width = queries.width(block);
            for (long x0 = 0; x0 < s.w; x0 += kLanes) {
                const long valid = std::min<long>(kLanes, s.w - x0);
                vec m[kLanes] = {};
                for (long t = 0; t < s.T; t++)
                    for (long strip = lowest; strip <= highest; strip++) {
                        const long row = y - strips.first_row(s, strip);
                        const float* at = dq + ((b * s.T + t) * strips.count + strip) * strip_floats() +
                                          (block * kBlock * strips.rows + row * width) * s.w + x0 * width + d % kBlock;
                        for (long i = 0; i < valid; i++) m[i] += load(at + i * width);
                    }
                transpose(m);
                for (long i = 0; i < std::min<long>(kLanes, s.C - d); i++)
                    std::memcpy(to + (b * s.C + d + i) * frame + y * s.w + x0, &m[i], valid * 4);
            }
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
