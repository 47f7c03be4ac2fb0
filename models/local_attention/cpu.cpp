// Windowed cross-frame attention on a CPU, float32: the C interface. One translation unit, compiled at first use.

#include "cpu_backward.h"
#include "cpu_forward.h"

namespace {

struct Size {
    Shape s;
    long threads;
    bool nhwc;  // values and output of the forward are channels-last: B T h w D and B h w D
    explicit Size(const long* z) : s(z[0], z[1], z[2], z[3], z[4], z[5], z[6]), threads(z[7]), nhwc(z[8]) {}
};

bool forward(const Size& z, GompParallel gomp, const float* query, const float* keys, const float* values,
             const float* sink, float* out, float* lse) {
    const Shape& s = z.s;
    const bool ready = z.nhwc && s.one_block();
    const Floats planes(s.planes_floats(s.C)), blocked(ready ? 0 : s.blocked_floats());
    const ForwardCall call{s, query, planes.data, ready ? values : blocked.data, sink, z.nhwc, out, lse};
    const auto pack_values = z.nhwc ? pack_blocked_from_last : pack_blocked;
    return pack_planes(s, s.C, keys, planes.data, z.threads, gomp) &&
           (ready || pack_values(s, values, blocked.data, z.threads, gomp)) &&
           parallel(
               s.B * s.rows * s.cols, z.threads, gomp, [&] { return std::make_unique<ForwardScratch>(s); },
               [&](long i, ForwardScratch& f) { call.tile(i, f); });
}

bool backward(const Size& z, GompParallel gomp, const float* grad, const float* query, const float* keys,
              const float* values, const float* sink, const float* out, const float* lse, float* dq, float* dk, float* dv,
              float* dsink) {
    const Shape& s = z.s;
    const Blocks c(s.C), d(s.D);
    const Strips strips(s);
    const bool scores = dq || dk;
    const long frames = s.B * s.T, tasks = frames * strips.count;
    const Floats delta(s.B * s.h * s.w), key_planes(s.planes_floats(s.C)), value_planes(scores ? s.planes_floats(s.D) : 0);
    const Floats frame_dq(dq ? frames * s.C * s.h * s.w : 0);
    BackwardCall call{s, c, d, strips, grad, query, lse, delta.data, key_planes.data, value_planes.data,
                      dq ? frame_dq.data : nullptr, nullptr, nullptr};
    const Floats strip_k(dk ? tasks * call.strip_floats(c) : 0), strip_v(dv ? tasks * call.strip_floats(d) : 0);
    call.dk = dk ? strip_k.data : nullptr;
    call.dv = dv ? strip_v.data : nullptr;
    if (!sum_products(s, grad, out, delta.data, z.threads, gomp)) return false;
    if (dsink) *dsink = sink_gradient(s, *sink, lse, delta.data);
    if (!scores && !dv) return true;
    if (!pack_planes(s, s.C, keys, key_planes.data, z.threads, gomp)) return false;
    if (scores && !pack_planes(s, s.D, values, value_planes.data, z.threads, gomp)) return false;
    const auto scratch = [&] { return std::make_unique<BackwardScratch>(s, c, d); };
    if (!parallel(tasks, z.threads, gomp, scratch, [&](long i, BackwardScratch& f) { call.task(i, f); })) return false;
    return parallel(frames * s.h, z.threads, gomp, no_scratch, [&](long i, None&) {
        if (dk) call.gather(strip_k.data, c, dk, i);
        if (dv) call.gather(strip_v.data, d, dv, i);
        if (dq && i / s.h % s.T == 0) call.gather_query(dq, i);
    });
}

}  // namespace

// All tensors contiguous float32. sizes: B C D T h w n threads nhwc. sink and any of the gradients may be null.
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
