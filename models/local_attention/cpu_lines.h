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
    long read, pixel;            // channels of a tile's inputs, and those from one pixel to the next where they lie
    long taps, dilation;         // taps across the axis, 1 or 3; distance of those along it
    long tiles() const { return dilation * ((length + dilation * kOut - 1) / (dilation * kOut)); }
    long groups() const { return (count + kColumns - 1) / kColumns; }
    long outputs() const { return taps == 3 ? 2 : 1; }  // of a unit: lines that are done together
    long inputs() const { return taps == 3 ? 4 : 1; }
    long units() const { return kColumns / outputs(); }
    long tasks() const { return frames * tiles() * groups(); }
};

// A filter at the points; the first of a tile's channels that it reads, how many it reads, and how many it makes.
template <class Factor>
struct Filter {
    const Factor* weights;  // [place along][place across][block][channel read][channel of the block], channels read in pairs
    const float* bias;
    long first, read, made;
};

// What is done at once: kOut positions along the axis of up to kColumns lines.
struct Tile {
    long frame, first, from, columns, units;  // first pixel of the frame; position; first line, lines, units of them
    Tile(const Lines& l, long index) {
        const long group = index % l.groups(), along = index / l.groups() % l.tiles();
        frame = index / l.groups() / l.tiles() * l.length * l.count;
        first = along % l.dilation + along / l.dilation * kOut * l.dilation;
        from = group * kColumns, columns = std::min<long>(kColumns, l.count - from);
        units = (columns + l.outputs() - 1) / l.outputs();
    }
};

template <class Factor>
struct LineScratch {
    Floats in, out;  // [place along][place across][unit][channel], of `out` a block; of the factors in `in` two may share a float
    explicit LineScratch(const Lines& l)
        : in(kIn * l.inputs() * l.units() * l.read * sizeof(Factor) / sizeof(float)),
          out(kIn * l.inputs() * l.units() * kBlock) {}
    Factor* factors() { return reinterpret_cast<Factor*>(in.data); }
};

// out[unit][channel] = sum over k of in[unit][k] * weight[k][channel], for kStep units `stride` apart, DD vectors of channels,
// and k of `read` channels. Of shorter factors as many as fill a float are multiplied at once: k is followed by its neighbors.
template <class Factor, int DD>
inline void products(long read, long stride, const Factor* in, const Factor* weight, float* out) {
    constexpr int together = sizeof(float) / sizeof(Factor);
    vec sum[kStep][DD];
#pragma GCC unroll 8
    for (int r = 0; r < kStep; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) sum[r][d] = vec{};
    for (long k = 0; k < read; k += together, weight += together * DD * kLanes) {
        vec w[DD];
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) w[d] = held(reinterpret_cast<const float*>(weight + d * together * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < kStep; r++) {
            const vec x = all_of(in + r * stride + k);
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
inline void products_of(long depth, long read, long stride, const Factor* in, const Factor* weight, float* out) {
    if (depth == DD) return products<Factor, DD>(read, stride, in, weight, out);
    if constexpr (DD > 1) products_of<Factor, DD - 1>(depth, read, stride, in, weight, out);
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

// Channels first to first + count of a tile's inputs, at the points. value(at, c) are kLanes of them from c on, of a pixel
// whose channel c lies at `at`, counted from the frames' beginning.
template <int Inputs, class Factor, class Value>
void read_inputs_of(const Lines& l, const Tile& tile, LineScratch<Factor>& f, long first, long count, const Value& value) {
    constexpr long outputs = Inputs == 4 ? 2 : 1, reach = Inputs / 4;
    const long plane = l.units() * l.read;
    for (long unit = 0; unit < tile.units; unit++) {
        long at[Inputs][kIn];  // -1: outside
        for (int j = 0; j < Inputs; j++)
            for (int i = 0; i < kIn; i++) {
                const long position = tile.first + (i - 1) * l.dilation, line = tile.from + unit * outputs + j - reach;
                const bool inside = position >= 0 && position < l.length && line >= 0 && line < l.count;
                at[j][i] = inside ? (tile.frame + position * l.along + line * l.across) * l.pixel : -1;
            }
        Factor* to = f.factors() + unit * l.read + first;
        for (long c = 0; c < count; c += kLanes, to += kLanes) {
            vec t[Inputs][kIn];
            for (int j = 0; j < Inputs; j++) {
                vec d[kIn];
                for (int i = 0; i < kIn; i++) d[i] = at[j][i] >= 0 ? value(at[j][i] + c, c) : vec{};
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

template <class Factor, class Value>
void read_inputs(const Lines& l, const Tile& tile, LineScratch<Factor>& f, long first, long count, const Value& value) {
    if (l.taps == 3) read_inputs_of<4>(l, tile, f, first, count, value);
    else read_inputs_of<1>(l, tile, f, first, count, value);
}

// Of what `products` made at the points, the convolution with its bias: take(place, pixel, c, sum) gets kLanes channels c of
// the block at a pixel, whose place in the tile is below kOut * kColumns.
template <int Inputs, class Factor, class Take>
void take_outputs(const Lines& l, const Tile& tile, const float* bias, long width, const LineScratch<Factor>& f,
                  const Take& take) {
    constexpr long outputs = Inputs == 4 ? 2 : 1;
    const long plane = l.units() * kBlock;
    for (long column = 0; column < tile.columns; column += outputs) {
        const float* m = f.out.data + column / outputs * kBlock;
        for (long c = 0; c < width; c += kLanes, m += kLanes) {
            vec sums[Inputs][kOut];
            for (int j = 0; j < Inputs; j++) {
                vec at[kIn];
                for (int i = 0; i < kIn; i++) at[i] = load(m + (i * Inputs + j) * plane);
                transform_outputs(at, sums[j]);
            }
            const vec shift = load(bias + c);
            for (int i = 0; i < kOut; i++) {
                const long position = tile.first + i * l.dilation, place = i * kColumns + column;
                if (position >= l.length) break;
                const long pixel = tile.frame + position * l.along + (tile.from + column) * l.across;
                if constexpr (Inputs == 1) {
                    take(place, pixel, c, sums[0][i] + shift);
                } else {
                    take(place, pixel, c, sums[0][i] + sums[1][i] + sums[2][i] + shift);
                    if (column + 1 < tile.columns)
                        take(place + 1, pixel + l.across, c, sums[1][i] - sums[2][i] - sums[3][i] + shift);
                }
            }
        }
    }
}

// A block of the channels that a filter makes of a tile's inputs, kBlock of them or what is left.
template <class Factor, class Take>
void convolve(const Lines& l, const Tile& tile, const Filter<Factor>& filter, long block, LineScratch<Factor>& f,
              const Take& take) {
    const long width = std::min<long>(kBlock, filter.made - block);
    for (long place = 0; place < kIn * l.inputs(); place++) {
        const Factor* weights = filter.weights + (place * filter.made + block) * filter.read;
        for (long unit = 0; unit < tile.units; unit += kStep)
            products_of(width / kLanes, filter.read, l.read,
                        f.factors() + (place * l.units() + unit) * l.read + filter.first, weights,
                        f.out.data + (place * l.units() + unit) * kBlock);
    }
    if (l.taps == 3) take_outputs<4>(l, tile, filter.bias + block, width, f, take);
    else take_outputs<1>(l, tile, filter.bias + block, width, f, take);
}

// All channels that a filter makes of a tile's inputs: take(at, sum) gets kLanes of them, of a result B h w (made) that lie at
// `at` there.
template <class Factor, class Take>
void convolve_all(const Lines& l, const Tile& tile, const Filter<Factor>& filter, LineScratch<Factor>& f, const Take& take) {
    for (long block = 0; block < filter.made; block += kBlock)
        convolve(l, tile, filter, block, f,
                 [&](long, long pixel, long c, vec sum) { take(pixel * filter.made + block + c, sum); });
}

template <class Factor>
struct LineCall {
    using Scratch = LineScratch<Factor>;
    Lines l;
    const float* x;
    Filter<Factor> filter;
    const float* added;
    bool with_relu;
    float* y;

    void task(long index, Scratch& f) const {
        const Tile tile(l, index);
        if (tile.first >= l.length) return;
        read_inputs(l, tile, f, 0, l.read, [&](long at, long) { return load(x + at); });
        convolve_all(l, tile, filter, f, [&](long at, vec sum) {
            if (added) sum += load(added + at);
            store(y + at, with_relu ? relu(sum) : sum);
        });
    }
};

}  // namespace
