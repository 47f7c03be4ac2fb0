// Probabilities of a frame, averaged with those of the frame before (models/inference/smoothing.py), in one pass: softmax,
// the share of the past, what it was where each pixel was, and the sum of both.

#pragma once

#include "cpu_common.h"

namespace {

struct AverageCall {
    static constexpr long kPixels = 64 * kLanes;  // of a task
    long pixels, classes, class_stride, pixel_stride;  // one of the strides is 1
    float weight, sure;
    const float *logits, *before;  // before: (pixels) (classes), or null
    const int32_t* index;          // each pixel's place in it, or null: where it is
    const float* trust;
    float* out;  // (pixels) (classes)

    struct Scratch {
        Floats planes;  // [class][pixel]
        explicit Scratch(const AverageCall& c) : planes(Shape::up(c.classes, kLanes) * kLanes) {}
    };

    void task(long number, Scratch& s) const {
        for (long at = number * kPixels; at < std::min(pixels, (number + 1) * kPixels); at += kLanes) {
            const long valid = std::min<long>(kLanes, pixels - at);
            read(s.planes.data, at, valid);
            const vec inverse = exponentials(s.planes.data);
            vec share = all(weight);
            if (before && index) share *= load_part(trust + at, valid) * (1.f - sure * inverse);
            write(s.planes.data, inverse, share, at, valid);
        }
    }

    void read(float* planes, long at, long valid) const {
        const float* from = logits + at * pixel_stride;
        if (pixel_stride == 1) {
            for (long k = 0; k < classes; k++) store(planes + k * kLanes, load_part(from + k * class_stride, valid));
            return;
        }
        for (long k = 0; k < classes; k += kLanes) {
            vec m[kLanes];
            for (long i = 0; i < kLanes; i++)
                m[i] = i < valid ? load_part(from + i * pixel_stride + k, std::min<long>(kLanes, classes - k)) : vec{};
            transpose(m);
            for (long i = 0; i < kLanes; i++) store(planes + (k + i) * kLanes, m[i]);
        }
    }

    // Logits -> exponentials of what they are below the largest; returns the inverse of their sum: its probability.
    vec exponentials(float* planes) const {
        vec top = load(planes), sum{};
        for (long k = 1; k < classes; k++) top = maximum(load(planes + k * kLanes), top);
        for (long k = 0; k < classes; k++) {
            const vec e = exp2_of((load(planes + k * kLanes) - top) * kLog2e);
            store(planes + k * kLanes, e);
            sum += e;
        }
        return 1.f / sum;
    }

    void write(const float* planes, vec inverse, vec share, long at, long valid) const {
        for (long k = 0; k < classes; k += kLanes) {
            const long width = std::min<long>(kLanes, classes - k);
            vec m[kLanes];
            for (long i = 0; i < kLanes; i++) m[i] = i < width ? load(planes + (k + i) * kLanes) * inverse : vec{};
            transpose(m);
            for (long i = 0; i < valid; i++) {
                vec now = m[i];
                if (before) {
                    const vec past = load_part(before + (index ? index[at + i] : at + i) * classes + k, width);
                    now += share[i] * (past - now);
                }
                store_part(out + (at + i) * classes + k, now, width);
            }
        }
    }
};

}  // namespace
