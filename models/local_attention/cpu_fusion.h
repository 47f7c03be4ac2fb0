// Fusions of a query with what was read, B h w (channels) each, with their convolutions: no gate leaves the cache.

#pragma once

#include "cpu_lines.h"

namespace {

inline vec sigmoid(vec x) {
    const vec power = -kLog2e * x, most = all(126.f);
    return 1.f / (1.f + exp2_of(power > most ? most : power));
}

template <class Factor>
struct GatedScratch : LineScratch<Factor> {
    static constexpr long kPlaces = kOut * kColumns;
    Floats query, read;  // [place in the tile][channel of the block]: gates, the first then times its features
    explicit GatedScratch(const Lines& l) : LineScratch<Factor>(l), query(kPlaces * kBlock), read(kPlaces * kBlock) {}
};

// y = ReLU(sigmoid(gates) * features of the query + sigmoid(gates behind) * features of what was read + shift), where the gates
// are a convolution of all channels, and the features of one half of them each. Both inputs are prepared before: the ReLU of
// the query, and of what was read times its scale plus its shift.
template <class Factor>
struct GatedCall {
    using Scratch = GatedScratch<Factor>;
    Lines l;
    const float *query, *read;
    const float *read_scale, *read_shift;  // null where the inputs are as they come
    Filter<Factor> gates, query_features, read_features;  // twice as many gates as features, or as many: one for both
    const float* shift;
    float* y;

    void task(long index, Scratch& f) const {
        const Tile tile(l, index);
        if (tile.first >= l.length) return;
        read_both(tile, f);
        const long made = query_features.made;
        const auto first = [&](long place, long c) { return f.query.data + place * kBlock + c; };
        const auto second = [&](long place, long c) { return f.read.data + place * kBlock + c; };
        for (long block = 0; block < made; block += kBlock) {
            convolve(l, tile, gates, block, f, [&](long place, long, long c, vec sum) {
                const vec gate = sigmoid(sum);
                store(first(place, c), gate), store(second(place, c), gate);
            });
            if (gates.made > made)
                convolve(l, tile, gates, made + block, f,
                         [&](long place, long, long c, vec sum) { store(second(place, c), sigmoid(sum)); });
            convolve(l, tile, query_features, block, f, [&](long place, long, long c, vec sum) {
                store(first(place, c), load(first(place, c)) * sum);
            });
            convolve(l, tile, read_features, block, f, [&](long place, long pixel, long c, vec sum) {
                const vec both = load(first(place, c)) + load(second(place, c)) * sum + load(shift + block + c);
                store(y + pixel * made + block + c, relu(both));
            });
        }
    }

    void read_both(const Tile& tile, Scratch& f) const {
        const long half = l.read / 2;
        if (!read_scale) {
            read_inputs(l, tile, f, 0, half, [&](long at, long) { return load(query + at); });
            read_inputs(l, tile, f, half, half, [&](long at, long) { return load(read + at); });
        } else {
            read_inputs(l, tile, f, 0, half, [&](long at, long) { return relu(load(query + at)); });
            read_inputs(l, tile, f, half, half, [&](long at, long c) {
                return relu(load(read + at) * load(read_scale + c) + load(read_shift + c));
            });
        }
    }
};

// The first half of a residual fusion: hidden = ReLU of a convolution of the query, what was read, and the absolute
// difference of both, side by side.
template <class Factor>
struct ReduceCall {
    using Scratch = LineScratch<Factor>;
    Lines l;
    const float *query, *read;
    Filter<Factor> filter;
    float* hidden;

    void task(long index, Scratch& f) const {
        const Tile tile(l, index);
        if (tile.first >= l.length) return;
        const long third = l.read / 3;
        read_inputs(l, tile, f, 0, third, [&](long at, long) { return load(query + at); });
        read_inputs(l, tile, f, third, third, [&](long at, long) { return load(read + at); });
        read_inputs(l, tile, f, 2 * third, third, [&](long at, long) {
            const vec change = load(read + at) - load(query + at);
            return change < vec{} ? -change : change;
        });
        convolve_all(l, tile, filter, f, [&](long at, vec sum) { store(hidden + at, relu(sum)); });
    }
};

// The second half: y = a convolution of what is hidden, times the difference of what was read to the query.
template <class Factor>
struct ChangeCall {
    using Scratch = LineScratch<Factor>;
    Lines l;
    const float *hidden, *query, *read;
    Filter<Factor> filter;
    float* y;

    void task(long index, Scratch& f) const {
        const Tile tile(l, index);
        if (tile.first >= l.length) return;
        read_inputs(l, tile, f, 0, l.read, [&](long at, long) { return load(hidden + at); });
        convolve_all(l, tile, filter, f,
                     [&](long at, vec sum) { store(y + at, sum * (load(read + at) - load(query + at))); });
    }
};

}  // namespace
