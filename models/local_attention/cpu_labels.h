// The labels of logits that are enlarged bilinearly on the way, and whether all logits are finite: no logits of the frame's
// size are written to memory, and each is read once.

#pragma once

#include "cpu_common.h"

namespace {

typedef uint8_t bytes __attribute__((vector_size(kLanes)));
typedef bytes loose_bytes __attribute__((aligned(1), may_alias));

struct LabelCall {
    static constexpr long kBand = 16;  // output rows of a task
    static constexpr int kUnroll = 4;  // vectors of pixels at once

    long K, h, w, H, W;
    long class_stride, row_stride, column_stride;  // of the logits, in floats
    const float* logits;
    const int32_t *first_row, *first_column;       // of the two that an output row or column lies between
    const float *row_weight, *column_weight;       // of the second one
    uint8_t* out;
    std::atomic<bool>* finite;

    long width() const { return Shape::up(W, kLanes * kUnroll); }
    bool as_they_lie() const { return w == W && column_stride == 1 && W == width(); }

    // Two rows of logits as wide as the output, for all classes; `held` says which rows of the input they are.
    struct Scratch {
        explicit Scratch(const LabelCall& c) : rows(c.as_they_lie() ? 0 : 2 * c.K * c.width()) {
            if (!c.as_they_lie()) std::memset(rows.data, 0, 2 * c.K * c.width() * 4);
        }
        Floats rows;
        long held[2] = {-1, -1};
    };

    const float* wide_row(long row, Scratch& s) const {
        if (as_they_lie()) return logits + row * row_stride;
        float* wide = s.rows.data + (row & 1) * K * width();
        if (s.held[row & 1] == row) return wide;
        s.held[row & 1] = row;
        if (w == W && class_stride == 1) {
            const float* pixel = logits + row * row_stride;
            for (long x = 0; x < W; x += kLanes, pixel += kLanes * column_stride)
                transposed(pixel, column_stride, std::min<long>(kLanes, W - x), K, wide + x, width());
            return wide;
        }
        for (long k = 0; k < K; k++) {
            const float* from = logits + k * class_stride + row * row_stride;
            float* to = wide + k * width();
            if (w == W) {
                for (long x = 0; x < W; x++) to[x] = from[x * column_stride];
                continue;
            }
            for (long x = 0; x < W; x++) {
                const long left = first_column[x], right = std::min(left + 1, w - 1);
                const float weight = column_weight[x];
                to[x] = (1.f - weight) * from[left * column_stride] + weight * from[right * column_stride];
            }
        }
        return wide;
    }

    void task(long band, Scratch& s) const {
        const long between = as_they_lie() ? class_stride : width();
        vec zeros[kUnroll] = {};  // products of all logits and zero: NaN from one on that is not finite
        for (long y = band * kBand; y < std::min(H, (band + 1) * kBand); y++) {
            const long above = first_row[y], below = std::min(above + 1, h - 1);
            const float *a = wide_row(above, s), *b = wide_row(below, s);
            const vec weight_b = all(row_weight[y]), weight_a = all(1.f - row_weight[y]);
            const bool blends = row_weight[y] != 0.f;
            for (long x = 0; x < W; x += kLanes * kUnroll) {
                vec best[kUnroll];
                ivec label[kUnroll];
                for (long k = 0; k < K; k++) {
                    const float *p = a + k * between + x, *q = b + k * between + x;
#pragma GCC unroll 4
                    for (int i = 0; i < kUnroll; i++) {
                        vec v = load(p + i * kLanes);
                        if (blends) v = weight_a * v + weight_b * load(q + i * kLanes);
                        zeros[i] += 0.f * v;
                        if (k == 0) {
                            best[i] = v, label[i] = ivec{};
                        } else {
                            const ivec more = v > best[i];
                            best[i] = more ? v : best[i];
                            label[i] = more ? ivec{} + int32_t(k) : label[i];
                        }
                    }
                }
                for (int i = 0; i < kUnroll; i++) {
                    const long at = x + i * kLanes, valid = std::min<long>(kLanes, W - at);
                    const bytes found = __builtin_convertvector(label[i], bytes);
                    if (valid == kLanes) *reinterpret_cast<loose_bytes*>(out + y * W + at) = found;
                    else if (valid > 0) std::memcpy(out + y * W + at, &found, valid);
                }
            }
        }
        for (int i = 1; i < kUnroll; i++) zeros[0] += zeros[i];
        for (int l = 0; l < kLanes; l++)
            if (zeros[0][l] != 0.f) *finite = false;
    }
};

}  // namespace
