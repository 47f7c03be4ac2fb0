// A gated fusion: its prepared inputs; the sum of two features of a pixel, each times the sigmoid of its gate; and that sum
// in one pass with the convolutions that make gates and features.

#pragma once

#include "cpu_lines.h"

namespace {

inline vec sigmoid(vec x) {
    const vec power = -kLog2e * x, most = all(126.f);
    return 1.f / (1.f + exp2_of(power > most ? most : power));
}

struct PrepareCall {
    static constexpr long kPixels = 64;  // of a task
    long pixels, channels;
    const float *query, *read, *scale, *shift;
    float* out;

    void task(long index) const {
        for (long pixel = index * kPixels; pixel < std::min(pixels, (index + 1) * kPixels); pixel++) {
            float* to = out + 2 * pixel * channels;
            for (long c = 0; c < channels; c += kLanes) {
                store(to + c, relu(load(query + pixel * channels + c)));
                store(to + channels + c, relu(load(read + pixel * channels + c) * load(scale + c) + load(shift + c)));
            }
        }
    }
};

struct GateCall {
    static constexpr long kPixels = 64;  // of a task
    long pixels, channels, gates_channels;  // twice as many gates, or as many: then both features have the same
    const float *gates, *first, *second, *shift;
    float* out;

    void task(long index) const {
        for (long pixel = index * kPixels; pixel < std::min(pixels, (index + 1) * kPixels); pixel++) {
            const float *g = gates + pixel * gates_channels, *a = first + pixel * channels, *b = second + pixel * channels;
            for (long c = 0; c < channels; c += kLanes) {
                const vec gate = sigmoid(load(g + c));
                const vec other = gates_channels == channels ? gate : sigmoid(load(g + channels + c));
                const vec sum = load(shift + c) + gate * load(a + c) + other * load(b + c);
                store(out + pixel * channels + c, relu(sum));
            }
        }
    }
};

template <class Factor>
struct GatedScratch : LineScratch<Factor> {
    static constexpr long kPlaces = kOut * kColumns;
    Floats query, read;  // [place in the tile][channel of the block]: gates, the first then times its features
    explicit GatedScratch(const Lines& l) : LineScratch<Factor>(l), query(kPlaces * kBlock), read(kPlaces * kBlock) {}
};

// y = ReLU(sigmoid(gates) * features of the query + sigmoid(gates behind) * features of what was read + shift), where the gates
// are a convolution of all channels, and the features of one half of them each. No gate leaves the cache.
template <class Factor>
struct GatedCall {
    using Scratch = GatedScratch<Factor>;
    Lines l;
    const float* x;
    Filter<Factor> gates, query, read;  // twice as many gates as features, or as many: then both have the same
    const float* shift;
    float* y;

    void task(long index, Scratch& f) const {
        const Tile tile(l, index);
        if (tile.first >= l.length) return;
        read_inputs(l, tile, x, f);
        for (long block = 0; block < query.made; block += kBlock) {
            const auto first = [&](long place, long c) { return f.query.data + place * kBlock + c; };
            const auto second = [&](long place, long c) { return f.read.data + place * kBlock + c; };
            convolve(l, tile, gates, block, f, [&](long place, long, long c, vec sum) {
                const vec gate = sigmoid(sum);
                store(first(place, c), gate), store(second(place, c), gate);
            });
            if (gates.made > query.made)
                convolve(l, tile, gates, query.made + block, f,
                         [&](long place, long, long c, vec sum) { store(second(place, c), sigmoid(sum)); });
            convolve(l, tile, query, block, f, [&](long place, long, long c, vec sum) {
                store(first(place, c), load(first(place, c)) * sum);
            });
            convolve(l, tile, read, block, f, [&](long place, long pixel, long c, vec sum) {
                const vec all = load(first(place, c)) + load(second(place, c)) * sum + load(shift + block + c);
                store(y + pixel * query.made + block + c, relu(all));
            });
        }
    }
};

}  // namespace
