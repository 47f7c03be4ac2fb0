// Convolutions of three taps along an axis, and one or three across it, of a channels-last frame, by Winograd's F(4, 3):
// four outputs of a line take six products of channel vectors instead of twelve (Winograd 1980; Lavin & Gray, Fast
// Algorithms for Convolutional Neural Networks, 2016). Three taps across go by F(2, 3): two outputs side by side take four
// products instead of six. With a dilation, positions that are as far apart make lines of
// their own.

#pragma once

#include "cpu_bfloat16.h"

namespace {

constexpr int kOut = 4, kIn = 6;  // outputs of a tile along the axis, and its inputs
constexpr int kColumns = 32;      // neighbors across the axis that are done at once: weights are read once for them
constexpr int kStep = 4;          // of these, whose sums are held in registers
constexpr float kPoint = 0.75f;   // models/line_convolution.py has it, too

struct Lines {
    long frames, length, count;  // positions along the axis, and lines across it
    long along, across;          // distances of neighbors, in pixels
    long read, made, pixel;      // channels, and those from one pixel to the next of what is read: it may be a part
    long taps, dilation;         // taps across the axis, 1 or 3; distance of those along it
    bool relu;
    long tiles() const { return dilation * ((length + dilation * kOut - 1) / (dilation * kOut)); }
    long groups() const { return (count + kColumns - 1) / kColumns; }
    long outputs() const { return taps == 3 ? 2 : 1; }  // of a unit: lines that are done together
    long inputs() const { return taps == 3 ? 4 : 1; }
    long units() const { return kColumns / outputs(); }
};

template <class Factor>
struct LineScratch {
    Floats in, out;  // [place along][place across][unit][channel], of `out` a block; of the factors in `in` two may share a float
    explicit LineScratch(const Lines& l)
        : in(kIn * l.inputs() * l.units() * l.read * sizeof(Factor) / sizeof(float)),
          out(kIn * l.inputs() * l.units() * kBlock) {}
    Factor* factors() { return reinterpret_cast<Factor*>(in.data); }
};

// out[unit][channel] = sum over k of in[unit][k] * weight[k][channel], for kStep units, DD vectors of channels, and k of all
// channels read. Of shorter factors as many as fill a float are multiplied at once: k is followed by its neighbors.
template <class Factor, int DD>
inline void products(const Lines& l, const Factor* in, const Factor* weight, float* out) {
    constexpr int together = sizeof(float) / sizeof(Factor);
    vec sum[kStep][DD];
#pragma GCC unroll 8
    for (int r = 0; r < kStep; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) sum[r][d] = vec{};
    for (long k = 0; k < l.read; k += together, weight += together * DD * kLanes) {
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
        for (int d = 0; d < DD; d++) store(out + r * kBlock + d * kLanes, sum[r][d]);
}

// The same for a block that is not a whole one.
template <class Factor, int DD = kDepth>
inline void products_of(long depth, const Lines& l, const Factor* in, const Factor* weight, float* out) {
    if (depth == DD) return products<Factor, DD>(l, in, weight, out);
    if constexpr (DD > 1) products_of<Factor, DD - 1>(depth, l, in, weight, out);
}

// Of an axis with the points 0, a, -a, 2a, -2a and infinity: what inputs are at them, and outputs of products there.
inline void transform_inputs(const vec (&d)[kIn], vec (&t)[kIn]) {
    constexpr float p = kPoint, p2 = p * p;
    const vec a = d[4] - 4 * p2 * d[2], b = p * (d[3] - 4 * p2 * d[1]);
    const vec e = d[4] - p2 * d[2], g = 2 * p * (d[3] - p2 * d[1]);
    t[0] = 4 * p2 * p2 * d[0] - 5 * p2 * d[2] + d[4];
    t[1] = a + b, t[2] = a - b, t[3] = e + g, t[4] = e - g;
    t[5] = 4 * p2 * p2 * d[1] - 5 * p2 * d[3] + d[5];
}
inline void transform_outputs(const vec (&m)[kIn], vec (&y)[kOut]) {
    constexpr float p = kPoint, p2 = p * p;
    const vec a = m[1] + m[2], b = m[1] - m[2], e = m[3] + m[4], g = m[3] - m[4];
    y[0] = m[0] + a + e, y[1] = p * (b + 2 * g), y[2] = p2 * (a + 4 * e), y[3] = p * p2 * (b + 8 * g) + m[5];
}

template <class Factor>
struct LineCall {
    using Scratch = LineScratch<Factor>;
    Lines l;
    const float* x;
    const Factor* weights;  // [place along][place across][block][channel read][channel of the block], channels read in pairs
    const float *bias, *added;
    float* y;

    void tile(long index, Scratch& f) const {
        const long group = index % l.groups(), tile = index / l.groups() % l.tiles();
        const long frame = index / l.groups() / l.tiles() * l.length * l.count;
        const long first = tile % l.dilation + tile / l.dilation * kOut * l.dilation;
        const long from = group * kColumns, columns = std::min<long>(kColumns, l.count - from);
        const long units = (columns + l.outputs() - 1) / l.outputs();
        if (first >= l.length) return;
        if (l.taps == 3) read<4>(f, x + frame * l.pixel, first, from, units);
        else read<1>(f, x + frame * l.pixel, first, from, units);
        for (long block = 0; block < l.made; block += kBlock) {
            const long width = std::min<long>(kBlock, l.made - block);
            for (long place = 0; place < kIn * l.inputs(); place++) {
                const Factor* w = weights + (place * l.made + block) * l.read;
                for (long unit = 0; unit < units; unit += kStep)
                    products_of(width / kLanes, l, f.factors() + (place * l.units() + unit) * l.read, w,
                                f.out.data + (place * l.units() + unit) * kBlock);
            }
            if (l.taps == 3) write<4>(f, frame, first, from, columns, block, width);
            else write<1>(f, frame, first, from, columns, block, width);
        }
    }

    template <int Inputs>
    void read(Scratch& f, const float* x, long first, long from, long units) const {
        constexpr long outputs = Inputs == 4 ? 2 : 1, reach = Inputs / 4;
        const long plane = l.units() * l.read;
        for (long unit = 0; unit < units; unit++) {
            const float* at[Inputs][kIn];
            for (int j = 0; j < Inputs; j++)
                for (int i = 0; i < kIn; i++) {
                    const long position = first + (i - 1) * l.dilation, line = from + unit * outputs + j - reach;
                    const bool inside = position >= 0 && position < l.length && line >= 0 && line < l.count;
                    at[j][i] = inside ? x + (position * l.along + line * l.across) * l.pixel : nullptr;
                }
            Factor* to = f.factors() + unit * l.read;
            for (long c = 0; c < l.read; c += kLanes, to += kLanes) {
                vec t[Inputs][kIn];
                for (int j = 0; j < Inputs; j++) {
                    vec d[kIn];
                    for (int i = 0; i < kIn; i++) d[i] = at[j][i] ? load(at[j][i] + c) : vec{};
                    transform_inputs(d, t[j]);
                }
                for (int i = 0; i < kIn; i++) {
                    if constexpr (Inputs == 1) {
                        put(to + i * plane, t[0][i]);
                    } else {
                        put(to + 4 * i * plane, t[0][i] - t[2][i]);
                        put(to + (4 * i + 1) * plane, t[1][i] + t[2][i]);
                        put(to + (4 * i + 2) * plane, t[2][i] - t[1][i]);
                        put(to + (4 * i + 3) * plane, t[1][i] - t[3][i]);
                    }
                }
            }
        }
    }

    template <int Inputs>
    void write(const Scratch& f, long frame, long first, long from, long columns, long block, long width) const {
        constexpr long outputs = Inputs == 4 ? 2 : 1;
        const long plane = l.units() * kBlock;
        for (long column = 0; column < columns; column += outputs) {
            const float* m = f.out.data + column / outputs * kBlock;
            for (long c = block; c < block + width; c += kLanes, m += kLanes) {
                vec sums[Inputs][kOut];
                for (int j = 0; j < Inputs; j++) {
                    vec at[kIn];
                    for (int i = 0; i < kIn; i++) at[i] = load(m + (i * Inputs + j) * plane);
                    transform_outputs(at, sums[j]);
                }
                for (int i = 0; i < kOut; i++) {
                    const long position = first + i * l.dilation;
                    if (position >= l.length) break;
                    const long pixel = frame + position * l.along + (from + column) * l.across;
                    if constexpr (Inputs == 1) {
                        finish(pixel, c, sums[0][i]);
                    } else {
                        finish(pixel, c, sums[0][i] + sums[1][i] + sums[2][i]);
                        if (column + 1 < columns) finish(pixel + l.across, c, sums[1][i] - sums[2][i] - sums[3][i]);
                    }
                }
            }
        }
    }

    // Writes kLanes channels of a pixel.
    void finish(long pixel, long c, vec sum) const {
        vec result = sum + load(bias + c);
        if (added) result += load(added + pixel * l.made + c);
        if (l.relu) result = result < vec{} ? vec{} : result;
        store(y + pixel * l.made + c, result);
    }
};

}  // namespace
