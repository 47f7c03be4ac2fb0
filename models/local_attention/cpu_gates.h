// The gated sum of a fusion: two features of a pixel, each times the sigmoid of its gate, in one pass.

#pragma once

#include "cpu_common.h"

namespace {

inline vec sigmoid(vec x) {
    const vec power = -kLog2e * x, most = all(126.f);
    return 1.f / (1.f + exp2_of(power > most ? most : power));
}

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
                store(out + pixel * channels + c, sum < vec{} ? vec{} : sum);
            }
        }
    }
};

}  // namespace
