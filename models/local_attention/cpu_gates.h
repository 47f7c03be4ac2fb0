// What a fusion computes around its convolutions, each in one pass: its prepared inputs, and the sum of two features of a
// pixel, each times the sigmoid of its gate.

#pragma once

#include "cpu_common.h"

namespace {

inline vec sigmoid(vec x) {
    const vec power = -kLog2e * x, most = all(126.f);
    return 1.f / (1.f + exp2_of(power > most ? most : power));
}

inline vec relu(vec x) { return x < vec{} ? vec{} : x; }

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

}  // namespace
