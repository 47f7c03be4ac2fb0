// Convolutions of three taps along an axis, and one or three across it, of a channels-last frame, by Winograd's F(4, 3):
// four outputs of a line take six products of channel vectors instead of twelve (Winograd 1980; Lavin & Gray, Fast
// Algorithms for Convolutional Neural Networks, 2016). With a dilation, positions that are as far apart make lines of
// their own.

#pragma once

#include "cpu_bfloat16.h"

namespace {

constexpr int kOut = 4, kIn = 6;  // outputs of a tile, and its inputs
constexpr int kColumns = 32;      // neighbors across the axis that are done at once: weights are read once for them
constexpr int kStep = 4;          // of these, whose sums are held in registers
constexpr float kPoint = 0.75f;   // models/line_convolution.py has it, too

struct Lines {
    long frames, length, count;  // positions along the axis, and lines across it
    long along, across;          // distances of neighbors, in pixels
    long read, made;             // channels
    long taps, dilation;         // taps across the axis; distance of those along it
    bool relu;
    long tiles() const { return dilation * ((length + dilation * kOut - 1) / (dilation * kOut)); }
    long groups() const { return (count + kColumns - 1) / kColumns; }
    long reach() const { return taps / 2; }
    long plane() const { return (kColumns + taps - 1) * read; }  // what is read for a place
};

template <class Factor>
struct LineScratch {
    Floats in, out;  // [place][column][channel]; of the factors in `in` two may share a float
    explicit LineScratch(const Lines& l)
        : in(kIn * l.plane() * sizeof(Factor) / sizeof(float)), out(kIn * kColumns * l.made) {}
    Factor* factors() { return reinterpret_cast<Factor*>(in.data); }
};

// out[column][channel] = sum over k of in[column][k] * weight[k][channel], for kStep columns, DD vectors of channels; k goes
// through the channels of all taps across, as neighboring columns lie behind each other. Of shorter factors as many as
// fill a float are multiplied at once: k is followed by its neighbors.
template <class Factor, int DD>
inline void products(const Lines& l, const Factor* in, const Factor* weight, float* out) {
    constexpr int together = sizeof(float) / sizeof(Factor);
    vec sum[kStep][DD];
#pragma GCC unroll 8
    for (int r = 0; r < kStep; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) sum[r][d] = vec{};
    for (long k = 0; k < l.taps * l.read; k += together, weight += together * DD * kLanes) {
        vec w[DD];
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) w[d] = held(reinterpret_cast<const float*>(weight + d * together * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < kStep; r++) {
            const vec x = all_of(in + r * l.read + k);
#pragma GCC unroll 8
            for (int d = 0; d < DD; d++) add_product<Factor>(sum[r][d], x, w[d]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kStep; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) store(out + r * l.made + d * kLanes, sum[r][d]);
}

// The same for a block that is not a whole one.
template <class Factor, int DD = kDepth>
inline void products_of(long depth, const Lines& l, const Factor* in, const Factor* weight, float* out) {
    if (depth == DD) return products<Factor, DD>(l, in, weight, out);
    if constexpr (DD > 1) products_of<Factor, DD - 1>(depth, l, in, weight, out);
}

template <class Factor>
struct LineCall {
    using Scratch = LineScratch<Factor>;
    Lines l;
    const float* x;
    const Factor* weights;  // [place][block][tap across, channel read][channel of the block], channels read in pairs
    const float *bias, *added;
    float* y;

    void tile(long index, Scratch& f) const {
        const long group = index % l.groups(), tile = index / l.groups() % l.tiles();
        const long frame = index / l.groups() / l.tiles() * l.length * l.count;
        const long first = tile % l.dilation + tile / l.dilation * kOut * l.dilation;
        const long from = group * kColumns, columns = std::min<long>(kColumns, l.count - from);
        if (first >= l.length) return;
        read(f, x + frame * l.read, first, from, columns);
        for (int place = 0; place < kIn; place++)
            for (long block = 0; block < l.made; block += kBlock) {
                const Factor* w = weights + (place * l.made + block) * l.taps * l.read;
                const long depth = std::min<long>(kBlock, l.made - block) / kLanes;
                for (long column = 0; column < columns; column += kStep)
                    products_of(depth, l, f.factors() + place * l.plane() + column * l.read, w,
                                f.out.data + (place * kColumns + column) * l.made + block);
            }
        write(f, frame, first, from, columns);
    }

    void read(Scratch& f, const float* x, long first, long from, long columns) const {
        constexpr float p = kPoint, p2 = p * p;
        const long plane = l.plane();
        for (long column = -l.reach(); column < columns + l.reach(); column++) {
            const float* at[kIn];
            for (int i = 0; i < kIn; i++) {
                const long position = first + (i - 1) * l.dilation, line = from + column;
                const bool inside = position >= 0 && position < l.length && line >= 0 && line < l.count;
                at[i] = inside ? x + (position * l.along + line * l.across) * l.read : nullptr;
            }
            Factor* to = f.factors() + (column + l.reach()) * l.read;
            for (long c = 0; c < l.read; c += kLanes, to += kLanes) {
                vec d[kIn];
                for (int i = 0; i < kIn; i++) d[i] = at[i] ? load(at[i] + c) : vec{};
                const vec a = d[4] - 4 * p2 * d[2], b = p * (d[3] - 4 * p2 * d[1]);
                const vec e = d[4] - p2 * d[2], g = 2 * p * (d[3] - p2 * d[1]);
                put(to, 4 * p2 * p2 * d[0] - 5 * p2 * d[2] + d[4]);
                put(to + plane, a + b);
                put(to + 2 * plane, a - b);
                put(to + 3 * plane, e + g);
                put(to + 4 * plane, e - g);
                put(to + 5 * plane, 4 * p2 * p2 * d[1] - 5 * p2 * d[3] + d[5]);
            }
        }
    }

    void write(const Scratch& f, long frame, long first, long from, long columns) const {
        constexpr float p = kPoint, p2 = p * p;
        const long plane = kColumns * l.made;
        for (long column = 0; column < columns; column++) {
            const float* m = f.out.data + column * l.made;
            for (long c = 0; c < l.made; c += kLanes, m += kLanes) {
                const vec one = load(m + plane), two = load(m + 2 * plane), three = load(m + 3 * plane);
                const vec four = load(m + 4 * plane), shift = load(bias + c);
                const vec a = one + two, b = one - two, e = three + four, g = three - four;
                const vec sums[kOut] = {load(m) + a + e, p * (b + 2 * g), p2 * (a + 4 * e),
                                        p * p2 * (b + 8 * g) + load(m + 5 * plane)};
                for (int i = 0; i < kOut; i++) {
                    const long position = first + i * l.dilation;
                    if (position >= l.length) break;
                    const long pixel = (frame + position * l.along + (from + column) * l.across) * l.made + c;
                    vec result = sums[i] + shift;
                    if (added) result += load(added + pixel);
                    if (l.relu) result = result < vec{} ? vec{} : result;
                    store(y + pixel, result);
                }
            }
        }
    }
};

}  // namespace
