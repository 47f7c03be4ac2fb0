// Windowed cross-frame attention, convolutions of three taps, fusions, averages of probabilities and labels of logits on a
// CPU, float32: the C interface. One translation unit, compiled at first use.

#include "cpu_average.h"
#include "cpu_backward.h"
#include "cpu_forward.h"
#include "cpu_fusion.h"
#include "cpu_labels.h"
#include "cpu_lines.h"

namespace {

struct Size {
    Shape s;
    long threads;
    bool nhwc;         // values and output of the forward are channels-last: B T h w D and B h w D
    bool in_bfloat16;  // products of the forward
    explicit Size(const long* z)
        : s(z[0], z[1], z[2], z[3], z[4], z[5], z[6]), threads(z[7]), nhwc(z[8]), in_bfloat16(z[9] && kHasBfloat16) {}
};

bool forward(const Size& z, GompParallel gomp, const float* query, const float* keys, const float* values,
             const float* sink, float* out, float* lse) {
    const Shape& s = z.s;
    const bool ready = z.nhwc && s.one_block();
    const Floats planes(s.planes_floats(places_of(s.C, z.in_bfloat16))), blocked(ready ? 0 : s.blocked_floats());
    const auto pack_keys = z.in_bfloat16 ? pack_planes<bfloat16> : pack_planes<float>;
    const auto pack_values = z.nhwc ? pack_blocked_from_last : pack_blocked;
    if (!pack_keys(s, s.C, keys, planes.data, z.threads, gomp)) return false;
    if (!ready && !pack_values(s, values, blocked.data, z.threads, gomp)) return false;
    const float* packed = ready ? values : blocked.data;
#if defined(__AVX512BF16__)
    const Floats pairs(z.in_bfloat16 ? Pairs(s).floats(s) : 0);
    if (z.in_bfloat16) {
        if (!pack_pairs(s, packed, pairs.data, z.threads, gomp)) return false;
        packed = pairs.data;
    }
#endif
    const ForwardCall call{s, query, planes.data, packed, sink, z.nhwc, z.in_bfloat16, out, lse};
    return parallel(
        s.B * s.rows * s.cols, z.threads, gomp, [&] { return std::make_unique<ForwardScratch>(s, z.in_bfloat16); },
        [&](long i, ForwardScratch& f) { call.tile(i, f); });
}

bool backward(const Size& z, GompParallel gomp, const float* grad, const float* query, const float* keys,
              const float* values, const float* sink, const float* out, const float* lse, float* dq, float* dk, float* dv,
              float* dsink) {
    const Shape &s = z.s, queries(s.B, s.C, s.C, 1, s.h, s.w, s.n), grads(s.B, s.C, s.D, 1, s.h, s.w, s.n);
    const bool scores = dq || dk;
    const long pixels = s.B * s.h * s.w;
    const Floats delta(pixels);
    if (!sum_products(s, grad, out, delta.data, z.threads, gomp)) return false;
    if (dsink) *dsink = sink_gradient(s, *sink, lse, delta.data);
    if (!scores && !dv) return true;

    const Floats query_planes(queries.planes_floats(s.C)), grad_planes(scores ? queries.planes_floats(s.D) : 0);
    const Floats lse_planes(queries.planes_floats(1)), delta_planes(queries.planes_floats(1));
    const Floats query_blocks(dk ? queries.blocked_floats() : 0), grad_blocks(dv ? grads.blocked_floats() : 0);
    if (!pack_planes<float>(queries, s.C, query, query_planes.data, z.threads, gomp) ||
        !pack_planes<float>(queries, 1, lse, lse_planes.data, z.threads, gomp) ||
        !pack_planes<float>(queries, 1, delta.data, delta_planes.data, z.threads, gomp) ||
        (scores && !pack_planes<float>(queries, s.D, grad, grad_planes.data, z.threads, gomp)) ||
        (dk && !pack_blocked(queries, query, query_blocks.data, z.threads, gomp)) ||
        (dv && !pack_blocked(grads, grad, grad_blocks.data, z.threads, gomp)))
        return false;

    BackwardCall call{s, queries, grads, Strips(s), keys, values, query_planes.data, grad_planes.data, lse_planes.data,
                      delta_planes.data, query_blocks.data, grad_blocks.data, nullptr, dk, dv};
    const long tasks = s.B * s.T * call.strips.count;
    const Floats strips(dq ? tasks * call.strip_floats() : 0);
    call.dq = dq ? strips.data : nullptr;
    const auto scratch = [&] { return std::make_unique<BackwardScratch>(queries, grads); };
    if (!parallel(tasks, z.threads, gomp, scratch, [&](long i, BackwardScratch& f) { call.task(i, f); })) return false;
    return !dq || parallel(s.B * s.h, z.threads, gomp, no_scratch, [&](long i, None&) { call.gather(dq, i); });
}

template <class Call>
bool all_tiles(const Call& call, long threads, GompParallel gomp) {
    using Scratch = typename Call::Scratch;
    return parallel(
        call.l.tasks(), threads, gomp, [&] { return std::make_unique<Scratch>(call.l); },
        [&](long i, Scratch& f) { call.task(i, f); });
}

template <class Factor>
Filter<Factor> filter_of(const void* weights, const float* bias, long first, long read, long made) {
    return {static_cast<const Factor*>(weights), bias, first, read, made};
}

template <class Factor>
bool line_convolution_of(const Lines& l, long made, bool relu, long threads, GompParallel gomp, const float* x,
                         const void* weights, const float* bias, const float* added, float* y) {
    return all_tiles(LineCall<Factor>{l, x, filter_of<Factor>(weights, bias, 0, l.read, made), added, relu, y}, threads, gomp);
}

template <class Factor>
bool gated_fusion_of(const Lines& l, long made, bool one_gate, long threads, GompParallel gomp, const float* query,
                     const float* read, const float* read_scale, const float* read_shift, const void* const* weights,
                     const float* const* biases, const float* shift, float* y) {
    const long half = l.read / 2;
    const auto gates = filter_of<Factor>(weights[0], biases[0], 0, l.read, one_gate ? made : 2 * made);
    const auto query_features = filter_of<Factor>(weights[1], biases[1], 0, half, made);
    const auto read_features = filter_of<Factor>(weights[2], biases[2], half, half, made);
    return all_tiles(
        GatedCall<Factor>{l, query, read, read_scale, read_shift, gates, query_features, read_features, shift, y}, threads, gomp);
}

template <class Factor>
bool residual_fusion_of(const Lines& reduced, const Lines& changed, long threads, GompParallel gomp, const float* query,
                        const float* read, const void* reduce, const float* reduce_bias, const void* gate,
                        const float* gate_bias, float* y) {
    const long channels = reduced.pixel, hidden = changed.read;
    const Floats between(reduced.frames * reduced.length * reduced.count * hidden);
    const auto first = filter_of<Factor>(reduce, reduce_bias, 0, reduced.read, hidden);
    const auto second = filter_of<Factor>(gate, gate_bias, 0, hidden, channels);
    return all_tiles(ReduceCall<Factor>{reduced, query, read, first, between.data}, threads, gomp) &&
           all_tiles(ChangeCall<Factor>{changed, between.data, query, read, second, y}, threads, gomp);
}

// Of a 3x3 convolution of frames B h w with so many channels read, and as many or fewer from one pixel to the next.
Lines rows_of(long B, long h, long w, long read, long pixel) { return {B, w, h, 1, w, read, pixel, 3, 1}; }

}  // namespace

// All tensors contiguous float32. sizes: B C D T h w n threads nhwc bfloat16. sink and any of the gradients may be null.
// Both return 0, or 1 if memory ran out.
extern "C" int local_attention_forward(const long* sizes, GompParallel gomp, const float* query, const float* keys,
                                       const float* values, const float* sink, float* out, float* lse) try {
    return !forward(Size(sizes), gomp, query, keys, values, sink, out, lse);
} catch (const std::bad_alloc&) {
    return 1;
}

extern "C" int local_attention_backward(const long* sizes, GompParallel gomp, const float* grad, const float* query,
                                        const float* keys, const float* values, const float* sink, const float* out,
                                        const float* lse, float* dq, float* dk, float* dv, float* dsink) try {
    return !backward(Size(sizes), gomp, grad, query, keys, values, sink, out, lse, dq, dk, dv, dsink);
} catch (const std::bad_alloc&) {
    return 1;
}

// Channels read by line_convolution come in multiples of the first, and those made in multiples of the second, whose
// weights lie in blocks of the first.
extern "C" int line_block() { return kBlock; }
extern "C" int line_lanes() { return kLanes; }

// Whether pairs of bfloat16 are multiplied at once here.
extern "C" int has_bfloat16() { return kHasBfloat16; }

// y = a convolution of x of three taps along an axis, plus what is added, B h w (channels); see cpu_lines.h.
// sizes: B length count along across read made taps dilation relu threads bfloat16 (which weights are of), channels from a
// pixel of x to the next. added may be null.
extern "C" int line_convolution(const long* z, GompParallel gomp, const float* x, const void* weights, const float* bias,
                                const float* added, float* y) try {
    const Lines l{z[0], z[1], z[2], z[3], z[4], z[5], z[12], z[7], z[8]};
#if defined(__AVX512BF16__)
    if (z[11]) return !line_convolution_of<bfloat16>(l, z[6], z[9], z[10], gomp, x, weights, bias, added, y);
#endif
    return !line_convolution_of<float>(l, z[6], z[9], z[10], gomp, x, weights, bias, added, y);
} catch (const std::bad_alloc&) {
    return 1;
}

// y = a gated fusion, B h w (made), of a query and what was read, B h w (channels) each; see cpu_fusion.h. read_scale and
// read_shift may be null. sizes: B h w channels made one_gate threads bfloat16 (which weights are of).
extern "C" int gated_fusion(const long* z, GompParallel gomp, const float* query, const float* read, const float* read_scale,
                            const float* read_shift, const void* gates, const float* gates_bias, const void* query_features,
                            const float* query_bias, const void* read_features, const float* read_bias, const float* shift,
                            float* y) try {
    const Lines l = rows_of(z[0], z[1], z[2], 2 * z[3], z[3]);
    const void* const weights[] = {gates, query_features, read_features};
    const float* const biases[] = {gates_bias, query_bias, read_bias};
    const auto call = [&](auto of) {
        return !of(l, z[4], z[5], z[6], gomp, query, read, read_scale, read_shift, weights, biases, shift, y);
    };
#if defined(__AVX512BF16__)
    if (z[7]) return call(gated_fusion_of<bfloat16>);
#endif
    return call(gated_fusion_of<float>);
} catch (const std::bad_alloc&) {
    return 1;
}

// y = a residual fusion of a query and what was read, B h w (channels) each; see cpu_fusion.h.
// sizes: B h w channels hidden threads bfloat16 (which weights are of).
extern "C" int residual_fusion(const long* z, GompParallel gomp, const float* query, const float* read, const void* reduce,
                               const float* reduce_bias, const void* gate, const float* gate_bias, float* y) try {
    const Lines reduced = rows_of(z[0], z[1], z[2], 3 * z[3], z[3]), changed = rows_of(z[0], z[1], z[2], z[4], z[4]);
    const auto call = [&](auto of) {
        return !of(reduced, changed, z[5], gomp, query, read, reduce, reduce_bias, gate, gate_bias, y);
    };
#if defined(__AVX512BF16__)
    if (z[6]) return call(residual_fusion_of<bfloat16>);
#endif
    return call(residual_fusion_of<float>);
} catch (const std::bad_alloc&) {
    return 1;
}

// out = softmax of the logits, averaged with the rows of `before`; see cpu_average.h. before, index and trust may be null.
// sizes: pixels, classes, strides of class and pixel, threads; factors: weight, sure.
extern "C" int average(const long* z, GompParallel gomp, const float* logits, const float* before, const int32_t* index,
                       const float* trust, const float* factors, float* out) try {
    const AverageCall call{z[0], z[1], z[2], z[3], factors[0], factors[1], logits, before, index, trust, out};
    return !parallel((call.pixels + AverageCall::kPixels - 1) / AverageCall::kPixels, z[4], gomp,
                     [&] { return std::make_unique<AverageCall::Scratch>(call); },
                     [&](long i, AverageCall::Scratch& s) { call.task(i, s); });
} catch (const std::bad_alloc&) {
    return 1;
}

// sizes: K h w H W, strides of class, row and column, threads. out: H W; finite: whether all logits that were read are.
// Returns 0, or 1 if memory ran out.
extern "C" int labels_of_logits(const long* z, GompParallel gomp, const float* logits, const int32_t* first_row,
                                const float* row_weight, const int32_t* first_column, const float* column_weight,
                                uint8_t* out, bool* is_finite) try {
    std::atomic<bool> finite{true};
    const LabelCall call{z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7], logits,
                         first_row, first_column, row_weight, column_weight, out, &finite};
    const bool done = parallel(
        (call.H + LabelCall::kBand - 1) / LabelCall::kBand, z[8], gomp,
        [&] { return std::make_unique<LabelCall::Scratch>(call); },
        [&](long band, LabelCall::Scratch& s) { call.task(band, s); });
    *is_finite = finite;
    return !done;
} catch (const std::bad_alloc&) {
    return 1;
}
